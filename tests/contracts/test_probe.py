"""What every GPU probe promises: stable uuids, a load for each GPU, a lost GPU as a reading."""

from __future__ import annotations

from collections.abc import AsyncIterator

import adapters
import pytest

from nsml.core.ports import GpuProbe


@pytest.fixture(params=tuple(adapters.PROBES))
def make(request):
    """Makes a probe of a node with so many GPUs."""
    return adapters.PROBES[request.param]


@pytest.fixture
async def probe(make, tmp_path) -> AsyncIterator[GpuProbe]:
    async with make(tmp_path, 4) as probe:
        yield probe


async def test_it_sees_every_gpu_in_order(probe):
    reading = await probe.read()
    assert [gpu.index for gpu in reading.gpus] == [0, 1, 2, 3]
    assert all(gpu.healthy for gpu in reading.gpus)


async def test_uuids_are_stable_and_tell_gpus_apart(probe, make, tmp_path):
    first = [gpu.uuid for gpu in (await probe.read()).gpus]
    async with make(tmp_path, 4) as again:
        assert [gpu.uuid for gpu in (await again.read()).gpus] == first
    assert len(set(first)) == 4 and all(first)


async def test_it_tells_a_load_for_each_gpu_and_none_for_what_it_cannot_know(probe):
    reading = await probe.read()
    assert [load.index for load in reading.loads] == [0, 1, 2, 3]
    for load in reading.loads:
        assert load.utilization is None or 0 <= load.utilization <= 100
        assert load.memory_used is None or load.memory_used >= 0


async def test_a_node_without_gpus_is_a_reading_too(make, tmp_path):
    async with make(tmp_path, 0) as probe:
        reading = await probe.read()
        assert (reading.gpus, reading.loads) == ((), ())


async def test_ping_is_silent_when_all_is_well(probe):
    await probe.ping()
