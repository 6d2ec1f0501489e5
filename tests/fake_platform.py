"""For tests of the command line: a platform's HTTP side in memory, and commands typed in this process."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
import pytest

from nsml.core.plain import plain
from nsml.core.tree import File, Tree
from nsml_cli import main

TOKEN = "nsml_test"


@dataclass
class Call:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What is sent back; *chunks* are sent one by one, *breaks* cuts the connection after them."""

    status: int = 200
    data: Any = None
    chunks: list[bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    breaks: bool = False


@dataclass
class FakePlatform:
    """Answers by path (`answers`, a value or a function of the call), keeps blobs, remembers every call."""

    answers: dict[str, Any] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    base: str = ""

    def commands(self, name: str) -> list[dict[str, Any]]:
        """The bodies of the commands of that name."""
        found = [call.json for call in self.calls if call.path == f"/v1/commands/{name}"]
        return [outer["body"] for outer in found]

    def add_tree(self, files: dict[str, bytes]) -> str:
        """Store a tree as if it had been uploaded; its digest."""
        listed = tuple(
            File(path=path, bytes=len(content), sha256=self.add(content)) for path, content in files.items()
        )
        return self.add(orjson.dumps(plain(Tree(files=listed))))

    def add(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def answer(self, call: Call) -> Answer:
        if call.path.startswith("/v1/blobs"):
            return self._blobs(call)
        found = self.answers.get(call.path)
        if found is None:
            error = {"code": "not-found", "message": f"There is nothing at {call.path}.", "hint": "See ps."}
            return Answer(404, {"error": error})
        made = found(call) if callable(found) else found
        return made if isinstance(made, Answer) else Answer(200, made)

    def _blobs(self, call: Call) -> Answer:
        digest = call.path.rpartition("/")[2]
        if digest == "missing":
            return Answer(200, {"missing": [d for d in call.json["digests"] if d not in self.blobs]})
        if digest == "fetch":
            packs = [self._packed(d) for d in call.json["digests"]]
            return Answer(chunks=packs)
        if call.method == "POST":
            for content in _unpacked(call.body):
                self.add(content)
            return Answer(200, {"stored": 1})
        if call.method == "PUT":
            return Answer(200, {"stored": int(self.add(call.body) == digest)})
        return Answer(chunks=[self.blobs[digest]])

    def _packed(self, digest: str) -> bytes:
        content = self.blobs[digest]
        return bytes.fromhex(digest) + len(content).to_bytes(8, "little") + content


def _unpacked(data: bytes) -> Iterator[bytes]:
    while data:
        length = int.from_bytes(data[32:40], "little")
        content = data[40 : 40 + length]
        assert hashlib.sha256(content).digest() == data[:32]
        yield content
        data = data[40 + length :]


@contextmanager
def fake_platform() -> Iterator[FakePlatform]:
    """A fake platform that listens on loopback."""
    platform = FakePlatform()
    server = _Server(("127.0.0.1", 0), _handler(platform))
    platform.base = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield platform
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is part of some tests; what it should have seen is asserted on its side."""


def _handler(platform: FakePlatform) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Tests want no access log."""

        def serve(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            call = Call(self.command, parts.path, dict(parse_qsl(parts.query)), body)
            platform.calls.append(call)
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                self.send(Answer(401, {"error": {"code": "no-token", "message": "no", "hint": ""}}))
            else:
                self.send(platform.answer(call))

        def send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.chunks is None:
                content = json.dumps(answer.data).encode()
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for chunk in answer.chunks:
                if chunk:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            if answer.breaks:
                self.close_connection = True
            else:
                self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_PUT = serve

    return Handler


# -- typing ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Done:
    """How a command ended; `raw` is its stdout as bytes."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


class Typing:
    """Types commands and reads what they print."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def __call__(self, *words: str) -> Done:
        out, err = io.BytesIO(), io.BytesIO()
        with self._patch.context() as patch:
            patch.setattr(sys, "argv", ["nsml", *words])
            patch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="utf-8", write_through=True))
            patch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding="utf-8", write_through=True))
            code = main.run()
            made = out.getvalue(), err.getvalue().decode("utf-8", "replace")
        return Done(code, *made)
