"""The aiohttp application and the service that runs it."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from nsml.api import requests, routes
from nsml.api.auth import authenticated
from nsml.api.curves import Curves
from nsml.api.desk import DESK, Desk, Doors
from nsml.api.failures import failures
from nsml.api.live import Live
from nsml.core.errors import Refused, Unavailable
from nsml.core.ports import Blobs, Bus, Clock, Store, Streams
from nsml.settings import Settings

log = logging.getLogger("nsml.api")

BACKLOG = 1024  # connections the kernel holds for us in a rush
GRACE = 0.5  # seconds for answers under way when we stop; followers reconnect
LINGER = 2.0  # seconds in which a refused upload is read on, so that its sender sees why


class _Ours(logging.Filter):
    """Leaves out what strangers would fill the log with: broken request heads, connections that end early."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError | ConnectionError)


class Api:
    """The HTTP API. *doors* says how much comes in; it may be replaced before `run`."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        bus: Bus,
        blobs: Blobs,
        streams: Streams,
        clock: Clock,
        token: str,
    ) -> None:
        self.doors = Doors()
        self.ready = asyncio.Event()
        self.live = Live(bus, clock)
        self.curves = Curves(streams)
        self._settings = settings
        self._store, self._bus, self._blobs, self._streams, self._clock = store, bus, blobs, streams, clock
        self._token = token
        self._port = settings.port

    def application(self) -> web.Application:
        """The application, not yet listening; `live.run()` must run beside it."""
        app = web.Application(
            middlewares=[failures, authenticated(self._token, self._settings.user)],
            client_max_size=self.doors.body,
        )
        app[DESK] = Desk(
            settings=self._settings,
            store=self._store,
            bus=self._bus,
            blobs=self._blobs,
            streams=self._streams,
            clock=self._clock,
            live=self.live,
            curves=self.curves,
            address=self.address,
            doors=self.doors,
        )
        routes.add(app)
        return app

    def address(self) -> str:
        """Where it listens, as a URL."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"http://{host}:{self._port}"

    async def run(self, ready: Callable[[int], None] = lambda port: None) -> None:
        """Serve for ever; *ready* is called with the port once requests are answered."""
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self.live.run(), name="api follower")
            group.create_task(self._forget(), name="api requests")
            await self.live.ready.wait()
            runner = self.runner()
            await runner.setup()
            try:
                self._port = await self._listen(runner)
                ready(self._port)
                self.ready.set()
                await following
            finally:
                await runner.cleanup()

    async def _forget(self) -> None:
        """Forget old requests, once an hour."""
        while True:
            await self._clock.sleep(requests.EVERY)
            try:
                await requests.forget(self._store, self._clock.now() - requests.KEPT)
            except Unavailable as error:
                log.warning("old requests stay for now", extra={"why": error.message})

    def runner(self) -> web.AppRunner:
        """A runner that closes half requests and idle connections, and unpacks nothing."""
        server = logging.getLogger("nsml.api.server")
        if not server.filters:
            server.addFilter(_Ours())
        return web.AppRunner(
            self.application(),
            logger=server,
            access_log=None,
            keepalive_timeout=self.doors.idle,
            lingering_time=LINGER,
            shutdown_timeout=GRACE,
            auto_decompress=False,
        )

    async def _listen(self, runner: web.AppRunner) -> int:
        try:
            await web.TCPSite(runner, self._settings.host, self._settings.port, backlog=BACKLOG).start()
        except OSError as error:
            where = f"{self._settings.host}:{self._settings.port}"
            if error.errno == errno.EADDRINUSE:
                raise Refused(
                    f"Something listens on {where} already.", hint="Choose another NSML_PORT."
                ) from error
            raise Unavailable(f"The API cannot listen on {where}: {error.strerror}.") from error
        return int(runner.addresses[0][1])
