"""RabbitBus: the bus of a platform of many processes, on RabbitMQ."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Self

from aio_pika import DeliveryMode, ExchangeType, Message, exceptions
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue

from nsml.bus.codec import Undecodable, decode, encode
from nsml.bus.patience import pauses
from nsml.bus.rabbit_link import Link, Lost, checked, driver
from nsml.core.errors import BadInput, Damaged, Unavailable
from nsml.core.messages import Envelope
from nsml.core.ports import Clock, Delivery, Queue

log = logging.getLogger(__name__)

MOST_BYTES = 8 << 20  # of one message; RabbitMQ closes the channel over one of 16 MiB
MOST_DELIVERIES = 20  # of one message: only one that kills its reader each time comes so often
MOST_PARKED = 10_000  # enough to find out what went wrong; older ones go first
ATTEMPT = 3.0  # seconds for one confirm; then once more, on what may be another connection
ROUND_TRIP = 5.0  # seconds for any other answer of the server
REASON = "nsml-reason"  # header of what is parked
LONGEST_REASON = 16_000  # characters; the headers of a message must fit into one frame of 128 KiB


class RabbitBus:
    """`publish` returns once the broker has confirmed the message. Lasting queues are quorum queues; what is
    parked, or was delivered too often, lies in a queue of dead messages. One connection publishes and one
    consumes, because a server short of memory stops reading from those that publish. All names begin with the
    cluster's, so that several platforms can share a server. Several URLs, with commas between, are the nodes
    of one RabbitMQ cluster. A message may be sent twice: what timed out may still arrive."""

    def __init__(self, url: str, cluster: str, clock: Clock, *, deadline: float = 10.0) -> None:
        self._urls = checked(url)
        self._cluster = cluster
        self._clock = clock
        self._deadline = deadline
        self._out = Link(self._urls, f"nsml {cluster} publishes", clock, self._prepare)
        self._in = Link(self._urls, f"nsml {cluster} consumes", clock, self._prepare)
        self._exchanges: dict[AbstractChannel, AbstractExchange] = {}
        self._reading_parked = asyncio.Lock()
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            await self._out.open(self._deadline)
            await self._in.open(self._deadline)
        except BaseException:
            await self._out.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        await self._in.close()
        await self._out.close()

    async def ping(self) -> None:
        self._check_open()
        for link in (self._out, self._in):
            try:
                async with asyncio.timeout(min(ROUND_TRIP, self._deadline)), link.another():
                    pass
            except (Lost, TimeoutError):
                raise link.away() from None

    # -- queues ----------------------------------------------------------------------------------------
    async def _prepare(self, channel: AbstractChannel) -> None:
        """Have what every queue needs, on a channel just opened."""
        dead = await channel.declare_exchange(self._name("dead"), ExchangeType.FANOUT, durable=True)
        grave = await channel.declare_queue(
            self._name("dead"),
            durable=True,
            arguments={
                "x-queue-type": "quorum",
                "x-max-length": MOST_PARKED,
                "x-delivery-limit": 1_000_000_000,  # looking at it is no attempt at it
            },
        )
        await grave.bind(dead)
        exchange = await channel.declare_exchange(self._name("nsml"), ExchangeType.TOPIC, durable=True)
        self._exchanges = {known: e for known, e in self._exchanges.items() if not known.is_closed}
        self._exchanges[channel] = exchange

    def _name(self, name: str) -> str:
        return f"{self._cluster}:{name}"

    def _arguments(self, queue: Queue) -> dict[str, Any]:
        if not queue.lasting:
            return {"x-max-length": queue.most, "x-overflow": "drop-head"}
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": MOST_DELIVERIES,
            "x-dead-letter-exchange": self._name("dead"),
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",  # which the strategy asks for
        }

    async def declare(self, queue: Queue) -> None:
        """Waits for a server that is away. Raises `Damaged` for a queue that is there of another kind."""
        for pause in pauses():
            self._check_open()
            try:
                async with self._in.another() as channel:
                    await self._declared(channel, queue)
                return
            except Lost as error:
                log.warning("declaring waits", extra={"queue": queue.name, "why": str(error)})
            await self._pause(pause)

    async def _declared(self, channel: AbstractChannel, queue: Queue) -> AbstractQueue:
        try:
            with driver():
                declared = await channel.declare_queue(
                    self._name(queue.name),
                    durable=queue.lasting,
                    exclusive=not queue.lasting,
                    auto_delete=not queue.lasting,
                    arguments=self._arguments(queue),
                    timeout=ROUND_TRIP,
                )
                for binding in queue.bindings:
                    await declared.bind(self._name("nsml"), binding, timeout=ROUND_TRIP)
                return declared
        except Lost as error:
            if isinstance(error.__cause__, exceptions.ChannelPreconditionFailed):
                raise Damaged(
                    f"RabbitMQ has a queue '{self._name(queue.name)}' of another kind: {error}.",
                    hint="Delete that queue once it is empty, or choose another NSML_CLUSTER.",
                ) from error
            raise

    # -- publishing --------------------------------------------------------------------------------------
    async def publish(self, envelope: Envelope) -> None:
        self._check_open()
        body = encode(envelope)
        if len(body) > MOST_BYTES:
            raise BadInput(f"A {envelope.name} of {len(body):,} bytes is too large to be sent.")
        message = Message(
            body,
            message_id=envelope.id,
            type=envelope.name,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        await self._send(message, envelope.route, mandatory=envelope.body.form == "cmd")

    async def _send(
        self, message: Message, route: str, *, mandatory: bool = False, dead: bool = False
    ) -> None:
        """Send until it is confirmed, for as long as the deadline. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(self._deadline):
                while True:
                    channel = await self._out.channel()
                    try:
                        with driver():
                            return await self._send_once(channel, message, route, mandatory, dead)
                    except Lost as error:
                        log.debug("sending again", extra={"route": route, "why": str(error)})
                    await self._pause(0.2)
        except TimeoutError:
            raise self._out.away() from None

    async def _send_once(
        self, channel: AbstractChannel, message: Message, route: str, mandatory: bool, dead: bool
    ) -> None:
        if dead:
            await channel.default_exchange.publish(message, self._name("dead"), timeout=ATTEMPT)
            return
        exchange = self._exchanges.get(channel)
        if exchange is None:
            raise Lost("another connection took over")
        confirmed = await exchange.publish(message, route, mandatory=mandatory, timeout=ATTEMPT)
        if mandatory and getattr(confirmed, "delivery", None) is not None:
            log.info("nobody hears this command", extra={"route": route})

    # -- consuming ---------------------------------------------------------------------------------------
    async def deliveries(self, queue: Queue) -> AsyncGenerator[Delivery, None]:
        for pause in pauses():
            self._check_open()
            try:
                async with aclosing(self._session(queue)) as session:
                    async for delivery in session:
                        yield delivery
            except Lost as error:
                log.warning("consuming waits", extra={"queue": queue.name, "why": str(error)})
            await self._pause(pause)

    async def _session(self, queue: Queue) -> AsyncGenerator[Delivery, None]:
        """The messages of *queue* for as long as one channel lives and the broker lets it consume."""
        inbox: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()

        async def arrived(message: AbstractIncomingMessage) -> None:
            inbox.put_nowait(message)

        def ended(*_: object) -> None:
            inbox.put_nowait(None)

        async with self._in.another(queue.ahead) as channel:
            declared = await self._declared(channel, queue)
            channel.close_callbacks.add(ended)
            with driver():
                raw = await channel.get_underlay_channel()
                raw.on_consumer_cancel_callbacks.add(ended)  # an operator deleted the queue
                await declared.consume(arrived, timeout=ROUND_TRIP)
            while (message := await inbox.get()) is not None:
                if delivery := await self._opened(message):
                    yield delivery

    async def _opened(self, message: AbstractIncomingMessage) -> _Delivery | None:
        try:
            return _Delivery(decode(message.body), message, self)
        except Undecodable as error:
            log.error("message parked: it cannot be read", extra={"why": str(error)})
        with suppress(Lost), driver():
            await message.reject(requeue=False)
        return None

    # -- the dead ----------------------------------------------------------------------------------------
    async def _bury(self, envelope: Envelope, reason: str) -> None:
        message = Message(
            encode(envelope),
            message_id=envelope.id,
            type=envelope.name,
            content_type="application/json",
            headers={REASON: reason[-LONGEST_REASON:]},
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        await self._send(message, envelope.route, dead=True)

    async def parked(self) -> Sequence[tuple[Envelope, str]]:
        """Takes all of them and gives them back, so two processes that look at once see a part each. What
        cannot be read as a message stays there, and is left out."""
        self._check_open()
        try:
            async with self._reading_parked, asyncio.timeout(self._deadline), self._in.another() as channel:
                with driver():
                    return await self._dead(channel)
        except (Lost, TimeoutError):
            raise self._in.away() from None

    async def _dead(self, channel: AbstractChannel) -> Sequence[tuple[Envelope, str]]:
        queue = await channel.get_queue(self._name("dead"))
        found: list[tuple[Envelope, str]] = []
        last: AbstractIncomingMessage | None = None
        while message := await queue.get(fail=False, timeout=ROUND_TRIP):
            last = message
            try:
                found.append((decode(message.body), _reason(message)))
            except Undecodable as error:
                log.warning("a dead message cannot be read", extra={"why": str(error)})
        if last is not None:
            raw = await channel.get_underlay_channel()
            await raw.basic_nack(last.delivery_tag or 0, multiple=True, requeue=True)
        return found

    # -- small things --------------------------------------------------------------------------------------
    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(
                "The platform's bus is closed: the platform is going down.", hint="Type 'nsml up'."
            )

    async def _pause(self, most: float) -> None:
        await self._clock.sleep(random.uniform(most / 2, most))


class _Delivery:
    """One message, unsettled. On a channel that ended nothing can be settled: then it comes again."""

    def __init__(self, envelope: Envelope, message: AbstractIncomingMessage, bus: RabbitBus) -> None:
        self.envelope = envelope
        self._message = message
        self._bus = bus

    async def ack(self) -> None:
        if self._message.processed:
            return
        with suppress(Lost), driver():
            await self._message.ack()

    async def park(self, reason: str) -> None:
        await self._bus._bury(self.envelope, reason)
        await self.ack()


def _reason(message: AbstractIncomingMessage) -> str:
    """Why *message* is dead: what was said when it was parked, else what the broker noted."""
    said = message.headers.get(REASON)
    if said is not None:
        return str(said)
    deaths = message.headers.get("x-death")
    death: Any = deaths[0] if isinstance(deaths, list) and deaths else {}
    if death.get("reason") == "delivery_limit":
        return (
            f"delivered {MOST_DELIVERIES + 1} times and never settled: whoever handles it seems to die of it"
        )
    return f"given up by the broker: {death.get('reason', 'no reason given')}"
