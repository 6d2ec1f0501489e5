"""A TCP proxy between a test and a server, which can be told to behave badly."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Self


class Proxy:
    """Passes on what goes to *port* of this machine. `mode`: "pass"; "drop" closes every connection; "lose" passes
    requests on, and closes instead of passing on the answer, "lose one" does so once; "hang" passes on nothing
    more, either way."""

    def __init__(self, port: int) -> None:
        self.mode = "pass"
        self.lost = 0  # answers
        self._target = port
        self._changed = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._server.close()
        self.be("drop")
        while self._writers:
            await asyncio.sleep(0.005)

    def be(self, mode: str) -> None:
        self.mode = mode
        self._changed.set()
        self._changed = asyncio.Event()
        if mode == "drop":
            for writer in self._writers:
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "drop":
            writer.transport.abort()
            return
        back, on = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, on}
        try:
            await asyncio.gather(self._pass(reader, on), self._pass(back, writer, answers=True))
        finally:
            self._writers -= {writer, on}
            for end in (writer, on):
                end.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool = False
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                while self.mode == "hang":
                    await self._changed.wait()
                if answers and self.mode.startswith("lose"):
                    self.lost += 1
                    if self.mode == "lose one":
                        self.be("pass")
                    break
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
