"""Bad input and faults as users meet them: a sentence with the next step, a fixed exit code, nothing lost."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from homes import Home, packed, refused, sha

X = sha(b"x")
MAIN = "print('hi')\n"
SLEEPS = "import time\nprint('up', flush=True)\ntime.sleep(60)\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    limits = {"NSML_DISK_LIMIT": "20M", "NSML_LOG_LIMIT": "4M", "NSML_PROCESSES": "60"}
    home = Home(tmp_path_factory.mktemp("home"), NSML_GPU="static:4", **limits)
    assert home("up", "--detach").code == 0
    yield home
    assert home("down", "--all").code == 0
    log = (home.nsml / "platform.log").read_text()
    assert "Traceback" not in log and " ERROR " not in log, log[-3000:]
    assert home.token not in log


@pytest.fixture
def folder(home: Home) -> Path:
    return home.code("plain", MAIN)


# -- what is typed -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nothere.py"], 2, "no file nothere.py"),
        (["-d", "nope"], 102, "no dataset nope"),
        (["-d", "../x"], 2, "cannot name"),
        (["-g", "9"], 107, "9 GPUs wanted"),
        (["-g", "-1"], 2, "-1"),
        (["-c", "inf"], 2, "infinite"),
        (["-a", '--x "unterminated'], 2, "no closing quotation"),
        (["--memory", "12X"], 2, "not a size"),
        (["--max-time", "3y"], 2, "not a duration"),
        (["--env", "A B=1"], 2, "not a variable"),
        (["--", b"\xff\xfe"], 2, "not UTF-8"),
    ],
)
def test_a_run_that_cannot_be_is_refused_in_words(
    home: Home, folder: Path, words: list[str], code: int, said: str
) -> None:
    before = home("ps", "-a", "-q").out
    refused(home("run", *words, cwd=folder), code, said)
    assert home("ps", "-a", "-q").out == before


def test_code_over_the_limits_is_not_sent(home: Home) -> None:
    many = home.code("many", MAIN, **{f"f{i}": "x" for i in range(100)})
    refused(home("run", cwd=many), 2, "100", ".nsmlignore")
    large = home.code("large", MAIN)
    with (large / "big").open("wb") as file:
        file.truncate(51 << 20)
    refused(home("run", cwd=large), 2, "51 MB", "dataset push")
    refused(home("run", cwd=home.path), 2, "no file main.py")


@pytest.mark.parametrize("name", ["99", "alice/x/99", "../x", "bob/x/1", "a/b/c/d", ""])
def test_a_session_that_is_not_there_is_not_found(home: Home, name: str) -> None:
    for words in (["logs"], ["stop"]):
        refused(home(*words, name), 2 if name in ("", "a/b/c/d") else 102, "nsml ps -a")


@pytest.mark.parametrize("name", ["../x", "-rf", "a" * 300, "😀", "", "a b", "$where", "a\x1b[31m"])
def test_a_dataset_with_an_impossible_name_is_refused(home: Home, name: str) -> None:
    done = home("dataset", "push", "--", name, str(home.path))
    refused(done, 2, "cannot name a dataset")
    assert "\x1b" not in done.err


def test_what_is_no_data_cannot_be_pushed(home: Home) -> None:
    empty = home.path / "empty"
    empty.mkdir()
    refused(home("dataset", "push", "d", "empty"), 2, "no files")
    refused(home("dataset", "push", "d", "nothere"), 2, "does not exist")
    refused(home("dataset", "push", "d", "/dev/null"), 2, "neither a folder nor a file")


def test_only_files_inside_the_folder_are_pushed(home: Home) -> None:
    data = home.path / "odd"
    (data / "sub").mkdir(parents=True)
    (data / "a.txt").write_text("a")
    (data / "sub" / "inside").symlink_to("../a.txt")
    (data / "out").symlink_to("/etc/passwd")
    (data / "broken").symlink_to("nowhere")
    (data / "loop").symlink_to("loop")
    os.mkfifo(data / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(data / "sock"))
        done = home("dataset", "push", "odd", str(data))
    assert done.code == 0 and done.err.count("Skipped") == 5, done.err
    files = [file["path"] for file in home("dataset", "fs", "odd", "--json").json]
    assert files == ["train/a.txt", "train/sub/inside"]


@pytest.mark.parametrize("argument", ["a" * 30_720, "", "한글 é 😀", 'say "hi"', "-x"])
def test_every_argument_arrives_as_it_was_typed(home: Home, argument: str) -> None:
    _, row, log = home.run("import sys; print(ascii(sys.argv[1:]))", "--", argument)
    assert row["exit"] == 0 and log.startswith(ascii([argument]))


def test_control_characters_never_reach_a_table(home: Home) -> None:
    script = "import nsml\nprint('\\x1b[31mred')\nnsml.report(step=1, **{'\\x1b[1mloss': 1, 'a.b$c': float('nan')})"
    session, row, log = home.run(script, "-m", "evil \x1b[2J\nmemo", "-a", "'\x1b]0;title\x07'")
    assert row["exit"] == 0 and log.startswith("\x1b[31mred\n")
    for words in (["ps", "-a"], ["ps", "-a", "-o", "wide"], ["plot", session], ["command", session]):
        shown = home(*words)
        assert shown.code == 0 and not re.search("[\x00-\x08\x0b-\x1f\x7f]", shown.everything)
    series = {one["name"]: one["values"] for one in home("plot", "--json", session).json["series"]}
    assert series == {"\x1b[1mloss": [1.0], "a.b$c": ["NaN"]}


# -- what runs -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("script", "words", "code", "exit", "reason"),
    [
        ("import sys; sys.exit(3)", [], 3, 100, "exit code 3"),
        ("import sys; sys.exit(3)", ["--propagate"], 3, 3, "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", [], 137, 100, "killed by signal 9"),
        ("def x(:", [], 1, 100, "exit code 1"),
        ("x = []\nwhile True: x.append(bytearray(9 << 20))", ["--memory", "300M"], 137, 105, "out of memory"),
        ("import time; time.sleep(60)", ["--max-time", "0.3s"], None, 108, "time limit"),
    ],
)
def test_an_end_is_told_by_reason_and_exit_code(
    home: Home, script: str, words: list[str], code: int | None, exit: int, reason: str
) -> None:
    _, row, log = home.run(script, *words)
    assert (row["exit"], row["status"]) == (exit, "failed") and reason in row["reason"], row
    assert code is None or row["exit_code"] == code
    assert log.endswith("User session exited\n")


def test_a_child_that_is_killed_for_its_memory_is_named_in_the_log(home: Home) -> None:
    child = "x = []\\nwhile True: x.append(bytearray(9 << 20))"
    script = f"import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', '{child}']).returncode)"
    _, row, log = home.run(script, "--memory", "300M")
    if row["exit"] == 0:  # where the kernel counts; else the watch ends all of it
        assert "a process was killed: out of memory" in log
    else:
        assert row["exit"] == 105


def test_forks_without_end_and_a_full_folder_end_the_session_alone(home: Home) -> None:
    _, row, _ = home.run("import os, time\nwhile True:\n  try: os.fork()\n  except OSError: time.sleep(0.1)")
    assert row["exit"] == 100 and "more than the 60 processes" in row["reason"]
    _, row, _ = home.run("i = 0\nwhile True:\n  open(f'f{i}', 'wb').write(bytes(1 << 20)); i += 1")
    assert row["exit"] == 100 and "20 MB of disk" in row["reason"]
    assert home.run(MAIN)[1]["exit"] == 0


def test_a_flood_is_cut_in_the_middle_and_holds_nobody_up(home: Home) -> None:
    slowest, over = 0.0, threading.Event()

    def watch() -> None:
        nonlocal slowest
        while not over.wait(0.1):
            began = time.monotonic()
            assert home.ask("GET", "/v1/sessions?all=1")[0] == 200
            slowest = max(slowest, time.monotonic() - began)

    watching = threading.Thread(target=watch)
    watching.start()
    flood = "import os\nprint('FIRST', flush=True)\nfor i in range(1000): os.write(1, (b'x' * 99 + b'\\n') * 10000)\n"
    session, row, log = home.run(flood + "print('LAST')")
    over.set()
    watching.join()
    assert row["exit"] == 0 and slowest < 2
    assert (
        len(log) < 5 << 20 and log.startswith("FIRST\n") and re.search(r"\[nsml: \d+ bytes left out\]", log)
    )
    assert home("logs", "--tail", "2", session).text == "LAST\nUser session exited\n"


def test_binary_output_comes_out_as_it_went_in(home: Home) -> None:
    session, _, _ = home.run("import os; os.write(1, bytes(range(256)) * 40)")
    assert home("logs", session).out.startswith(bytes(range(256)) * 40)


def test_a_daemon_does_not_outlive_its_session(home: Home) -> None:
    pid = home.path / "daemon"
    script = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open({str(pid)!r}, 'w').write(str(os.getpid()))
        time.sleep(100)
    os._exit(0)
while not os.path.exists({str(pid)!r}): time.sleep(0.01)
time.sleep(0.1)
"""
    assert home.run(script)[1]["exit"] == 0
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_what_cannot_be_installed_is_a_loud_warning_or_with_strict_env_the_end(home: Home) -> None:
    needs = {"requirements__txt": "nope @ file:///nonexistent/nope-1-py3-none-any.whl\n"}
    _, row, log = home.run("print('ran')", **needs)
    assert row["exit"] == 0 and log.startswith("[nsml: WARNING: 'nope @") and "ran\n" in log
    assert "The last lines of the build" in log and "WARNING" in row["err"]
    _, row, log = home.run("print('ran')", "--strict-env", **needs)
    assert row["exit"] == 100 and "could not be installed" in row["reason"]
    assert "WARNING" in log and "WARNING" in row["err"] and "The session runs without it" not in log


