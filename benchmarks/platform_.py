"""What the benchmarks share: a platform in a temporary home, and a client that talks to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PYTHON = Path(sys.executable)
NSML = PYTHON.with_name("nsml")


class Platform:
    """A running embedded platform; *home* is its `HOME`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {k: v for k, v in os.environ.items() if not k.startswith("NSML_")}
        self.env = {**kept, "HOME": str(home), "NO_COLOR": "1"}
        self.nsml("up", "--detach")
        facts = json.loads((home / ".nsml" / "platform.json").read_text())
        self.pid = int(facts["pid"])
        self.address = urllib.parse.urlsplit(facts["api"])
        self.token = (home / ".nsml" / "token").read_text().strip()

    def nsml(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [NSML, *words], env=self.env, cwd=cwd, capture_output=True, text=True, check=True
        )

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.address.hostname or "", self.address.port)

    def ask(self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"") -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {data[:300]!r}")
        return json.loads(data)

    def processes(self) -> list[int]:
        """The processes that belong to this platform."""
        mark = f"HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found


@contextlib.contextmanager
def a_platform() -> Iterator[Platform]:
    """A platform of its own, stopped and removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="nsml-bench-"))
    try:
        platform = Platform(home)
        yield platform
        platform.nsml("down", "--all")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def settle(seconds: float) -> None:
    """Let what the start stirred up come to rest."""
    time.sleep(seconds)
