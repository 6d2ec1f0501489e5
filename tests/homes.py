"""A platform as its users have it: a home folder of its own, commands typed as other processes."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NSML = Path(sys.executable).with_name("nsml")


@dataclass(frozen=True)
class Typed:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def everything(self) -> str:
        return self.text + self.err


class Home:
    """Types commands in a home of its own, and calls the API of its platform."""

    def __init__(self, path: Path, **settings: str) -> None:
        self.path = path
        self.nsml = path / ".nsml"
        kept = ("PATH", "LANG", "TMPDIR")
        self.env = {key: os.environ[key] for key in kept if key in os.environ}
        self.env |= {"HOME": str(path), "NSML_USER": "alice", **settings}
        path.mkdir(exist_ok=True)

    def __call__(self, *words: str | bytes, cwd: Path | None = None, seconds: float = 60) -> Typed:
        done = subprocess.run(
            [str(NSML), *words], cwd=cwd or self.path, env=self.env, capture_output=True, timeout=seconds,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return Typed(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))

    def code(self, name: str, script: str, **files: str) -> Path:
        """A folder with that main.py, to run from."""
        folder = self.path / "code" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "main.py").write_text(script)
        for file, text in files.items():
            (folder / file.replace("__", ".")).write_text(text)
        return folder

    def run(self, script: str, *words: str, **files: str) -> tuple[str, dict[str, Any], str]:
        """Run *script* to its end: its name, its row, its log."""
        folder = self.code(hashlib.sha256(script.encode()).hexdigest()[:8], script, **files)
        done = self("run", "-g", "0", "--wait", "--json", *words, cwd=folder)
        row = {**done.json, "exit": done.code, "err": done.err}
        return row["session"], row, self("logs", row["session"]).text

    def start(self, script: str, *words: str) -> str:
        """The name of a session that runs by now."""
        folder = self.code(hashlib.sha256(script.encode()).hexdigest()[:8], script)
        session = str(self("run", "--detach", "--json", *words, cwd=folder).json["session"])
        self.until(lambda: self.row(session)["status"] == "running")
        return session

    def row(self, session: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask("GET", f"/v1/sessions/{session}")[1]
        return answer

    def until(self, holds: Callable[[], Any], seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it did not come to that in time"
            time.sleep(0.05)

    # -- the API -------------------------------------------------------------------------------------
    @property
    def token(self) -> str:
        return (self.nsml / "token").read_text().strip()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an answer; *body* is bytes or what becomes JSON."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", int((self.nsml / "port").read_text()), timeout=30
        )
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, data, {"Authorization": f"Bearer {self.token}", **named})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, json.loads(content) if content[:1] in (b"{", b"[") else content.decode()

    def command(self, name: str, **body: Any) -> tuple[int, Any]:
        return self.ask("POST", f"/v1/commands/{name}", {"body": body})

    def push_tree(self, name: str, files: Any) -> tuple[int, Any]:
        """Push a dataset of that list of files; the blob `x` is there, others are not."""
        listed = files if isinstance(files, bytes) else json.dumps({"files": files}).encode()
        assert self.ask("POST", "/v1/blobs", packed(listed) + packed(b"x"))[0] == 200
        return self.command("dataset.push", dataset=name, tree=sha(listed), force=True)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def packed(data: bytes, digest: str = "", length: int | None = None) -> bytes:
    """*data* as a part of a pack; with another digest or length it is a forged one."""
    size = len(data) if length is None else length
    return bytes.fromhex(digest or sha(data)) + struct.pack("<Q", size) + data


def refused(done: Typed, code: int, *words: str) -> None:
    """The command was refused with that exit code, in a sentence that has *words*, and with a next step."""
    assert done.code == code, done.everything
    assert done.err.count("\n") >= 2 and "Traceback" not in done.everything, done.everything
    assert any(line.startswith("Error: ") for line in done.err.splitlines())
    for word in words:
        assert word in done.err
