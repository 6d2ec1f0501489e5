"""Link: one plain AMQP connection that is opened again whenever it ends. No robust ones: they restore things
behind our back and, tried, not the consumer."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from urllib.parse import parse_qsl, urlencode, urlsplit

import aio_pika
from aio_pika import exceptions
from aio_pika.abc import AbstractChannel, AbstractConnection

from nsml.bus.patience import pauses
from nsml.core.errors import BadInput, NotAllowed, NsmlError, Unavailable
from nsml.core.ports import Clock

log = logging.getLogger(__name__)

HEARTBEAT = 5  # seconds; a frozen broker is noticed within 18, a frozen client within 15
CONNECTING = 5.0  # seconds for one attempt at one URL
CLOSING = 2.0  # seconds for a goodbye; the broker notices a cut connection anyway
AUTHENTICATION = (exceptions.AuthenticationError, exceptions.ProbableAuthenticationError)


class Lost(Exception):
    """The connection or the channel ended while something was asked of it."""


@contextmanager
def driver() -> Iterator[None]:
    """Whatever the driver raises when a connection ends comes out as `Lost`; so does its way of cancelling
    whoever waits for it, which is told from a cancellation of our own by nobody having asked for it."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Lost("the connection ended") from error
    except (exceptions.AMQPError, exceptions.ChannelInvalidStateError, OSError, TimeoutError) as error:
        raise Lost(_words(error)) from error
    except RuntimeError as error:  # the driver's way of saying that it is closed, or closing
        raise Lost(_words(error)) from error


def checked(text: str) -> Sequence[str]:
    """The URLs of `amqp://one/vhost,amqp://two/vhost`, each with a heartbeat. Raises `BadInput`."""
    urls = []
    for url in (part.strip() for part in text.split(",")):
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("amqp", "amqps") or not parts.hostname or parts.port == 0:
                raise ValueError
        except ValueError:
            raise BadInput(
                f"NSML_BUS: {shown(url)!r} is no address of a RabbitMQ server.",
                hint="Write amqp://USER:PASSWORD@HOST:5672/VHOST; several with commas between them.",
            ) from None
        query = {"heartbeat": str(HEARTBEAT), **dict(parse_qsl(parts.query))}
        urls.append(parts._replace(query=urlencode(query)).geturl())
    return urls


def shown(url: str) -> str:
    """*url* for people: without its password."""
    return url.rpartition("@")[2].partition("?")[0]


class Link:
    """A connection and one channel on it; whenever either ends both are opened anew, at any of the URLs."""

    def __init__(
        self,
        urls: Sequence[str],
        name: str,
        clock: Clock,
        prepare: Callable[[AbstractChannel], Awaitable[None]],
    ) -> None:
        self._urls = urls
        self._name = name
        self._clock = clock
        self._prepare = prepare
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._is_up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._why = "it was never reached"

    async def open(self, seconds: float) -> None:
        """Connect, and stay so. Raises `Unavailable` if that takes longer, `NotAllowed` for a wrong user."""
        try:
            async with asyncio.timeout(seconds):
                await self._connect()
        except TimeoutError:
            await self._disconnect()
            raise self.away() from None
        self._keeper = asyncio.create_task(self._keep(), name=f"rabbit: {self._name}")

    async def close(self) -> None:
        """Say goodbye; nothing is opened again."""
        if self._keeper:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        self._why = "the bus is closed"
        await self._disconnect()

    def away(self) -> Unavailable:
        """What to raise for a server that cannot be reached."""
        servers = ", ".join(shown(url) for url in self._urls)
        return Unavailable(
            f"RabbitMQ at {servers} is away: {self._why}.", hint="What waits goes on by itself."
        )

    async def channel(self) -> AbstractChannel:
        """The channel, as soon as there is one."""
        while self._channel is None or self._channel.is_closed:
            self._is_up.clear()
            await self._is_up.wait()
        return self._channel

    @asynccontextmanager
    async def another(self, ahead: int = 0) -> AsyncIterator[AbstractChannel]:
        """A channel of its own on the connection, with room for *ahead* unsettled messages; closed at the
        end, so that what is unsettled then goes back. Raises `Lost`."""
        await self.channel()
        with driver():
            if self._connection is None:
                raise Lost(self._why)
            channel = self._connection.channel()
            await channel.initialize(timeout=CONNECTING)
            await channel.set_qos(prefetch_count=ahead, timeout=CONNECTING)
        try:
            yield channel
        finally:
            await _closed(channel)

    async def _keep(self) -> None:
        """Open again what ends, for ever."""
        while True:
            channel = self._channel
            if channel is not None:
                await channel.closed()
            log.warning("connection to RabbitMQ ended", extra={"link": self._name})
            try:
                await self._disconnect()
                await self._connect()
                log.info("connected to RabbitMQ again", extra={"link": self._name})
            except NsmlError as error:  # a password that is being changed: it may be right again later
                log.error("RabbitMQ turns us away", extra={"why": error.message})
                self._why = error.message
                await self._clock.sleep(CONNECTING)

    async def _connect(self) -> None:
        """Try every URL, in any order, until one answers; a bit apart, so that a server that comes back is
        not met by all its clients at once."""
        for pause in pauses():
            for url in random.sample(self._urls, len(self._urls)):
                try:
                    with driver():
                        return await self._connect_to(url)
                except Lost as error:
                    self._why = str(error)
                    await self._disconnect()
                    if isinstance(error.__cause__, AUTHENTICATION) or "Connection.Close" in self._why:
                        raise self._turned_away(url) from error
            await self._clock.sleep(random.uniform(pause / 2, pause))

    def _turned_away(self, url: str) -> NotAllowed:
        user = urlsplit(url).username or "guest"
        return NotAllowed(
            f"RabbitMQ at {shown(url)} does not let user '{user}' in: {self._why}.",
            hint="Check user, password and virtual host in NSML_BUS.",
        )

    async def _connect_to(self, url: str) -> None:
        context = ssl.create_default_context() if url.startswith("amqps:") else None
        self._connection = await aio_pika.connect(
            url, timeout=CONNECTING, client_properties={"connection_name": self._name}, ssl_context=context
        )
        async with asyncio.timeout(CONNECTING):
            channel = await self._connection.channel()
            await self._prepare(channel)
        self._channel = channel
        self._why = "it does not answer in time"
        self._is_up.set()

    async def _disconnect(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            await _closed(connection)


async def _closed(this: AbstractChannel | AbstractConnection) -> None:
    """Close *this* if it can still be closed; its end is what is wanted, however it comes about."""
    try:
        with driver():
            async with asyncio.timeout(CLOSING):
                await this.close()
    except (Lost, TimeoutError) as error:
        log.debug("closed by itself", extra={"why": str(error)})


def _words(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().rstrip(".")
