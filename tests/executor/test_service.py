"""A node's agent, with real processes: what it tells of each attempt, and what a restart finds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import textwrap
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import adapters
import orjson
import pytest
from fakes import until

from nsml import settings
from nsml.bus.memory import MemoryBus
from nsml.clock import SystemClock
from nsml.core import catalogue as c
from nsml.core.messages import Envelope, Message
from nsml.core.plain import plain
from nsml.core.ports import Blobs, Queue
from nsml.core.tree import File, Tree
from nsml.executor import trees
from nsml.executor.process import ProcessExecutor
from nsml.executor.service import NodeAgent

SESSION = "alice/None/1"
M = TypeVar("M", bound=Message)


class Node:
    """A node whose agent can be ended and started again, and everything it told."""

    def __init__(self, home: Path, bus: MemoryBus, blobs: Blobs, executor: ProcessExecutor) -> None:
        environ = {"NSML_HOME": str(home), "NSML_NODE": "n1", "NSML_PYTHON": sys.executable}
        self.settings = settings.load(environ)
        self.bus, self.blobs, self.executor = bus, blobs, executor
        self.told: list[Message] = []
        self.known: dict[tuple[str, str], str] = {}

    async def open(self) -> None:
        self.agent = NodeAgent(
            self.settings, self.executor, self.bus, self.blobs, SystemClock(), self.checkpoint
        )
        self.task = asyncio.create_task(self.agent.run())
        await asyncio.wait_for(self.agent.ready.wait(), 10)

    async def close(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def restart(self) -> None:
        await self.close()
        await self.open()

    async def checkpoint(self, session: str, checkpoint: str) -> str | None:
        return self.known.get((session, checkpoint))

    async def listen(self) -> None:
        queue = Queue(name="spy", bindings=("evt.#", "tel.#"))
        await self.bus.declare(queue)
        async for delivery in self.bus.deliveries(queue):
            assert delivery.envelope.actor == "node:n1"
            self.told.append(delivery.envelope.body)
            await delivery.ack()

    # -- what the scheduler does -----------------------------------------------------------------------
    async def order(self, message: Message) -> None:
        await self.bus.publish(Envelope(body=message, at=0.0, to="n1", term=1))

    async def code(self, files: dict[str, str]) -> str:
        made = []
        for path, text in files.items():
            data = textwrap.dedent(text).encode()
            made.append(File(path=path, bytes=len(data), sha256=await self.blobs.put_bytes(data)))
        return await self.blobs.put_bytes(orjson.dumps(plain(Tree(files=tuple(made)))))

    async def start(
        self,
        script: str,
        *,
        session: str = SESSION,
        attempt: int = 1,
        gpus: tuple[int, ...] = (),
        files: dict[str, str] | None = None,
        hosts: tuple[str, ...] = ("n1",),
        **run: Any,
    ) -> c.StartAttempt:
        code = await self.code({"main.py": script} | (files or {}))
        spec = c.AttemptSpec(run=c.Run(code=code, **run), owner="alice", gpus=gpus, hosts=hosts)
        message = c.StartAttempt(session=session, attempt=attempt, spec=spec)
        await self.order(message)
        return message

    async def stop(self, session: str = SESSION, attempt: int = 1, grace: float = 1.0) -> None:
        await self.order(c.StopAttempt(session=session, attempt=attempt, grace=grace))

    async def reap(self, session: str = SESSION, attempt: int = 1) -> None:
        await self.order(c.ReapAttempt(session=session, attempt=attempt))

    # -- what it told ------------------------------------------------------------------------------------
    def of(self, kind: type[M]) -> list[M]:
        return [message for message in self.told if isinstance(message, kind)]

    async def first(self, kind: type[M], session: str = SESSION, attempt: int = 1) -> M:
        def found() -> list[M]:
            about = [m for m in self.of(kind) if getattr(m, "session", session) == session]
            return [m for m in about if getattr(m, "attempt", attempt) == attempt]

        return (await until(found, timeout=30))[0]

    async def exited(self, session: str = SESSION, attempt: int = 1) -> c.AttemptExited:
        return await self.first(c.AttemptExited, session, attempt)

    def log(self, stream: str = f"log/{SESSION}/1") -> str:
        data = b""
        for message in self.of(c.LogGrew):
            if message.stream == stream:
                assert message.offset <= len(data), "a gap in the stream"
                data = data[: message.offset] + message.data
        return data.decode()

    @property
    def attempts(self) -> Path:
        return self.settings.home / "node" / "n1" / "attempts"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    root = tmp_path / "home" / "node" / "n1" / "attempts"
    async with (
        MemoryBus() as bus,
        adapters.BLOBS["file"](tmp_path) as blobs,
        ProcessExecutor(root, SystemClock()) as executor,
    ):
        made = Node(tmp_path / "home", bus, blobs, executor)
        listening = asyncio.create_task(made.listen())
        await made.open()
        yield made
        await made.close()
        for held in await executor.held():
            await executor.reap(held.attempt)
        listening.cancel()


# -- a life ----------------------------------------------------------------------------------------------
async def test_an_attempt_is_started_and_its_end_is_told_last(node: Node) -> None:
    await node.start("print('hello'); raise SystemExit(3)")
    exited = await node.exited()
    assert (exited.code, exited.cause, exited.node) == (3, "", "n1")
    assert exited.tail.splitlines() == ["hello", "User session exited"]
    assert node.log() == "hello\nUser session exited\n"
    assert exited.streams == ((f"log/{SESSION}/1", len(node.log())),)
    kinds = [type(message) for message in node.told]
    assert kinds[-1] is c.AttemptExited and c.AttemptStarted in kinds


async def test_a_session_sees_what_was_promised(node: Node) -> None:
    script = """
        import json, os, nsml
        print(json.dumps({"env": dict(os.environ), "cwd": os.getcwd(), "file": nsml.__file__,
                          "name": nsml.SESSION_NAME, "gpus": nsml.GPU_NUM, "beside": open("words.txt").read()}))
    """
    node.settings = replace(node.settings, user="alice")
    await node.start(script, gpus=(2, 3), files={"words.txt": "words"}, env=(("MINE", "1"),))
    await node.exited()
    seen = json.loads(node.log().splitlines()[0])
    env = seen["env"]
    assert (seen["name"], seen["gpus"], seen["beside"]) == (SESSION, 2, "words")
    assert seen["cwd"].endswith("/app") and "/bundle/" in seen["file"]
    assert (env["CUDA_VISIBLE_DEVICES"], env["MINE"], env["NSML_ATTEMPT"]) == ("2,3", "1", "1")
    assert env["HOME"] == os.environ["HOME"] and env["PYTHONUNBUFFERED"] == "1"
    assert "NSML_HOME" not in env and "NSML_DATASET_PATH" not in env


async def test_datasets_are_seen_read_only(node: Node, tmp_path: Path) -> None:
    (tmp_path / "push" / "train").mkdir(parents=True)
    (tmp_path / "push" / "train" / "x.csv").write_text("1,2")
    digest, _ = await trees.store(node.blobs, tmp_path / "push", [tmp_path / "push" / "train" / "x.csv"])
    refs = tuple(c.DatasetRef(name=name, owner="alice", version=1, tree=digest) for name in ("a", "b"))
    script = """
        import nsml, os
        for path in nsml.DATASET_PATH:
            print(open(path + "/train/x.csv").read(), open(path + "/x.csv").read())
            try: open(path + "/train/x.csv", "w").write("spoilt")
            except OSError: print("refused")
    """
    await node.start(script, datasets=refs)
    await node.exited()
    assert node.log().splitlines()[:-1] == ["1,2 1,2", "refused"] * 2
    assert digest in node.agent.cached()


async def test_a_shell_script_is_an_entry_too(node: Node) -> None:
    await node.start("", files={"go.sh": "echo $0 $1; python -c 'import nsml; print(nsml.IS_ON_NSML)'"}, entry="go.sh", args=("x",))  # fmt: skip
    await node.exited()
    assert node.log().startswith("go.sh x\nTrue\n")


async def test_going_on_from_a_checkpoint_adds_the_reserved_arguments(node: Node) -> None:
    await node.start(
        "import sys; print(sys.argv[1:])", args=("--lr", "1"), iteration="7", parent="alice/None/9"
    )
    await node.exited()
    assert "['--lr', '1', '--pause', '1', '--iteration', '7']" in node.log()


async def test_a_save_is_told_before_the_end(node: Node) -> None:
    script = """
        import nsml, os
        nsml.bind(save=lambda path: open(os.path.join(path, "w"), "w").write("x"),
                  load=lambda path: print("loaded", open(os.path.join(path, "w")).read()))
        nsml.report(step=1, loss=0.5)
        nsml.save("one")
        nsml.load("one")
    """
    await node.start(script)
    exited = await node.exited()
    (saved,) = node.of(c.CheckpointSaved)
    assert (saved.checkpoint, dict(saved.summary)["loss"]) == ("one", 0.5)
    assert "loaded x" in node.log()
    assert dict(exited.streams)[f"outbox/{SESSION}/1"] == sum(len(m.data) for m in node.of(c.OutboxGrew))


async def test_files_that_were_made_come_back_and_uploaded_ones_do_not(node: Node) -> None:
    script = """
        import os, helper
        os.makedirs("out"); open("out/result", "w").write("42")
        open("changed.txt", "w").write("after"); open("same.txt", "w").write("same")
    """
    files = {"helper.py": "", "changed.txt": "before", "same.txt": "same", "kept.txt": "kept"}
    await node.start(script, files=files)
    exited = await node.exited()
    tree = await trees.read(node.blobs, exited.output)
    assert [file.path for file in tree.files] == ["changed.txt", "out/result"]


async def test_a_running_session_is_asked_for_what_it_made(node: Node) -> None:
    await node.start("import time; open('made', 'w').write('x'); print('up'); time.sleep(60)")
    await until(lambda: "up" in node.log(), timeout=10)
    for ask, verb in (("1", "output"), ("2", "dance")):
        await node.order(c.AskAttempt(session=SESSION, attempt=1, ask=ask, verb=verb))
    await until(lambda: len(node.of(c.AttemptAnswered)) == 2)
    answers = {answer.ask: answer for answer in node.of(c.AttemptAnswered)}
    tree = await trees.read(node.blobs, answers["1"].data)
    assert [file.path for file in tree.files] == ["made"]
    assert not answers["2"].ok and "dance" in answers["2"].data


# -- orders that come twice, late or in vain ----------------------------------------------------------------
async def test_a_start_that_comes_twice_starts_once(node: Node) -> None:
    message = await node.start("import time; print('once'); time.sleep(0.5)")
    await node.first(c.AttemptStarted)
    await node.order(message)
    await node.exited()
    await node.order(message)
    await until(lambda: len(node.of(c.AttemptExited)) == 2)
    assert node.log().count("once") == 1
    assert len(node.of(c.AttemptStarted)) == 2


async def test_a_stop_ends_it(node: Node) -> None:
    await node.start("import time; print('up'); time.sleep(60)")
    await until(lambda: "up" in node.log(), timeout=10)
    await node.stop()
    assert (await node.exited()).cause == "stopped"


async def test_a_stop_while_it_is_prepared_ends_it_before_it_starts(node: Node) -> None:
    code = "import time; time.sleep(30)"
    await node.start("print('never')", files={"setup.py": code})
    await node.first(c.AttemptProgressed)
    await node.stop()
    exited = await node.exited()
    assert (exited.code, exited.cause) == (None, "stopped")
    assert "never" not in node.log()


async def test_a_stop_for_what_is_not_here_is_answered_and_the_late_start_ignored(node: Node) -> None:
    await node.stop()
    assert (await node.exited()).cause == "stopped"
    await node.start("print('late')")
    await node.start("print('marker')", session="alice/None/2")
    await node.exited("alice/None/2")
    assert not [m for m in node.of(c.AttemptStarted) if m.session == SESSION]


async def test_a_reaped_attempt_leaves_nothing_and_never_starts_again(node: Node) -> None:
    message = await node.start("print('once')")
    await node.exited()
    assert [holding.ended for holding in node.agent.holdings()] == [True]
    await node.reap()
    await until(lambda: not node.agent.holdings())
    await until(lambda: not list(node.attempts.iterdir()), timeout=20)
    await node.order(message)
    await node.restart()
    await node.order(message)
    assert not node.agent.holdings() and not list(node.attempts.iterdir())


async def test_a_gpu_that_is_held_is_refused(node: Node) -> None:
    await node.start("import time; time.sleep(60)", gpus=(0,))
    await node.start("print('no')", session="bob/None/1", gpus=(0, 1))
    rejected = await node.first(c.AttemptRejected, "bob/None/1")
    assert "GPU 0" in rejected.reason and "alice/None/1" in rejected.reason
    assert [holding.session for holding in node.agent.holdings()] == [SESSION]


async def test_a_newer_attempt_waits_until_the_older_one_is_gone(node: Node) -> None:
    await node.start("import time; print('old'); time.sleep(60)", gpus=(0,))
    await until(lambda: "old" in node.log(), timeout=10)
    await node.start("print('new')", attempt=2, gpus=(0,))
    assert (await node.exited(attempt=2)).code == 0
    assert (await node.exited(attempt=1)).cause == "stopped"


async def test_code_that_is_not_stored_ends_the_attempt_with_a_sentence(node: Node) -> None:
    spec = c.AttemptSpec(run=c.Run(code="0" * 64), owner="alice")
    await node.order(c.StartAttempt(session=SESSION, attempt=1, spec=spec))
    exited = await node.exited()
    assert (exited.code, exited.cause) == (None, "error") and exited.reason


# -- environments ------------------------------------------------------------------------------------------
async def test_a_requirement_that_cannot_be_installed_is_warned_of_and_the_session_runs(node: Node) -> None:
    files = {"requirements.txt": "--no-index\nabsent==9\n"}
    await node.start("print('ran')", files=files)
    assert (await node.exited()).code == 0
    log = node.log()
    assert "WARNING: 'absent==9' could not be installed" in log and log.endswith("ran\nUser session exited\n")
    assert "absent" in node.log(f"build/{SESSION}/1")
    assert "environment" in [message.phase for message in node.of(c.AttemptProgressed)]


async def test_with_strict_env_it_is_a_failure_that_names_the_requirement(node: Node) -> None:
    files = {"requirements.txt": "--no-index\nabsent==9\n"}
    await node.start("print('ran')", files=files, strict_env=True)
    exited = await node.exited()
    assert (exited.code, exited.cause) == (None, "environment") and "absent==9" in exited.reason
    assert "absent" in exited.tail and "ran" not in node.log()


async def test_an_image_is_a_line_of_warning(node: Node) -> None:
    await node.start("print('ran')", files={"setup.py": "#nsml: some/image:1\n"})
    assert (await node.exited()).code == 0
    assert node.log().startswith("[nsml: The image some/image:1 is not used")


# -- restarts ----------------------------------------------------------------------------------------------
async def test_a_running_attempt_is_found_again_with_its_whole_log(node: Node) -> None:
    script = "import time\nfor i in range(15): print('line', i); time.sleep(0.1)\n"
    await node.start(script)
    await until(lambda: "line 2" in node.log(), timeout=10)
    await node.close()
    await asyncio.sleep(0.3)
    await node.open()
    assert [holding.session for holding in node.agent.holdings()] == [SESSION]
    assert (await node.exited()).code == 0
    assert node.log().splitlines() == [*(f"line {i}" for i in range(15)), "User session exited"]


async def test_an_end_while_the_agent_was_away_is_told(node: Node) -> None:
    await node.start("import time; print('up'); time.sleep(0.3); raise SystemExit(4)")
    await until(lambda: "up" in node.log(), timeout=10)
    await node.close()
    await until(lambda: next(node.attempts.glob("*/exit.json"), None))
    await node.open()
    assert (await node.exited()).code == 4


async def test_an_end_that_was_told_is_told_again_until_it_is_reaped(node: Node) -> None:
    await node.start("pass")
    first = await node.exited()
    await node.restart()
    await until(lambda: len(node.of(c.AttemptExited)) == 2)
    assert node.of(c.AttemptExited)[1] == first
    await node.reap()
    await until(lambda: not list(node.attempts.iterdir()), timeout=20)
    await node.restart()
    assert not node.agent.holdings()


async def test_one_that_was_being_prepared_is_prepared_anew(node: Node, tmp_path: Path) -> None:
    marker = tmp_path / "go"
    slow = f"import os, time\nif not os.path.exists({str(marker)!r}): time.sleep(30)"
    await node.start("print('ran')", files={"setup.py": slow})
    await node.first(c.AttemptProgressed)
    await node.close()
    marker.touch()
    await node.open()
    assert (await node.exited()).code == 0
    assert node.log().count("ran") == 1


async def test_a_stop_is_remembered_over_a_restart(node: Node) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(60)"
    await node.start(script)
    await until(lambda: "up" in node.log(), timeout=10)
    await node.stop(grace=1.0)
    await node.restart()
    exited = await node.exited()
    assert (exited.code, exited.cause) == (137, "stopped")


async def test_an_idle_node_does_nothing(node: Node) -> None:
    await node.start("pass")
    await node.exited()
    await node.reap()
    await until(lambda: not node.agent.holdings())
    loop = asyncio.get_running_loop()

    def nothing_is_due() -> bool:
        return not [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]

    async with asyncio.timeout(20):  # the run directory is deleted a little later, and then there is peace
        while list(node.attempts.iterdir()):
            await asyncio.sleep(0.1)
    assert nothing_is_due()
