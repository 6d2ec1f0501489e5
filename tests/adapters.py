"""Which adapters there are for each port: name → how to open it in a folder. A production adapter joins the
contract tests by one line here. Opening twice in one folder must find what was left there."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Callable, Mapping, Sequence
from email.message import EmailMessage
from pathlib import Path

import brokers
import stores

from nsml.bus.memory import MemoryBus
from nsml.clock import SystemClock
from nsml.core.ports import Blobs, Bus, Clock, Executor, GpuProbe, Mailer, Store, Streams
from nsml.executor.process import ProcessExecutor
from nsml.monitor.static import StaticProbe
from nsml.notify.maildir import MaildirMailer
from nsml.store.blobs import ObjectBlobs
from nsml.store.sqlite import SqliteStore
from nsml.store.streams_file import FileStreams

BUSES: Mapping[str, Callable[[Path], Bus]] = {
    "memory": lambda folder: MemoryBus(),
    "rabbit": brokers.a_bus,
}
STORES: Mapping[str, Callable[[Path], Store]] = {
    "sqlite": lambda folder: SqliteStore(folder / "nsml.db"),
    "mongo": stores.mongo_store,
}
STREAMS: Mapping[str, Callable[[Path], Streams]] = {
    "file": lambda folder: FileStreams(folder / "streams"),
    "mongo": stores.mongo_streams,
}
BLOBS: Mapping[str, Callable[[Path], Blobs]] = {
    "file": lambda folder: ObjectBlobs(f"file:{folder / 'blobs'}"),
    "s3": stores.s3_blobs,
}
EXECUTORS: Mapping[str, Callable[[Path], Executor]] = {
    "process": lambda folder: ProcessExecutor(folder / "attempts", SystemClock()),
}
CLOCKS: Mapping[str, Callable[[Path], Clock]] = {
    "system": lambda folder: SystemClock(),
}


def _maildir_inbox(folder: Path) -> Sequence[EmailMessage]:
    files = [file for part in ("new", "cur") for file in sorted((folder / "mail" / part).iterdir())]
    return [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]


MAILERS: Mapping[str, Callable[[Path], Mailer]] = {
    "maildir": lambda folder: MaildirMailer(folder / "mail"),
}
INBOXES: Mapping[str, Callable[[Path], Sequence[EmailMessage]]] = {  # what the mailer of that name delivered
    "maildir": _maildir_inbox,
}
PROBES: Mapping[str, Callable[[Path, int], GpuProbe]] = {  # of a node with so many GPUs
    "static": lambda folder, gpus: StaticProbe(f"static:{gpus}", "n1"),
}

PORTS: Mapping[str, Mapping[str, object]] = {
    "bus": BUSES,
    "store": STORES,
    "streams": STREAMS,
    "blobs": BLOBS,
    "executor": EXECUTORS,
    "mailer": MAILERS,
    "probe": PROBES,
}
PRODUCTION = {  # what each port has, or is to have, besides: which server it wants, the adapter's name here
    "bus": ("RabbitMQ", "rabbit"),
    "store": ("MongoDB", "mongo"),
    "streams": ("MongoDB", "mongo"),
    "blobs": ("S3", "s3"),
    "executor": ("Docker", "docker"),
    "mailer": ("SMTP", "smtp"),
    "probe": ("NVML", "nvml"),
}


def tried_and_skipped() -> list[str]:
    """Two lines for the end of the tests: which adapters they tried, and which they could not."""
    there = {"rabbit": bool(brokers.found()), "mongo": stores.is_there("mongo"), "s3": stores.is_there("s3")}
    tried = [f"{name} ({port})" for port, known in PORTS.items() for name in known if there.get(name, True)]
    skipped = [f"{server} ({port})" for port, (server, name) in PRODUCTION.items() if not there.get(name)]
    return [
        f"Adapters tried: {', '.join(tried)}.",
        "Production adapters skipped, for no server of theirs runs here, or they are not written yet: "
        f"{', '.join(skipped)}. See './dev servers'.",
    ]
