"""SIGTERM: save first when asked to, else end as any process does."""

import os
import signal
import subprocess
import sys

import pytest

SCRIPT = """
import nsml, os, time
{}
print('READY', flush=True)
while True: time.sleep(0.01)
"""
BIND = "nsml.bind(save=lambda path: open(path + '/f', 'w').close())"


def ended(node, preparing):
    """What a session printed, and how it ended, after SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(preparing)],
        env=node.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = process.stdout.readline()
    os.kill(process.pid, signal.SIGTERM)
    said += process.communicate(timeout=20)[0]
    node.run("import nsml")
    return said, process.returncode


def test_asked_to_save_it_saves_and_ends(node):
    (node.spool / "inbox" / "save").touch()
    said, code = ended(node, BIND)
    assert code == -signal.SIGTERM and node.checkpoints() == {"preempted": ["f"]}, said
    assert not (node.spool / "inbox" / "save").exists()


def test_not_asked_it_just_ends(node):
    assert ended(node, BIND) == ("READY\n", -signal.SIGTERM)
    assert node.checkpoints() == {}


def test_a_save_that_fails_does_not_keep_it_alive(node):
    (node.spool / "inbox" / "save").touch()
    said, code = ended(node, "nsml.bind(save=lambda path: 1 / 0)")
    assert code == -signal.SIGTERM and "NSML warning" in said


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_script_that_handles_the_signal_itself_still_does(node, order):
    (node.spool / "inbox" / "save").touch()
    own = "import signal; signal.signal(signal.SIGTERM, lambda *_: (print('OWN'), os._exit(3)))"
    lines = [own, BIND] if order == "before" else [BIND, own]
    said, code = ended(node, "\n".join([*lines, "import sys; sys.stdout.reconfigure(line_buffering=True)"]))
    assert code == 3 and "OWN" in said and node.checkpoints() == {}


def test_a_worker_neither_saves_nor_lingers(node):
    (node.spool / "inbox" / "save").touch()
    said = node.run(f"""
        import nsml, os, signal, time
        {BIND}
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
        os.kill(pid, signal.SIGTERM)
        print('ENDED', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """)
    assert "ENDED -15" in said and node.checkpoints() == {}


def test_bound_in_a_thread_it_does_no_harm(node):
    said = node.run(f"""
        import nsml, threading
        thread = threading.Thread(target=lambda: {BIND}); thread.start(); thread.join()
        print('FINE')
    """)
    assert said == "FINE\n"
