"""What fits into a node at all, and sizes for people."""

from __future__ import annotations

import pytest

from nsml.core.resources import GIB, Capacity, Gpu, Request, has_model, never, size

GPUS = (
    Gpu(index=0, uuid="a", model="Tesla P40"),
    Gpu(index=1, uuid="b", model="Tesla P40"),
    Gpu(index=2, uuid="c", model="Tesla V100", healthy=False),
)
NODE = Capacity(gpus=GPUS, cpus=8.0, memory=32 * GIB)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request(gpus=2, cpus=8, memory=32 * GIB), None),
        (Request(), None),
        (Request(gpus=3), "3 GPUs wanted, it has 2"),
        (Request(gpus=3, gpu_model="p40"), "3 p40 GPUs wanted, it has 2"),
        (Request(gpus=1, gpu_model="V100"), "no GPU of model V100"),
        (Request(cpus=9), "9 CPUs wanted, it has 8"),
        (Request(memory=64 * GIB), "64 GB of memory wanted, it has 32 GB"),
    ],
)
def test_a_node_says_why_it_could_never_do(request_: Request, reason: str | None) -> None:
    assert never(request_, NODE) == reason


def test_a_model_is_found_within_the_name_the_driver_tells() -> None:
    assert has_model("Tesla P40", "p40")
    assert has_model("Tesla P40", "V100|P40")
    assert has_model("Tesla P40", "V100 | P40")
    assert has_model("anything", "")
    assert not has_model("Tesla P40", "P4000")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KB"),
        (3670016, "3.5 MB"),
        (64 * GIB, "64 GB"),
        (1 << 60, "1024 PB"),
    ],
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert size(count) == text