def test_no_secret_is_shown_to_a_session_or_to_ps(home: Home) -> None:
    script = "import os\nprint(dict(os.environ))\nprint(open(f'/proc/{os.getppid()}/environ').read())"
    home.env["API_KEY_OF_MINE"] = "xyzzy"
    _, _, log = home.run(script)
    listed = subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout
    status, answer = home.ask("GET", "/v1/status", Authorization="Bearer wrong")
    assert status == 401
    for text in (log, listed, json.dumps(answer)):
        assert home.token not in text
    assert "xyzzy" not in log


# -- faults while it runs --------------------------------------------------------------------------------
def test_a_session_whose_supervisor_is_killed_leaves_no_process_and_ends_with_a_reason(home: Home) -> None:
    script = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; time.sleep(77)'])"
    session = home.start(script, "-g", "1")
    for attempt in range(1, 5):  # three losses are made good
        (file,) = home.nsml.glob(f"node/*/attempts/*~{session.rpartition('/')[2]}~{attempt}/pid")
        os.kill(json.loads(file.read_text())["pid"], signal.SIGKILL)
        home.until(lambda at=attempt: _has_gone_on(home.row(session), at))
    row = home.row(session)
    assert (row["status"], row["cause"]) == ("failed", "lost") and "supervisor was killed" in row["reason"]
    listed = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    assert "time.sleep(77)" not in listed
    assert home("status", "--json").json["free_gpus"] == 4


