"""How an attempt is laid out on the node before it starts: code, datasets, environment."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from nsml.core.errors import Refused
from nsml.core.ports import Blobs, Clock, Executor, Mount, RunSpec
from nsml.executor import datasets, trees
from nsml.executor.attempt import Kept, Phase, quoted, warning
from nsml.executor.bundle import Host, run_spec
from nsml.executor.environment import Environment, Environments, read_wanted
from nsml.executor.process import remove
from nsml.executor.shipper import Tell
from nsml.executor.spool import Checkpoints

Progressed = Callable[[Phase, str], Awaitable[None]]


class NotBuilt(Refused):
    """The environment lacks something and the session was not to run without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What all attempts of a node share."""

    host: Host
    attempts: Path
    executor: Executor
    blobs: Blobs
    clock: Clock
    datasets: datasets.Datasets
    environments: Environments
    tell: Tell
    checkpoints: Checkpoints | None = None

    @property
    def name(self) -> str:
        return self.host.settings.node


async def lay(
    node: Node,
    kept: Kept,
    folder: Path,
    held: AsyncExitStack,
    progress: Progressed,
    ship: Callable[[], Awaitable[None]],
) -> RunSpec:
    """Lay *kept* out in *folder* and say what to start. What it shares with others is released by *held*.

    *progress* hears what takes long, *ship* is called while the build talks. Raises `NotBuilt`, another
    `NsmlError`, or OSError.
    """
    if (folder / "spool").exists():
        await asyncio.to_thread(_empty, folder)
    (folder / "spool").mkdir()
    run = kept.spec.run
    await trees.lay(node.blobs, await trees.read(node.blobs, run.code), folder / "app")
    mounts = await _datasets(node, kept, folder, held, progress)
    environment = await _environment(node, kept, folder, held, progress, ship)
    free = max(1, shutil.disk_usage(folder).free)
    return run_spec(node.host, kept, folder, environment.python, mounts, free)


async def hold_again(node: Node, kept: Kept, folder: Path, held: AsyncExitStack) -> None:
    """After a restart: keep what a running attempt uses from being given up."""
    for dataset in kept.spec.run.datasets:
        await node.datasets.hold(dataset.tree)
        held.callback(node.datasets.release, dataset.tree)
    mark = folder / "environment"
    if mark.exists():
        environment = node.environments.hold_again(mark.read_text())
        held.callback(node.environments.release, environment)


def _empty(folder: Path) -> None:
    """Begin anew: what is there is half of something."""
    for name in ("app", "data", "spool"):
        remove(folder / name)
    for name in ("log", "build", "environment"):
        (folder / name).unlink(missing_ok=True)


async def _datasets(
    node: Node, kept: Kept, folder: Path, held: AsyncExitStack, progress: Progressed
) -> tuple[Mount, ...]:
    wanted = kept.spec.run.datasets
    absent = [dataset.name for dataset in wanted if not node.datasets.has(dataset.tree)]
    if absent:
        await progress(Phase.DATA, f"fetching {', '.join(absent)}")

    async def hold(digest: str) -> Path:
        path = await node.datasets.hold(digest)
        held.callback(node.datasets.release, digest)
        return path

    return await datasets.show(wanted, folder / "data", hold)


async def _environment(
    node: Node,
    kept: Kept,
    folder: Path,
    held: AsyncExitStack,
    progress: Progressed,
    ship: Callable[[], Awaitable[None]],
) -> Environment:
    """What the session runs with; its log says first what is not as it was asked for."""
    run = kept.spec.run
    want = read_wanted(folder / "app", run.image)
    words = []
    if want.image:
        words.append(f"[nsml: The image {want.image} is not used: sessions run in this machine's Python.]\n")
    if want.packages:
        words.append(f"[nsml: nsml_package.txt is not installed here: {' '.join(want.packages)}.]\n")
    environment = Environment(python=node.host.settings.python)
    if not want.is_empty:
        loud = _Loud(folder / "build", lambda: progress(Phase.ENVIRONMENT, "building"), ship)
        async with loud:
            environment = await node.environments.hold(want, folder / "app", run.environment, loud.hear)
        held.callback(node.environments.release, environment)
        await asyncio.to_thread((folder / "environment").write_text, environment.name)
    if environment.failed:
        told, build = warning(environment.failed, run.strict_env), folder / "build"
        words.append(told + quoted(environment.tail))
        await asyncio.to_thread(_say, build, told if build.exists() else words[-1])
    if words:
        await asyncio.to_thread(_say, folder / "log", "".join(words))
    if environment.failed and run.strict_env:
        raise NotBuilt(f"{environment.failed[0]!r} could not be installed")
    return environment


class _Loud:
    """Lets people hear a build: its output goes to a file that is sent on while it grows."""

    def __init__(
        self, path: Path, first: Callable[[], Awaitable[None]], ship: Callable[[], Awaitable[None]]
    ) -> None:
        self._path = path
        self._first = first
        self._ship = ship
        self._heard = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._send(), name=f"build output of {self._path.parent.name}")

    async def __aexit__(self, *_: object) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def hear(self, data: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(data)
        self._heard.set()

    async def _send(self) -> None:
        await self._heard.wait()
        await self._first()
        while True:
            self._heard.clear()
            await self._ship()
            await self._heard.wait()


def _say(log: Path, text: str) -> None:
    with log.open("a", errors="replace") as file:
        file.write(text)
