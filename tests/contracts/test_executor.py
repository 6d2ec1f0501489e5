"""What every executor promises: it starts once, tells how it ended, leaves nothing behind, finds everything again."""

from __future__ import annotations

import asyncio
import itertools
import os
import struct
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import adapters
import pytest
from fakes import until

from nsml.core.errors import BadInput, NotFound
from nsml.core.ports import Executor, Exit, Limits, Mount, RunSpec

MIB = 1 << 20
NUMBERS = itertools.count(1)

Open = Callable[[], Executor]


@pytest.fixture(params=tuple(adapters.EXECUTORS))
def open_executor(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same executor each time: what an earlier one left is there."""
    return lambda: adapters.EXECUTORS[request.param](tmp_path)


@pytest.fixture
async def executor(open_executor: Open) -> AsyncIterator[Executor]:
    async with open_executor() as opened:
        yield opened
        for held in await opened.held():
            await opened.reap(held.attempt)


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., RunSpec]:
    """Builds what is to run: a Python script, or *argv*."""

    def build(script: str = "", *, argv: tuple[str, ...] = (), **more: object) -> RunSpec:
        attempt = f"alice~None~{next(NUMBERS)}~1"
        folder = tmp_path / "attempts" / attempt
        folder.mkdir(parents=True)
        limits = more.pop("limits", Limits())
        env = (("PATH", os.environ["PATH"]), ("NSML_SPOOL", f"{folder}/spool"))
        argv = argv or (sys.executable, "-u", "-c", textwrap.dedent(script))
        return RunSpec(
            attempt=attempt, folder=str(folder), argv=argv, cwd=str(folder), env=env, limits=limits, **more
        )  # type: ignore[arg-type]

    return build


async def ended(executor: Executor, spec: RunSpec, seconds: float = 20) -> Exit:
    await executor.start(spec)
    async with asyncio.timeout(seconds):
        return await executor.wait(spec.attempt)


def log(spec: RunSpec) -> bytes:
    path = Path(spec.folder) / "log"
    return path.read_bytes() if path.exists() else b""


def running(spec: RunSpec) -> list[int]:
    """Processes of the session: those that know its spool."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{spec.folder}/spool".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


# -- starting and ending -----------------------------------------------------------------------------
async def test_an_exit_code_is_told(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    found = await ended(executor, spec("import sys; sys.exit(3)"))
    assert (found.code, found.cause) == (3, "")
    assert 0 < found.seconds < 10


async def test_starting_twice_starts_once(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    once = spec("print('here'); import time; time.sleep(0.3)")
    await asyncio.gather(*(executor.start(once) for _ in range(5)))
    await executor.wait(once.attempt)
    await executor.start(once)
    await executor.wait(once.attempt)
    assert log(once).count(b"here") == 1


async def test_two_executors_that_start_the_same_start_it_once(
    open_executor: Open, spec: Callable[..., RunSpec]
) -> None:
    once = spec("print('here')")
    async with open_executor() as one, open_executor() as other:
        await asyncio.gather(one.start(once), other.start(once))
        exits = await asyncio.gather(one.wait(once.attempt), other.wait(once.attempt))
    assert [found.code for found in exits] == [0, 0]
    assert log(once).count(b"here") == 1


async def test_a_program_that_is_not_there_ends_with_127_and_says_so(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    absent = spec(argv=("/nowhere/python", "main.py"))
    found = await ended(executor, absent)
    assert found.code == 127 and "/nowhere/python" in found.reason
    assert b"/nowhere/python" in log(absent)


async def test_what_can_never_start_is_bad_input(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    with pytest.raises(BadInput):
        await executor.start(spec(argv=("python", "a\0b")))


async def test_an_attempt_that_is_not_held_is_not_found(executor: Executor) -> None:
    with pytest.raises(NotFound):
        await executor.wait("alice~None~999~1")


async def test_a_session_sees_its_variables_and_no_others(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    shown = spec(argv=("/usr/bin/env",))
    await ended(executor, shown)
    names = {line.partition(b"=")[0] for line in log(shown).splitlines()[:-1]}
    assert names == {b"PATH", b"NSML_SPOOL"}


async def test_a_killed_program_is_told_from_a_failed_one(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    killed = spec("import os; os.kill(os.getpid(), 9)")
    found = await ended(executor, killed)
    assert (found.code, found.cause) == (137, "killed")
    assert b"Killed" in log(killed)


async def test_a_default_signal_handler_is_in_place(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    shown = spec(argv=("/usr/bin/bash", "-c", "yes | head -1; kill -TERM $$; sleep 9"))
    found = await ended(executor, shown)
    assert found.code == 143 and b"y\n" in log(shown)


# -- stopping ------------------------------------------------------------------------------------------
async def test_a_stop_leaves_the_grace_to_end_in_order(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    polite = spec("""
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(0)))
        print('up')
        while True: time.sleep(0.05)
    """)
    await executor.start(polite)
    await until(lambda: b"up" in log(polite))
    await executor.stop(polite.attempt, grace=10)
    found = await executor.wait(polite.attempt)
    assert (found.code, found.cause) == (0, "stopped")
    assert b"saved" in log(polite)


async def test_after_the_grace_a_stop_kills(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    deaf = spec("""
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print('up')
        while True: time.sleep(0.05)
    """)
    await executor.start(deaf)
    await until(lambda: b"up" in log(deaf))
    began = time.monotonic()
    await executor.stop(deaf.attempt, grace=0.5)
    assert 0.4 < time.monotonic() - began < 5
    found = await executor.wait(deaf.attempt)
    assert (found.code, found.cause) == (137, "stopped")


async def test_a_stop_with_less_grace_overtakes_one_with_more(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    deaf = spec("import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(60)")
    await executor.start(deaf)
    await until(lambda: b"up" in log(deaf))
    patient = asyncio.create_task(executor.stop(deaf.attempt, grace=60))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await executor.stop(deaf.attempt, grace=0)
        await patient


async def test_a_stop_right_after_the_start_is_not_lost(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    for _ in range(20):
        short = spec(argv=("/bin/sleep", "60"))
        await executor.start(short)
        async with asyncio.timeout(5):
            await executor.stop(short.attempt, grace=1)
        assert (await executor.wait(short.attempt)).cause == "stopped"


async def test_stopping_what_has_ended_changes_nothing(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    over = spec("import sys; sys.exit(5)")
    await ended(executor, over)
    await executor.stop(over.attempt, grace=1)
    assert await executor.wait(over.attempt) == Exit(
        code=5, seconds=(await executor.wait(over.attempt)).seconds
    )


DAEMON = """
    import os, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 3)
            while True: time.sleep(0.05)
        os._exit(0)
    os.wait()
    print('up')
"""


async def test_daemons_end_with_the_session(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    daemon = spec(DAEMON)
    found = await ended(executor, daemon)
    assert found.code == 0
    await until(lambda: not running(daemon))


async def test_daemons_end_with_a_stop(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    daemon = spec(DAEMON + "    while True: time.sleep(0.05)\n")
    await executor.start(daemon)
    await until(lambda: b"up" in log(daemon))
    assert len(running(daemon)) >= 2
    await executor.stop(daemon.attempt, grace=1)
    await until(lambda: not running(daemon))


# -- limits ----------------------------------------------------------------------------------------------
async def test_memory_is_limited_and_named_as_the_cause(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    glutton = spec(
        "kept = [b'x' * (32 << 20) for _ in range(64)]; print('at' + 'e it')", limits=Limits(memory=256 * MIB)
    )
    found = await ended(executor, glutton)
    assert (found.code, found.cause) == (137, "oom"), found
    assert "memory" in found.reason and b"ate it" not in log(glutton)


async def test_reserving_address_space_is_free(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    reserves = spec(
        "import mmap; mmap.mmap(-1, 64 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)",
        limits=Limits(memory=256 * MIB),
    )
    assert (await ended(executor, reserves)).code == 0


async def test_time_is_limited_and_named_as_the_cause(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    long = spec("import time; time.sleep(60)", limits=Limits(seconds=0.5))
    found = await ended(executor, long)
    assert found.cause == "time" and "0.5" in found.reason
    assert 0.4 < found.seconds < 5


async def test_a_fork_bomb_ends_with_its_session(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    bomb = spec(
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n", limits=Limits(processes=200)
    )
    neighbour = spec("print('well')")
    await executor.start(bomb)
    assert (await ended(executor, neighbour)).code == 0
    found = await executor.wait(bomb.attempt)
    assert found.cause == "processes", found
    await until(lambda: not running(bomb))


async def test_disk_is_limited_and_named_as_the_cause(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    filler = spec(
        """
        import os, time
        for i in range(100):
            open(f'f{i}', 'wb').write(os.urandom(4 << 20)); time.sleep(0.02)
        time.sleep(60)
        """,
        limits=Limits(disk=32 * MIB),
    )
    found = await ended(executor, filler)
    assert found.cause == "disk", found


async def test_one_file_that_is_too_large_is_a_matter_of_disk(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    filler = spec(
        "f = open('f', 'wb')\nwhile True: f.write(b'x' * (1 << 20)); f.flush()", limits=Limits(disk=16 * MIB)
    )
    found = await ended(executor, filler)
    assert found.code != 0 and found.cause == "disk", found


async def test_open_files_are_limited(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    greedy = spec("files = [open('/dev/null') for _ in range(500)]", limits=Limits(files=100))
    found = await ended(executor, greedy)
    assert found.code == 1 and b"Too many open files" in log(greedy)


# -- output ----------------------------------------------------------------------------------------------
async def test_both_streams_are_logged_in_order_and_stderr_is_marked(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    both = spec("""
        import sys, time
        for i in range(3):
            print('out', i); time.sleep(0.1)
            print('err', i, file=sys.stderr); time.sleep(0.1)
    """)
    await ended(executor, both)
    data = log(both)
    assert data == b"out 0\nerr 0\nout 1\nerr 1\nout 2\nerr 2\nUser session exited\n"
    ranges = list(struct.iter_unpack("<QQ", (Path(both.folder) / "log.err").read_bytes()))
    assert [data[start:end] for start, end in ranges] == [b"err 0\n", b"err 1\n", b"err 2\n"]


async def test_bytes_are_logged_as_they_are(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    binary = spec("import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)")
    await ended(executor, binary)
    assert log(binary) == bytes(range(256)) * 1000 + b"\nUser session exited\n"


async def test_the_last_words_of_a_killed_session_are_there(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    words = spec("import os; os.write(1, b'last words\\n'); os.kill(os.getpid(), 9)")
    await ended(executor, words)
    assert log(words).startswith(b"last words\n")


async def test_what_is_in_the_log_already_stays(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    second = spec("import sys; print('new', file=sys.stderr)")
    (Path(second.folder) / "log").write_bytes(b"old\n")
    await ended(executor, second)
    assert log(second) == b"old\nnew\nUser session exited\n"
    assert (Path(second.folder) / "log.err").read_bytes() == struct.pack("<QQ", 4, 8)


async def test_a_flood_keeps_its_beginning_and_its_end(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    flood = spec(
        "import sys\nfor i in range(20): sys.stdout.write(f'{i:07d}\\n' * (1 << 17))\nprint('the end')",
        limits=Limits(log=4 * MIB),
    )
    found = await ended(executor, flood)
    data = log(flood)
    assert found.code == 0 and len(data) < 5 * MIB
    assert data.startswith(b"0000000\n") and data.endswith(b"the end\nUser session exited\n")
    written = 20 * 8 * (1 << 17) + len("the end\n")
    head, _, tail = data.partition(b"[nsml: ")
    left_out = int(tail.partition(b" ")[0])
    kept = tail.partition(b"left out]\n")[2].removesuffix(b"User session exited\n")
    assert len(head) + left_out + len(kept) == written


# -- mounts ----------------------------------------------------------------------------------------------
async def test_a_mounted_folder_is_seen_and_cannot_be_spoilt(
    executor: Executor, spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "x").write_text("precious")
    (shared / "x").chmod(0o444)
    reader = spec(
        "print(open('data/x').read())\ntry: open('data/x', 'w').write('spoilt')\n"
        "except OSError as error: print('refused')"
    )
    reader = RunSpec(
        **{
            **{name: getattr(reader, name) for name in RunSpec.__dataclass_fields__},
            "mounts": (Mount(source=str(shared), target=f"{reader.folder}/data"),),
        }
    )
    found = await ended(executor, reader)
    assert found.code == 0 and b"precious" in log(reader)
    assert (shared / "x").read_text() == "precious"


# -- what outlives it --------------------------------------------------------------------------------------
async def test_a_running_session_survives_the_executor(
    open_executor: Open, spec: Callable[..., RunSpec]
) -> None:
    survivor = spec("""
        import time
        for i in range(10): print(i); time.sleep(0.1)
        raise SystemExit(7)
    """)
    async with open_executor() as first:
        await first.start(survivor)
    async with open_executor() as second:
        (held,) = await second.held()
        assert (held.attempt, held.running) == (survivor.attempt, True)
        found = await second.wait(survivor.attempt)
    assert found.code == 7
    assert log(survivor).startswith(b"".join(b"%d\n" % i for i in range(10)))


async def test_an_exit_while_nobody_looked_is_kept_until_it_is_reaped(
    open_executor: Open, spec: Callable[..., RunSpec]
) -> None:
    short = spec("raise SystemExit(9)")
    async with open_executor() as first:
        await first.start(short)
        await first.wait(short.attempt)
    async with open_executor() as second:
        (held,) = await second.held()
        assert not held.running
        assert (await second.wait(short.attempt)).code == 9
        await second.reap(short.attempt)
        assert not await second.held()
        assert not Path(short.folder).exists()
    async with open_executor() as third:
        assert not await third.held()


async def test_a_survivor_can_be_stopped_by_the_next_executor(
    open_executor: Open, spec: Callable[..., RunSpec]
) -> None:
    survivor = spec("import time; time.sleep(60)")
    async with open_executor() as first:
        await first.start(survivor)
    async with open_executor() as second:
        await second.stop(survivor.attempt, grace=1)
        assert (await second.wait(survivor.attempt)).cause == "stopped"
    assert not running(survivor)


async def test_reaping_what_runs_kills_it(executor: Executor, spec: Callable[..., RunSpec]) -> None:
    stray = spec("import time; time.sleep(60)")
    await executor.start(stray)
    await executor.reap(stray.attempt)
    assert not Path(stray.folder).exists()
    await until(lambda: not running(stray))


async def test_reaping_twice_and_of_nothing_is_harmless(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    over = spec("pass")
    await ended(executor, over)
    await executor.reap(over.attempt)
    await executor.reap(over.attempt)


async def test_reaping_deletes_what_the_session_locked(
    executor: Executor, spec: Callable[..., RunSpec]
) -> None:
    locked = spec(
        "import os; os.makedirs('a/b'); open('a/b/c', 'w'); os.chmod('a/b', 0); os.chmod('a', 0o500)"
    )
    await ended(executor, locked)
    await executor.reap(locked.attempt)
    assert not Path(locked.folder).exists()
