"""Who may import whom: the contracts of pyproject.toml hold, and each of them can break."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """What import-linter says of the project in *folder*."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{folder / 'cli'}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_import_contracts_hold():
    found = lint(ROOT)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("nsml/bus/memory.py", "import nsml.api", "Who may import whom"),
        ("nsml/notify/service.py", "from nsml.monitor import host", "Who may import whom"),
        ("nsml/core/node.py", "import asyncio", "Decisions do no I/O"),
        ("nsml/notify/rules.py", "import orjson", "Decisions do no I/O"),
        ("nsml/api/__init__.py", "import obstore", "Each driver has one adapter: obstore"),
        ("nsml/bus/relay.py", "import aio_pika", "Each driver has one adapter: aio_pika"),
        ("nsml/notify/service.py", "import sqlite3", "Each driver has one adapter: sqlite3"),
        ("nsml/store/mongo.py", "import motor", "Each driver has one adapter: motor"),
        ("nsml/monitor/host.py", "import aiohttp", "HTTP is spoken by the API and the CLI alone"),
        ("nsml/encoder.py", "import orjson", "What user code imports stands alone"),
        ("nsml/__init__.py", "import nsml.core.ids", "The package root imports the SDK and nothing else"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, file, line, contract):
    for package in ("nsml", "cli/nsml_cli"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as source:
        source.write(f"\n{line}\n")
    found = lint(tmp_path)
    assert found.returncode == 1 and f"{contract} BROKEN" in found.stdout, found.stdout + found.stderr