def _has_gone_on(row: dict[str, Any], attempt: int) -> bool:
    status, now = row["status"], row["attempt"]
    return bool(status == "failed" or (status == "running" and now == attempt + 1))


def test_the_nursery_may_die_and_sessions_go_on(home: Home) -> None:
    session = home.start(SLEEPS, "-g", "1")
    platform = home("status", "--json").json["pid"]
    children = subprocess.run(
        ["pgrep", "-P", str(platform), "-f", "supervise.py"], capture_output=True, text=True
    )
    os.kill(int(children.stdout), signal.SIGKILL)
    assert home.run(MAIN)[1]["exit"] == 0
    assert home.row(session)["status"] == "running"
    assert home("stop", "--now", session).code == 0
    home.until(lambda: home.row(session)["status"] == "stopped")


def test_running_sessions_survive_a_sweeping_removal(home: Home) -> None:
    session = home.start(SLEEPS, "-g", "0")
    done = home("rm", "alice/None/*")
    assert done.code == 1 and f"nsml rm -f {session}" in done.err
    assert home("ps", "-a", "-q").text.split() == [session]
    followed: list[Any] = []
    following = threading.Thread(target=lambda: followed.append(home("logs", "-f", session)))
    following.start()
    time.sleep(0.7)
    assert home("rm", "-f", session).code == 0
    following.join()
    assert followed[0].code == 0 and "was removed" in followed[0].err and followed[0].text.startswith("up\n")
    refused(home("logs", session), 102, "was removed")


def test_a_dataset_that_is_removed_stays_for_who_waits_with_it(home: Home) -> None:
    (home.path / "stars.txt").write_text("x")
    assert home("dataset", "push", "stars", "stars.txt").code == 0
    blocker = home.start(SLEEPS, "-g", "4")
    code = home.code("waits", "import nsml, os; print(sorted(os.listdir(nsml.DATASET_PATH)))")
    session = home("run", "-g", "1", "-d", "stars", "--detach", "--json", cwd=code).json["session"]
    assert home("dataset", "rm", "stars").code == 0
    refused(home("run", "-d", "stars", cwd=code), 102, "no dataset stars")
    assert home("stop", "--now", blocker).code == 0
    home.until(lambda: home.row(session)["status"] == "completed")
    assert home("logs", session).text.startswith("['stars.txt', 'train']")


def test_a_checkpoint_cannot_be_pulled_out_of_its_folder(home: Home) -> None:
    script = """
import nsml, os
nsml.bind(save=lambda path: open(os.path.join(path, 'w'), 'w').write('x'))
for name in ['../x', '/x', '..', 'a/b']:
    try: nsml.save(name)
    except ValueError: print('refused', name)
"""
    session, _, log = home.run(script)
    assert log.startswith("refused ../x\nrefused /x\nrefused ..\n")
    assert [row["checkpoint"] for row in home("model", "ls", "--json", session).json] == ["a/b"]
    target = home.path / "pulled" / "inner"
    refused(home("model", "pull", session, "../x", str(target)), 102, "nsml model ls")
    assert home("model", "pull", session, "a/b", str(target)).code == 0
    assert [path.name for path in target.parent.rglob("*") if path.is_file()] == ["w"]


