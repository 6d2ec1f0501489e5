"""Stopping, removing, resuming, preempting and losing, on a whole embedded platform."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import a_world

from nsml.core import catalogue as c
from nsml.core.session import State

FOREVER = "import time\nprint('up', flush=True)\nwhile True: time.sleep(0.05)\n"
MODIFIERS = [{}, {"twice": True}, {"shuffled": True}]
NAMES = ["plain", "twice", "shuffled"]


@pytest.mark.parametrize("modifiers", MODIFIERS, ids=NAMES)
async def test_a_running_session_stops_without_a_mail(tmp_path: Path, modifiers: dict[str, bool]) -> None:
    async with a_world(tmp_path, **modifiers) as world:
        name = await world.run(FOREVER)
        await world.until(name, State.RUNNING)
        await world.tell(c.StopSession(session=name))
        session = await world.until(name)
        assert (session.state, session.reason) == (State.STOPPED, "stopped by alice")
        assert not world.mails()


@pytest.mark.parametrize("modifiers", MODIFIERS, ids=NAMES)
async def test_a_session_stopped_at_once_never_stays(tmp_path: Path, modifiers: dict[str, bool]) -> None:
    async with a_world(tmp_path, **modifiers) as world:
        names = [await world.run(FOREVER) for _ in range(8)]
        for name in names:
            await world.tell(c.StopSession(session=name, now=True))
        for name in names:
            assert (await world.until(name)).state is State.STOPPED
        await world.nothing_runs()


async def test_a_removed_session_leaves_nothing(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        name = await world.run(FOREVER)
        await world.until(name, State.RUNNING)
        await world.tell(c.RemoveSession(session=name, force=True))
        await world.until(name, State.REMOVED)
        await world.nothing_runs()
        await world.eventually(lambda: world.no_streams(name))


async def test_a_higher_priority_preempts_and_the_victim_runs_again(tmp_path: Path) -> None:
    async with a_world(tmp_path, NSML_GPU="static:1") as world:
        low = await world.run(FOREVER, gpus=1)
        await world.until(low, State.RUNNING)
        high = await world.run("print('urgent')", gpus=1, priority=5)
        assert (await world.until(high, seconds=60)).state is State.COMPLETED
        session = await world.until(low, State.RUNNING)
        assert session.attempt == 2
        await world.tell(c.StopSession(session=low, now=True))
        await world.until(low)


async def test_a_preempted_session_saves_first_and_goes_on_from_there(tmp_path: Path) -> None:
    script = """
        import argparse, nsml, os, time
        parser = argparse.ArgumentParser()
        parser.add_argument("--pause", type=int, default=0); parser.add_argument("--iteration")
        done, seen = ["7"], []
        def save(path): open(os.path.join(path, "w"), "w").write(done[-1])
        def load(path): seen.append(open(os.path.join(path, "w")).read())
        nsml.bind(save=save, load=load)
        if parser.parse_args().pause:
            nsml.paused(scope=locals())
            print("WENT ON", seen, flush=True)
        else:
            nsml.save("seven")
            done.append("8")
            while True: time.sleep(0.05)
    """
    async with a_world(tmp_path, NSML_GPU="static:1") as world:
        low = await world.run(script, gpus=1)
        await world.eventually(lambda: world.has_checkpoint(low))
        high = await world.run("print('urgent')", gpus=1, priority=5)
        await world.until(high, seconds=60)
        assert (await world.until(low, seconds=60)).state is State.COMPLETED
        assert "WENT ON ['8']" in await world.log(low), await world.log(low)


async def test_a_gang_starts_on_all_its_nodes_and_ends_together(tmp_path: Path) -> None:
    async with a_world(tmp_path, NSML_GPU="static:2") as world:
        await world.add_node("n2")
        name = await world.run("import os; print('RANK', os.environ['NSML_RANK'])", gpus=2, nodes=2)
        session = await world.until(name)
        assert session.state is State.COMPLETED, session.reason
        bad = await world.run(
            "import os, sys, time\nif os.environ['NSML_RANK'] == '1': sys.exit(9)\ntime.sleep(60)\n",
            gpus=2,
            nodes=2,
        )
        session = await world.until(bad)
        assert (session.state, session.code) == (State.FAILED, 9) and "rank 1" in session.reason
        await world.nothing_runs()


async def test_a_killed_executor_comes_back_to_its_running_session(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        name = await world.run(
            "import time\nfor i in range(30):\n    print('tick', i, flush=True); time.sleep(0.05)\n"
        )
        await world.until(name, State.RUNNING)
        await world.kill("executor")
        await world.start_role("executor")
        session = await world.until(name)
        assert (session.state, session.attempt) == (State.COMPLETED, 1)
        ticks = [line for line in (await world.log(name)).splitlines() if line.startswith("tick")]
        assert ticks == [f"tick {i}" for i in range(30)]


async def test_no_queue_is_turned_away_and_leaves_nothing(tmp_path: Path) -> None:
    async with a_world(tmp_path, NSML_GPU="static:1") as world:
        holder = await world.run(FOREVER, gpus=1)
        await world.until(holder, State.RUNNING)
        name = await world.run("print(1)", gpus=1, no_queue=True)
        await world.until(name, State.REMOVED)
        await world.tell(c.StopSession(session=holder, now=True))
        await world.until(holder)
