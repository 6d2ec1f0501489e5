"""What a session writes, sent on: in batches, complete, again after a restart."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes import ManualClock

from nsml.core.catalogue import LogGrew
from nsml.core.messages import Message
from nsml.executor.shipper import LARGEST_BATCH, LogShipper, Progress, tail

WHO = ("alice/None/1", 1, 0)
LOG = "log/alice/None/1/1"


@dataclass
class Bench:
    folder: Path
    told: list[LogGrew] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.clock.advance(100)
        self.again()

    def again(self) -> None:
        self.shipper = LogShipper(self.folder, WHO, Progress(self.folder, self.clock), self.tell, self.clock)

    async def tell(self, message: Message) -> None:
        assert isinstance(message, LogGrew)
        self.told.append(message)

    def write(self, data: bytes, kind: str = "log") -> None:
        with (self.folder / kind).open("ab") as file:
            file.write(data)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_the_first_line_goes_at_once_and_the_next_wait_for_company(bench: Bench) -> None:
    bench.write(b"one\n")
    await bench.shipper.ship()
    bench.write(b"two\n")
    await bench.shipper.ship()
    assert [told.data for told in bench.told] == [b"one\n"]
    bench.write(b"three\n")
    bench.clock.advance(0.3)
    await bench.shipper.ship()
    assert [(told.offset, told.data) for told in bench.told] == [(0, b"one\n"), (4, b"two\nthree\n")]
    assert {told.stream for told in bench.told} == {LOG}


async def test_much_goes_at_once_in_pieces(bench: Bench) -> None:
    data = bytes(range(256)) * (10 * LARGEST_BATCH // 256)
    bench.write(data)
    await bench.shipper.ship()
    assert len(bench.told) == 10
    assert b"".join(told.data for told in bench.told) == data


async def test_a_drain_leaves_nothing_behind(bench: Bench) -> None:
    for kind in ("log", "log.err", "build"):
        bench.write(struct.pack("<QQ", 0, 1), kind)
    await bench.shipper.drain()
    bench.write(b"more")
    await bench.shipper.drain()
    assert bench.shipper.sizes() == {
        LOG: 20,
        "log.err/alice/None/1/1": 16,
        "build/alice/None/1/1": 16,
    }


async def test_ranges_are_sent_whole(bench: Bench) -> None:
    bench.write(struct.pack("<QQ", 0, 1) + b"half", "log.err")
    await bench.shipper.drain()
    assert [told.data for told in bench.told] == [struct.pack("<QQ", 0, 1)]


async def test_after_a_restart_it_goes_on_where_it_was(bench: Bench) -> None:
    bench.write(b"one\n")
    bench.clock.advance(5)
    await bench.shipper.drain()
    bench.again()
    bench.write(b"two\n")
    await bench.shipper.drain()
    assert [(told.offset, told.data) for told in bench.told] == [(0, b"one\n"), (4, b"two\n")]


async def test_a_batch_that_was_cut_off_is_sent_again(bench: Bench) -> None:
    bench.write(b"one\n")
    stuck = asyncio.Event()

    async def never(message: Message) -> None:
        stuck.set()
        await asyncio.Event().wait()

    shipper = LogShipper(bench.folder, WHO, Progress(bench.folder, bench.clock), never, bench.clock)
    task = asyncio.create_task(shipper.ship())
    await stuck.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await bench.shipper.drain()
    assert [told.data for told in bench.told] == [b"one\n"]


def test_a_tail_is_the_last_lines_fit_to_be_shown(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x\n" * 50_000 + b"50%\r100%\n\x1b[31mred\n\xff\n")
    assert tail(tmp_path / "log", 3).splitlines() == ["100%", "\N{REPLACEMENT CHARACTER}[31mred", "\ufffd"]
    assert tail(tmp_path / "none", 3) == ""
