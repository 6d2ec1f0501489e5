"""A session's outbox: sent on whole, its saves kept, its questions answered."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import adapters
import orjson
import pytest
from fakes import ManualClock

from nsml.core.catalogue import CheckpointSaved, OutboxGrew, Run
from nsml.core.messages import Message
from nsml.core.ports import Blobs
from nsml.executor import trees
from nsml.executor.shipper import Progress
from nsml.executor.spool import Desk, Spool

WHO = ("alice/None/1", 1, 0)


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[Blobs]:
    async with adapters.BLOBS["file"](tmp_path) as opened:
        yield opened


@dataclass
class Bench:
    """A spool, and all that it told."""

    folder: Path
    blobs: Blobs
    run: Run = field(default_factory=lambda: Run(code=""))
    known: dict[tuple[str, str], str] = field(default_factory=dict)
    told: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "spool" / "saves").mkdir(parents=True, exist_ok=True)
        self.again()

    def again(self) -> None:
        """As after a restart of the node."""
        clock = ManualClock()
        self.progress = Progress(self.folder, clock)
        self.desk = Desk(self.folder / "spool", WHO, self.run, self.blobs, self.tell, self.find)
        self.spool = Spool(self.folder / "spool", WHO, self.progress, self.tell, clock, self.desk)

    async def tell(self, message: Message) -> None:
        self.told.append(message)

    async def find(self, session: str, checkpoint: str) -> str | None:
        return self.known.get((session, checkpoint))

    def note(self, box: str = "outbox", **fields: Any) -> None:
        payload = json.dumps(fields).encode()
        self.write(struct.pack("<IB", len(payload), 1) + payload, box)

    def write(self, data: bytes, box: str = "outbox") -> None:
        with (self.folder / "spool" / box).open("ab") as file:
            file.write(data)

    def save(self, checkpoint: str, path: str = "saves/000001") -> None:
        (self.folder / "spool" / path).mkdir()
        (self.folder / "spool" / path / "weights").write_text(f"w{checkpoint}")
        self.note(op="save", checkpoint=checkpoint, path=path, at=1.0)

    def load(self, checkpoint: str | None, request: str = "r1", session: str = WHO[0]) -> None:
        self.note(op="load", request=request, session=session, checkpoint=checkpoint)

    async def drain(self) -> None:
        await self.spool.drain()
        while not self.desk._jobs.empty():
            await self.desk._do(self.desk._jobs.get_nowait())

    def answer(self, request: str = "r1") -> Any:
        return json.loads((self.folder / "spool" / "inbox" / f"{request}.json").read_text())

    def streams(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for message in self.told:
            if isinstance(message, OutboxGrew):
                assert message.offset == len(found.get(message.stream, b""))
                found[message.stream] = found.get(message.stream, b"") + message.data
        return found

    def checkpoints(self) -> list[CheckpointSaved]:
        return [message for message in self.told if isinstance(message, CheckpointSaved)]


@pytest.fixture
def bench(tmp_path: Path, blobs: Blobs) -> Bench:
    return Bench(tmp_path / "attempt", blobs)


async def test_whole_records_are_sent_and_half_ones_wait(bench: Bench) -> None:
    bench.note(op="report", at=1.0, step=1, summary=False, values={"loss": 0.5})
    whole = (bench.folder / "spool" / "outbox").read_bytes()
    bench.write(whole[:9])
    await bench.drain()
    assert bench.streams() == {"outbox/alice/None/1/1": whole}
    bench.write(whole[9:])
    await bench.drain()
    assert bench.streams() == {"outbox/alice/None/1/1": whole * 2}


async def test_the_zeros_at_the_end_are_not_sent(bench: Bench) -> None:
    bench.note(op="bound", at=1.0)
    whole = (bench.folder / "spool" / "outbox").read_bytes()
    bench.write(bytes(4096))
    await bench.drain()
    assert bench.streams() == {"outbox/alice/None/1/1": whole}


async def test_a_forked_child_has_a_stream_of_its_own(bench: Bench) -> None:
    bench.note(op="bound", at=1.0)
    bench.note("outbox.p77", op="bound", at=1.0)
    bench.note("outbox.exe", op="bound", at=1.0)
    await bench.drain()
    assert set(bench.streams()) == {"outbox/alice/None/1/1", "outbox/alice/None/1/1.p77"}


async def test_an_outbox_that_is_damaged_sends_what_came_before(bench: Bench) -> None:
    bench.note(op="bound", at=1.0)
    whole = (bench.folder / "spool" / "outbox").read_bytes()
    await bench.drain()
    bench.write(b"\xff" * 100)
    await bench.drain()
    assert bench.streams() == {"outbox/alice/None/1/1": whole}


async def test_a_save_is_kept_with_what_was_reported_before_it(bench: Bench) -> None:
    bench.note(op="report", at=1.0, step=3, summary=True, values={"loss": 0.25, "bad": "NaN", "text": "x"})
    bench.save("best")
    bench.note(op="report", at=1.0, step=4, summary=True, values={"loss": 0.125})
    await bench.drain()
    (kept,) = bench.checkpoints()
    assert (kept.checkpoint, kept.bytes, kept.at) == ("best", 5, 1.0)
    assert dict(kept.summary) == {"step": 3, "loss": 0.25, "bad": None}
    assert [file.path for file in (await trees.read(bench.blobs, kept.tree)).files] == ["weights"]
    assert not (bench.folder / "spool" / "saves" / "000001").exists()


async def test_a_save_is_kept_once_over_a_restart(bench: Bench) -> None:
    bench.save("1")
    await bench.drain()
    bench.again()
    await bench.drain()
    assert len(bench.checkpoints()) == 1


@pytest.mark.parametrize("path", ["../../secret", "/etc", "saves/../../x", "saves/", "loads/x"])
async def test_a_save_outside_its_place_is_ignored(bench: Bench, path: str) -> None:
    bench.note(op="save", checkpoint="1", path=path, at=1.0)
    await bench.drain()
    assert not bench.checkpoints()


async def test_what_was_saved_can_be_loaded_at_once(bench: Bench) -> None:
    bench.save("7")
    bench.load("7")
    await bench.drain()
    path = bench.folder / "spool" / bench.answer()["path"]
    assert (path / "weights").read_text() == "w7"


async def test_no_name_means_the_latest(bench: Bench) -> None:
    bench.save("1", "saves/1")
    bench.save("2", "saves/2")
    bench.load(None)
    await bench.drain()
    assert (bench.folder / "spool" / bench.answer()["path"] / "weights").read_text() == "w2"


async def test_another_sessions_checkpoint_is_asked_of_the_platform(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights").write_text("theirs")
    digest, _ = await trees.store(bench.blobs, tmp_path / "other", [tmp_path / "other" / "weights"])
    bench.known["bob/None/3", "best"] = digest
    bench.load("best", session="bob/None/3")
    await bench.drain()
    assert (bench.folder / "spool" / bench.answer()["path"] / "weights").read_text() == "theirs"


async def test_a_session_that_came_from_another_finds_its_checkpoints_as_its_own(
    bench: Bench, tmp_path: Path
) -> None:
    bench.run = Run(code="", parent="alice/None/0", iteration="9")
    bench.known["alice/None/0", "9"] = await bench.blobs.put_bytes(orjson.dumps({"files": []}))
    bench.again()
    bench.load("9")
    await bench.drain()
    assert "path" in bench.answer()


async def test_a_checkpoint_that_is_not_there_is_answered(bench: Bench) -> None:
    bench.load("none")
    await bench.drain()
    assert bench.answer()["error"] == "not-found"


async def test_a_question_is_answered_again_after_a_restart(bench: Bench) -> None:
    bench.save("1")
    bench.load("1")
    await bench.drain()
    (bench.folder / "spool" / "inbox" / "r1.json").unlink()
    bench.again()
    await bench.drain()
    assert (bench.folder / "spool" / bench.answer()["path"] / "weights").read_text() == "w1"


async def test_a_request_with_a_path_for_a_name_is_ignored(bench: Bench) -> None:
    bench.save("1")
    bench.load("1", request="../../x")
    await bench.drain()
    assert not (bench.folder / "spool" / "inbox").exists()