def test_a_second_platform_in_a_home_says_who_runs(home: Home) -> None:
    pid = home("status", "--json").json["pid"]
    for words in (["up"], ["up", "--detach"]):
        refused(home("up", *words[1:]), 1, f"pid {pid}", "nsml down")


# -- what is sent to the API -----------------------------------------------------------------------------
def a_file(path: str, size: Any = 1, digest: str = X) -> dict[str, Any]:
    return {"path": path, "bytes": size, "sha256": digest}


@pytest.mark.parametrize(
    "files",
    [
        *(
            [a_file(path)]
            for path in ("../x", "a/../../x", "/etc/x", "a\0b", "", "a\\b", "a" * 300, "a/" * 600)
        ),
        [a_file("a"), a_file("a")],
        [a_file("a"), a_file("a/b")],
        *([a_file("a", size)] for size in (0, 2, -1, 1 << 70, 1.5, True, "1", None)),
        *([a_file("a", 1, digest)] for digest in ("0" * 64, "zz", X.upper(), "../../token")),
        *(b"{{{", b"[]", b"null", b'{"files":NaN}', b"[" * 100_000 + b"]" * 100_000, b""),
    ],
    ids=repr,
)
def test_a_hostile_list_of_files_is_refused(home: Home, files: Any) -> None:
    status, answer = home.push_tree("hostile", files)
    assert 400 <= status < 500 and answer["error"]["message"].endswith((".", ")."))
    assert home.ask("GET", "/v1/datasets/hostile")[0] == 404


def test_a_million_entries_hold_nobody_up(home: Home) -> None:
    entry = b'{"path":"%d","bytes":1,"sha256":"%s"}'
    tree = b'{"files":[%s]}' % b",".join(entry % (i, X.encode()) for i in range(300_000))
    assert home.push_tree("odd-x", [a_file("x")])[0] == 202
    assert home.ask("PUT", f"/v1/blobs/{sha(tree)}", tree)[0] == 201
    pushed: list[Any] = []
    pushing = threading.Thread(
        target=lambda: pushed.append(
            home.command("dataset.push", dataset="million", tree=sha(tree), force=False)
        )
    )
    pushing.start()
    while pushing.is_alive():
        began = time.monotonic()
        assert home.ask("GET", "/v1/status")[0] == 200 and time.monotonic() - began < 2
        time.sleep(0.05)
    assert pushed[0][0] == 202


@pytest.mark.parametrize(
    "pack",
    [
        b"abc",
        packed(b"hello")[:-2],
        packed(b"hello", digest="0" * 64),
        packed(b"hello", length=1 << 63),
        packed(b"y" * 300_000, digest="1" * 64),
    ],
    ids=["half a head", "half a blob", "wrong digest", "absurd length", "large and wrong"],
)
def test_a_forged_pack_is_refused(home: Home, pack: bytes) -> None:
    status, answer = home.ask("POST", "/v1/blobs", pack)
    assert status == 400 and answer["error"]["message"]


def test_bodies_that_unpack_themselves_or_never_end_are_not_taken(home: Home) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    for path in ("/v1/blobs", "/v1/commands/session.run"):
        assert home.ask("POST", path, bomb, Content_Encoding="gzip")[0] == 400
    head = f"Host: x\r\nAuthorization: Bearer {home.token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    port = int((home.nsml / "port").read_text())
    with socket.create_connection(("127.0.0.1", port), timeout=20) as endless:
        endless.sendall(f"POST /v1/commands/session.run HTTP/1.1\r\n{head}".encode())
        for _ in range(200):
            endless.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert endless.recv(100).startswith(b"HTTP/1.1 413")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as endless:
        endless.sendall(f"PUT /v1/blobs/{'3' * 64} HTTP/1.1\r\n{head}".encode())
        for _ in range(200):
            endless.sendall(b"10000\r\n" + b"z" * 65536 + b"\r\n")
    home.until(lambda: not any(path.name != "now" for path in (home.nsml / "blobs" / "tmp").iterdir()))


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"null", b"[]", b"\xff", b'{"body":5}', b'{"id":"zz","body":{}}'),
        *(b'{"body":{"code":NaN}}', b'{"body":{"entry":"\\ud800"}}', b'{"body":{"$where":1,"a.b":2}}'),
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"body":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_command_is_400(home: Home, body: bytes) -> None:
    for name in ("session.run", "session.stop", "dataset.push"):
        status, answer = home.ask("POST", f"/v1/commands/{name}", body)
        assert status == 400 and answer["error"]["message"].endswith((".", "'"))
