"""Which adapters there are for each port: name → how to open it in a folder. A production adapter joins the
contract tests by one line here. Opening twice in one folder must find what was left there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from nsml.bus.memory import MemoryBus
from nsml.clock import SystemClock
from nsml.core.ports import Blobs, Bus, Clock, Store, Streams
from nsml.store.blobs import ObjectBlobs
from nsml.store.sqlite import SqliteStore
from nsml.store.streams_file import FileStreams

BUSES: Mapping[str, Callable[[Path], Bus]] = {
    "memory": lambda folder: MemoryBus(),
}
STORES: Mapping[str, Callable[[Path], Store]] = {
    "sqlite": lambda folder: SqliteStore(folder / "nsml.db"),
}
STREAMS: Mapping[str, Callable[[Path], Streams]] = {
    "file": lambda folder: FileStreams(folder / "streams"),
}
BLOBS: Mapping[str, Callable[[Path], Blobs]] = {
    "file": lambda folder: ObjectBlobs(f"file:{folder / 'blobs'}"),
}
CLOCKS: Mapping[str, Callable[[Path], Clock]] = {
    "system": lambda folder: SystemClock(),
}
