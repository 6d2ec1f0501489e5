"""The path of a run, on a whole embedded platform: as it is, with messages doubled, shuffled, or on RabbitMQ."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import brokers
import pytest
from worlds import World, a_world

from nsml.core import catalogue as c
from nsml.core.session import State

MODIFIERS = [{}, {"twice": True}, {"shuffled": True}, {"twice": True, "shuffled": True}, {"rabbit": True}]
NAMES = ["plain", "twice", "shuffled", "twice-shuffled", "rabbit"]


@contextlib.asynccontextmanager
async def on_its_bus(home: Path, *, rabbit: bool = False, **modifiers: bool) -> AsyncIterator[World]:
    """A world, on RabbitMQ if it is to be; skipped without one."""
    if not rabbit:
        async with a_world(home, **modifiers) as world:
            yield world
        return
    where, cluster = brokers.url(), brokers.a_cluster()
    try:
        async with a_world(home, NSML_BUS=where, NSML_CLUSTER=cluster, **modifiers) as world:
            yield world
    finally:
        await brokers.sweep(where, cluster)


SAVING = """
    import nsml, os
    nsml.bind(save=lambda path: open(os.path.join(path, "w"), "w").write("x"))
    for step in range(1, 4):
        nsml.report(summary=True, step=step, epoch=step, epoch_total=3, train__loss=1 / step)
        nsml.save(step)
    print("trained")
"""


@pytest.mark.parametrize("modifiers", MODIFIERS, ids=NAMES)
async def test_a_session_runs_once_and_leaves_log_curve_and_checkpoints(
    tmp_path: Path, modifiers: dict[str, bool]
) -> None:
    async with on_its_bus(tmp_path, **modifiers) as world:
        name = await world.run(SAVING)
        session = await world.until(name)
        assert (session.state, session.code, session.attempt) == (State.COMPLETED, 0, 1)
        assert (await world.log(name)).count("trained") == 1
        store = world.ports.store
        saved = await store.tally("checkpoint", "session")
        assert saved == {name: 3}
        summary = await store.load(f"summary/{name}")
        assert summary and summary.body and summary.body["reports"] == 3


@pytest.mark.parametrize("modifiers", MODIFIERS, ids=NAMES)
async def test_a_failure_is_told_once_and_mailed_once(tmp_path: Path, modifiers: dict[str, bool]) -> None:
    async with on_its_bus(tmp_path, **modifiers) as world:
        name = await world.run("import sys; print('last words', flush=True); sys.exit(3)")
        session = await world.until(name)
        assert (session.state, session.code) == (State.FAILED, 3)
        assert "last words" in session.tail
        await world.until_mails(1)
        (mail,) = world.mails()
        assert name in mail and "last words" in mail


@pytest.mark.parametrize("modifiers", MODIFIERS, ids=NAMES)
async def test_a_failing_session_is_tried_again_as_often_as_asked(
    tmp_path: Path, modifiers: dict[str, bool]
) -> None:
    async with on_its_bus(tmp_path, **modifiers) as world:
        name = await world.run("import sys; print('again', flush=True); sys.exit(1)", retries=2)
        session = await world.until(name)
        assert (session.state, session.attempt) == (State.FAILED, 3)
        assert (await world.log(name)).count("again") == 3


@pytest.mark.parametrize("modifiers", MODIFIERS, ids=NAMES)
async def test_many_sessions_end_once_each(tmp_path: Path, modifiers: dict[str, bool]) -> None:
    async with on_its_bus(tmp_path, **modifiers) as world:
        names = [await world.run(f"print('START {i}')") for i in range(12)]
        for i, name in enumerate(names):
            assert (await world.until(name)).state is State.COMPLETED
            assert (await world.log(name)).count(f"START {i}\n") == 1


async def test_gpus_are_never_shared(tmp_path: Path) -> None:
    async with a_world(tmp_path, NSML_GPU="static:2") as world:
        names = [await world.run("import time; time.sleep(0.2)", gpus=1) for _ in range(6)]
        for name in names:
            assert (await world.until(name)).state is State.COMPLETED
        busy: dict[int, str] = {}
        for envelope in sorted({e.id: e for e in world.seen}.values(), key=lambda e: e.at):
            if isinstance(envelope.body, c.SessionPlaced):
                for gpu in envelope.body.slots[0].gpus:
                    assert gpu not in busy, (
                        f"GPU {gpu} was given to {envelope.body.session}, {busy[gpu]} holds it"
                    )
                    busy[gpu] = envelope.body.session
            if isinstance(envelope.body, c.SessionCompleted):
                busy = {gpu: name for gpu, name in busy.items() if name != envelope.body.session}
