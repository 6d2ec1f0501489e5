"""The one place that fences, handles and settles what arrives."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from nsml.bus.patience import pauses
from nsml.core.catalogue import CommandRejected
from nsml.core.errors import Fenced, NsmlError, Unavailable
from nsml.core.messages import SCHEDULER, Envelope, Message
from nsml.core.ports import Bus, Clock, Delivery, Queue
from nsml.core.subject import owed_id

log = logging.getLogger(__name__)

Handler = Callable[[Envelope], Awaitable[None]]


class Fence:
    """The highest term seen in a command; commands of a lower one come from a leader that no longer leads."""

    def __init__(self, term: int = 0) -> None:
        self.term = term

    def admit(self, envelope: Envelope) -> None:
        """Raises `Fenced` for a command of a term lower than was seen before."""
        if envelope.body.form != "cmd":
            return
        if envelope.term < self.term:
            raise Fenced(f"{envelope.name} of term {envelope.term} comes too late: {self.term} leads.")
        self.term = envelope.term


async def consume(
    bus: Bus,
    queue: Queue,
    handlers: Mapping[type[Message], Handler],
    *,
    clock: Clock,
    fence: Fence | None = None,
    concurrency: int = 1,
    actor: str = SCHEDULER,
) -> None:
    """Hand what arrives in *queue* to its handler, for ever, and settle it by how the handler ends:

    it returns → done · `Unavailable` → the same message again, after a pause · another `NsmlError` on a
    command → `CommandRejected`, sent as *actor*, then done · anything else → parked with its traceback.
    Cancellation settles nothing, and neither does `Fenced` from a handler, which ends the consumer: who
    leads now gets the message. Handlers run one after another unless *concurrency* says how many at once.
    """
    await bus.declare(queue)
    desk = _Desk(bus, handlers, clock, fence, actor)
    if concurrency == 1:
        async with aclosing(bus.deliveries(queue)) as deliveries:
            async for delivery in deliveries:
                await desk.handle(delivery)
    else:
        await _side_by_side(bus, queue, desk, concurrency)


async def _side_by_side(bus: Bus, queue: Queue, desk: _Desk, most: int) -> None:
    free = asyncio.Semaphore(most)
    async with aclosing(bus.deliveries(queue)) as deliveries, asyncio.TaskGroup() as group:
        async for delivery in deliveries:
            await free.acquire()
            task = group.create_task(desk.handle(delivery), name=f"handle {delivery.envelope.name}")
            task.add_done_callback(lambda _: free.release())


@dataclass(frozen=True, slots=True)
class _Desk:
    bus: Bus
    handlers: Mapping[type[Message], Handler]
    clock: Clock
    fence: Fence | None
    actor: str

    async def handle(self, delivery: Delivery) -> None:
        for pause in pauses():
            try:
                return await self._once(delivery)
            except Unavailable as error:
                log.warning("handling waits", extra={"route": delivery.envelope.route, "why": error.message})
            await self.clock.sleep(pause)

    async def _once(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        handler = self.handlers.get(type(envelope.body))
        if handler is None:
            return await delivery.ack()
        if envelope.who[0] not in envelope.body.by:
            return await delivery.park(f"{envelope.actor} may not send {envelope.name}")
        if self.fence and (late := self._too_late(envelope)):
            return await self._reject(delivery, late)
        try:
            await handler(envelope)
        except (Unavailable, Fenced):
            raise
        except NsmlError as error:
            if envelope.body.form == "cmd":
                return await self._reject(delivery, error)
            return await self._park(delivery)
        except Exception:  # noqa: BLE001  (whatever a handler fails of, the messages behind it must not wait)
            return await self._park(delivery)
        await delivery.ack()

    def _too_late(self, envelope: Envelope) -> Fenced | None:
        try:
            if self.fence:
                self.fence.admit(envelope)
        except Fenced as error:
            return error
        return None

    async def _park(self, delivery: Delivery) -> None:
        log.error("message parked", extra={"route": delivery.envelope.route}, exc_info=True)
        await delivery.park(traceback.format_exc())

    async def _reject(self, delivery: Delivery, error: NsmlError) -> None:
        command = delivery.envelope
        log.info("command rejected", extra={"command": command.name, "why": error.message})
        rejected = CommandRejected(
            command=command.name, code=error.code, message=error.message, hint=error.hint
        )
        await self.bus.publish(
            Envelope(
                id=owed_id(command.id, "rejected", 0, 0),
                body=rejected,
                at=self.clock.now(),
                actor=self.actor,
                cause=command.id,
            )
        )
        await delivery.ack()
