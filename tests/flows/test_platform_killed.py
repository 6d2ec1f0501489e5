"""The whole platform killed with SIGKILL, again and again, while sessions are queued and run."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

KILLS = 100
SESSIONS = 200
SCRIPT = b"echo START\nsleep 0.05\necho END\n"


class Killed:
    """A platform process that is killed and started again in the same home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {**os.environ, "NSML_HOME": str(home), "NSML_USER": "alice"}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nsml.app"], env=self.env, stdout=subprocess.DEVNULL,
            stderr=(self.home / "platform.log").open("ab"), start_new_session=True,
        )  # fmt: skip

    def kill(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ask(self, method: str, path: str, body: bytes = b"") -> Any:
        """The answer, asked for until the platform gives one; a repeat carries the same id."""
        end = time.monotonic() + 60
        while True:
            try:
                facts = json.loads((self.home / "platform.json").read_text())
                address = urllib.parse.urlsplit(facts["api"])
                connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
                headers = {"Authorization": f"Bearer {(self.home / 'token').read_text()}"}
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                data = answer.read()
                if answer.status < 300:
                    return json.loads(data)
                assert answer.status == 503, (answer.status, data)
            except (OSError, ValueError, http.client.HTTPException):
                pass
            assert time.monotonic() < end, f"no answer to {method} {path}: {self.log()}"
            time.sleep(0.02)

    def log(self) -> str:
        return (self.home / "platform.log").read_text()[-2000:]


def _submit(platform: Killed, names: list[str]) -> None:
    tree = json.dumps(
        {
            "files": [
                {
                    "path": "main.sh",
                    "bytes": len(SCRIPT),
                    "sha256": hashlib.sha256(SCRIPT).hexdigest(),
                    "executable": False,
                }
            ]
        }
    ).encode()
    pack = b"".join(hashlib.sha256(b).digest() + len(b).to_bytes(8, "little") + b for b in (SCRIPT, tree))
    platform.ask("POST", "/v1/blobs", pack)
    for number in range(SESSIONS):
        body = {"code": hashlib.sha256(tree).hexdigest(), "entry": "main.sh", "request": {"gpus": 0}}
        command = {"id": hashlib.sha256(f"run {number}".encode()).hexdigest()[:32], "body": body}
        names.append(
            platform.ask("POST", "/v1/commands/session.run", json.dumps(command).encode())["session"]
        )


@pytest.mark.timeout(600)
def test_every_accepted_session_ends_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    platform = Killed(tmp_path)
    names: list[str] = []
    dice = random.Random(7)
    platform.start()
    submitting = threading.Thread(target=_submit, args=(platform, names))
    submitting.start()
    try:
        for _ in range(KILLS):
            time.sleep(dice.uniform(0.3, 1.2))
            platform.kill()
            platform.start()
        submitting.join(timeout=120)
        assert not submitting.is_alive()
        rows = _all_ended(platform)
        assert len(names) == len(set(names)) == SESSIONS
        assert {row["session"] for row in rows} == set(names)
        wrong = [
            row for row in rows if (row["status"], row["attempt"], row["exit_code"]) != ("completed", 1, 0)
        ]
        assert not wrong, wrong[:3]
        for name in names[:: SESSIONS // 20]:
            assert _log(platform, name).splitlines()[:2] == ["START", "END"], name
    finally:
        platform.kill()


def _all_ended(platform: Killed) -> list[dict[str, Any]]:
    end = time.monotonic() + 90
    while True:
        rows: list[dict[str, Any]] = platform.ask("GET", "/v1/sessions?all=1&limit=1000")
        if all(row["status"] in ("completed", "failed", "stopped") for row in rows):
            return rows
        assert time.monotonic() < end, [
            r for r in rows if r["status"] not in ("completed", "failed", "stopped")
        ][:5]
        time.sleep(0.1)


def _log(platform: Killed, name: str) -> str:
    facts = json.loads((platform.home / "platform.json").read_text())
    address = urllib.parse.urlsplit(facts["api"])
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    token = (platform.home / "token").read_text()
    connection.request("GET", f"/v1/sessions/{name}/log", headers={"Authorization": f"Bearer {token}"})
    return connection.getresponse().read().decode()
