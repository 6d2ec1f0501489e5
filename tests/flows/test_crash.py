"""Every role killed at every durable step, and started again: nothing accepted is lost, nothing runs twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import a_world, steps

from nsml.core import catalogue as c
from nsml.core.session import State

SCRIPT = """
    import nsml, os
    nsml.bind(save=lambda path: open(os.path.join(path, "w"), "w").write("x" * 2_000_000))
    print("START", flush=True)
    nsml.report(summary=True, step=1, loss=1.0)
    nsml.save("one")
    open("made.bin", "wb").write(bytes(3 << 20))
    print("END")
"""


@pytest.mark.parametrize("step", steps())
async def test_a_role_killed_at_a_durable_step_loses_nothing(tmp_path: Path, step: str) -> None:
    async with a_world(tmp_path, kill_at=step) as world:
        good = await world.run(SCRIPT)
        bad = await world.run("import sys; sys.exit(4)")
        gone = await world.run("import time; time.sleep(60)")
        await world.tell(c.StopSession(session=gone, now=True))
        assert (await world.until(good)).state is State.COMPLETED
        assert (await world.until(bad)).state is State.FAILED
        assert (await world.until(gone)).state is State.STOPPED
        assert world.failpoint.killed.is_set(), f"{step} was never reached"
        log = await world.log(good)
        assert (log.count("START"), log.count("END")) == (1, 1), log
        session = await world.session(good)
        assert session and session.attempt == 1 and session.output
        await world.eventually(lambda: world.has_checkpoint(good))
        await world.until_mails(1)
        assert len(world.mails()) == 1
        await world.nothing_runs()
