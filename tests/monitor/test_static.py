"""What NSML_GPU may say."""

from __future__ import annotations

import pytest

from nsml.core.errors import BadInput
from nsml.core.resources import GIB
from nsml.monitor.static import StaticProbe


async def models(url: str) -> list[str]:
    return [gpu.model for gpu in (await StaticProbe(url, "n1").read()).gpus]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("none:", []),
        ("static:0", []),
        ("static:2", ["", ""]),
        ("static:1xA100-80G", ["A100-80G"]),
        ("static:2xV100,1xP40", ["V100", "V100", "P40"]),
        ("static:1xTesla V100, 1", ["Tesla V100", ""]),
    ],
)
async def test_it_understands(url, expected):
    assert await models(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "static:",
        "static:x",
        "static:4x",
        "static:-1",
        "static:4,",
        "static:99999",
        "static:1000,1000",
        "none:4",
        "nvml:",
        "",
        "static:1xA\x1b[31m",
        "static:٤",
    ],
)
def test_what_it_does_not_understand_names_the_setting_and_the_value(url):
    with pytest.raises(BadInput) as caught:
        StaticProbe(url, "n1")
    assert "NSML_GPU" in caught.value.message and "static:4" in caught.value.hint
    assert caught.value.message.isprintable()
    if url.isprintable():
        assert repr(url) in caught.value.message


async def test_the_memory_is_read_off_the_model():
    (gpu,) = (await StaticProbe("static:1xA100-80G", "n1").read()).gpus
    assert gpu.memory == 80 * GIB


async def test_the_same_gpu_of_another_node_has_another_uuid():
    ours, theirs = [(await StaticProbe("static:1", node).read()).gpus[0].uuid for node in ("n1", "n2")]
    assert ours != theirs
