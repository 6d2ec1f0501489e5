"""MemoryBus: the bus of a platform that is one process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from types import TracebackType
from typing import Self

from nsml.bus.topology import matcher
from nsml.core.errors import Unavailable
from nsml.core.messages import Envelope
from nsml.core.ports import Delivery, Queue

MOST_PARKED = 10_000  # enough to find out what went wrong; older ones go first
MOST_ROUTES = 4_096  # remembered; there are about 60 of them and a few for each node


class MemoryBus:
    """`publish` returns when every lasting queue that the route fits has settled the message, so a sender
    learns that it was handled; reader's own queues never hold a sender up. What lies in it ends with it."""

    def __init__(self) -> None:
        self._boxes: dict[str, _Box] = {}
        self._routes: dict[str, tuple[_Box, ...]] = {}
        self._parked: deque[tuple[Envelope, str]] = deque(maxlen=MOST_PARKED)
        self._waiting: set[_Receipt] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for receipt in self._waiting:
            receipt.fail(_closed())

    async def ping(self) -> None:
        if self._closed:
            raise _closed()

    async def declare(self, queue: Queue) -> None:
        self._declare(queue)

    def _declare(self, queue: Queue) -> _Box:
        box = self._boxes.get(queue.name)
        if box is None:
            box = self._boxes[queue.name] = _Box(queue)
            self._routes.clear()
        elif box.queue != queue:
            box.bind(queue)
            self._routes.clear()
        return box

    async def publish(self, envelope: Envelope) -> None:
        if self._closed:
            raise _closed()
        receipt = _Receipt()
        for box in self._boxes_of(envelope.route):
            box.put(_Parcel(envelope, receipt if box.queue.lasting else None, self._parked))
        if not receipt.open:
            return
        self._waiting.add(receipt)
        try:
            await receipt.settled()
        finally:
            self._waiting.discard(receipt)

    def _boxes_of(self, route: str) -> tuple[_Box, ...]:
        found = self._routes.get(route)
        if found is None:
            if len(self._routes) >= MOST_ROUTES:
                self._routes.clear()
            found = tuple(box for box in self._boxes.values() if box.matches(route))
            self._routes[route] = found
        return found

    async def deliveries(self, queue: Queue) -> AsyncGenerator[Delivery, None]:
        box = self._declare(queue)
        held: dict[int, _Parcel] = {}
        box.readers += 1
        try:
            while True:
                parcel = await box.next()
                held[id(parcel)] = parcel
                parcel.forget = held.pop
                yield parcel
        finally:
            box.readers -= 1
            if queue.lasting:
                box.give_back(list(held.values()))
            elif not box.readers:
                self._boxes.pop(queue.name, None)
                self._routes.clear()

    async def parked(self) -> Sequence[tuple[Envelope, str]]:
        return list(self._parked)


def _closed() -> Unavailable:
    return Unavailable("The platform's bus is closed: the platform is going down.", hint="Type 'nsml up'.")


class _Receipt:
    """How many queues have yet to settle one published message."""

    def __init__(self) -> None:
        self.open = 0
        self._done: asyncio.Future[None] | None = None

    async def settled(self) -> None:
        self._done = asyncio.get_running_loop().create_future()
        await self._done

    def settle(self) -> None:
        self.open -= 1
        if not self.open and self._done and not self._done.done():
            self._done.set_result(None)

    def fail(self, error: Exception) -> None:
        if self._done and not self._done.done():
            self._done.set_exception(error)


class _Parcel:
    """One message in one queue."""

    def __init__(
        self, envelope: Envelope, receipt: _Receipt | None, parked: deque[tuple[Envelope, str]]
    ) -> None:
        self.envelope = envelope
        self.is_settled = False
        self.forget: Callable[[int, None], object] | None = None
        self._receipt = receipt
        self._parked = parked
        if receipt:
            receipt.open += 1

    async def ack(self) -> None:
        self._settle()

    async def park(self, reason: str) -> None:
        if not self.is_settled:
            self._parked.append((self.envelope, reason))
        self._settle()

    def _settle(self) -> None:
        if self.is_settled:
            return
        self.is_settled = True
        if self.forget:
            self.forget(id(self), None)
        if self._receipt:
            self._receipt.settle()


class _Box:
    """A queue's messages that no consumer holds."""

    def __init__(self, queue: Queue) -> None:
        self.waiting: deque[_Parcel] = deque(maxlen=None if queue.lasting else queue.most)
        self.readers = 0
        self._some = asyncio.Event()
        self.bind(queue)

    def bind(self, queue: Queue) -> None:
        self.queue = queue
        self.matches = matcher(queue.bindings)

    def put(self, parcel: _Parcel) -> None:
        self.waiting.append(parcel)
        self._some.set()

    def give_back(self, parcels: list[_Parcel]) -> None:
        self.waiting.extendleft(reversed(parcels))
        if parcels:
            self._some.set()

    async def next(self) -> _Parcel:
        while not self.waiting:
            self._some.clear()
            await self._some.wait()
        return self.waiting.popleft()
