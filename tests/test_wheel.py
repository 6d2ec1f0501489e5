"""What is installed is what we mean to install."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The project's wheel, built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_brings_two_packages_and_no_other_name(wheel):
    names = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"nsml", "nsml_cli"}


def test_the_wheel_brings_every_module(wheel):
    inside = set(wheel.namelist())
    for package in (ROOT / "nsml", ROOT / "cli" / "nsml_cli"):
        for module in package.rglob("*.py"):
            assert str(module.relative_to(package.parent)) in inside


def test_the_command_is_called_nsml(wheel):
    (entry,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "nsml = nsml_cli.main:run" in wheel.read(entry).decode()
