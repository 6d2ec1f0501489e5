"""The command line in this process, talking to a fake platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fake_platform
import pytest
from fake_platform import Typing


@pytest.fixture
def platform() -> Iterator[fake_platform.FakePlatform]:
    with fake_platform.fake_platform() as made:
        yield made


@pytest.fixture
def nsml(
    platform: fake_platform.FakePlatform,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Typing:
    """`nsml` as typed in an empty folder, against the fake platform."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NSML_SERVER", platform.base)
    monkeypatch.setenv("NSML_TOKEN", fake_platform.TOKEN)
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NSML_HOME", "NSML_DEBUG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return Typing(monkeypatch)
