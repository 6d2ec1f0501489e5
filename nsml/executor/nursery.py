"""The nursery as its user sees it: one small process that forks a supervisor for each session."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

from nsml.core.errors import Unavailable

log = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("supervise.py")
PATIENCE = 20.0  # seconds until a fork that was asked for counts as failed; it takes one millisecond


class Nursery:
    """Starts supervisors; itself started on first use, and again when it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._count = 0
        self._starting = asyncio.Lock()

    async def supervise(self, folder: Path) -> None:
        """Have a supervisor for *folder*, unless it has one. Raises `Unavailable`."""
        sock = await self._connected()
        self._count += 1
        number = self._count
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            request = orjson.dumps({"n": number, "folder": str(folder)})
            await asyncio.get_running_loop().sock_sendall(sock, request)
            async with asyncio.timeout(PATIENCE):
                await answer
        except (OSError, TimeoutError) as error:
            self._lose()
            raise Unavailable(f"The supervisor of {folder.name} does not start: {error}.") from error
        finally:
            self._asked.pop(number, None)

    async def close(self) -> None:
        """Let the nursery go; the supervisors stay."""
        process = self._process
        self._lose()
        if process:
            await asyncio.to_thread(_wait, process)

    async def _connected(self) -> socket.socket:
        async with self._starting:
            if self._socket is None:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    self._process = await asyncio.to_thread(_start, theirs)
                ours.setblocking(False)
                self._socket = ours
                asyncio.get_running_loop().add_reader(ours, self._on_answer, ours)
            return self._socket

    def _on_answer(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            log.warning("the nursery of supervisors ended; the next session starts another")
            self._lose()
            return
        answer = orjson.loads(data)
        waiting = self._asked.get(answer["n"])
        if waiting and not waiting.done():
            waiting.set_result(answer)

    def _lose(self) -> None:
        """Forget the connection; whoever waits on it is told."""
        if self._socket:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        self._socket = None
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("the nursery of supervisors ended"))


def _start(theirs: socket.socket) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", str(PROGRAM), str(theirs.fileno())]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        env={},
        cwd="/",
        start_new_session=True,
    )


def _wait(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
