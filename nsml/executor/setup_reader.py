"""`python -I setup_reader.py SETUP` prints what a setup.py wants installed, as JSON, and installs nothing."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any


def main(path: str) -> None:
    """Run the setup.py at *path* with stand-ins for the build tools that only take down what it asks for."""
    asked: list[str] = []

    def setup(**kwargs: Any) -> None:
        wanted = kwargs.get("install_requires") or kwargs.get("requires") or []
        asked.extend([wanted] if isinstance(wanted, str) else map(str, wanted))

    for name in ("setuptools", "distutils", "distutils.core", "setuptools.command", "skbuild"):
        sys.modules[name] = _StandIn(name, setup)
    folder = Path(path).resolve().parent
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = ["setup.py", "--quiet"]
    out, sys.stdout = sys.stdout, sys.stderr
    code = compile(Path(path).read_text(encoding="utf-8", errors="replace"), path, "exec")
    exec(code, {"__name__": "__main__", "__file__": path})
    lines = [line.strip() for item in asked for line in item.splitlines()]
    json.dump([line for line in lines if line], out)


class _StandIn(types.ModuleType):
    """A module that has every name: classes to derive from, functions that answer nothing."""

    def __init__(self, name: str, setup: Any) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.setup = setup

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {}) if name[:1].isupper() else lambda *_, **__: []


if __name__ == "__main__":
    main(sys.argv[1])
