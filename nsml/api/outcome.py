"""A command on its way: published, and its outcome awaited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from nsml.api.auth import Actor
from nsml.api.desk import Desk
from nsml.core import catalogue as c
from nsml.core.errors import BY_CODE, NsmlError, Refused, Unavailable
from nsml.core.messages import Envelope, Message
from nsml.core.session import State

log = logging.getLogger("nsml.api")

ACCEPTED = {"status": "accepted"}  # safe on the bus, not yet handled


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A checked command: the message, the document it changes, and what to answer once it has."""

    message: Message
    key: str
    answer: Callable[[], Awaitable[dict[str, Any]]]


async def carry_out(at: Desk, who: Actor, order: Order, id: str) -> dict[str, Any]:
    """Publish a command and say what came of it. Raises what it was refused with, or `Unavailable`."""
    with at.live.expect(id) as outcome:
        await publish(at, who, order.message, id)
        if await is_done(at, order.key, id):
            return await order.answer()
        event = await outcome.within(at.doors.outcome)
    if event is not None:
        _raise_rejected(event)
        return await order.answer()
    return await order.answer() if await is_done(at, order.key, id) else {**_about(order.message), **ACCEPTED}


async def publish(at: Desk, who: Actor, message: Message, id: str) -> None:
    """Hand a user's command to the bus."""
    envelope = Envelope(id=id, body=message, at=at.clock.now(), actor=who.stamp)
    try:
        async with asyncio.timeout(at.doors.publish):
            await at.bus.publish(envelope)
    except TimeoutError as error:
        raise Unavailable(
            f"Nobody took {message.name} within {at.doors.publish:g} s; it may still be carried out.",
            hint="See 'nsml status'; a repeat with the same id is harmless.",
        ) from error
    log.info("command published", extra={"command": message.name, "actor": who.stamp, "id": id})


async def is_done(at: Desk, key: str, id: str) -> bool:
    """Whether the document has seen the command: now, or when it came for the first time."""
    document = await at.store.load(key)
    return document is not None and id in document.seen


def _raise_rejected(event: Envelope) -> None:
    if isinstance(event.body, c.CommandRejected):
        raise BY_CODE.get(event.body.code, NsmlError)(event.body.message, event.body.hint)


def _about(message: Message) -> dict[str, Any]:
    """Whom a command is about, for its answer."""
    return {
        name: getattr(message, name)
        for name in ("session", "dataset", "node", "checkpoint")
        if hasattr(message, name)
    }


async def question(
    at: Desk, who: Actor, session: str, state: State, verb: str, data: str, id: str
) -> c.AttemptAnswered:
    """The answer of a running session. Raises `Refused` if it does not run, `Unavailable` if it is silent."""
    if state is not State.RUNNING:
        raise Refused(f"{session} is {state}: only a running session can be asked.", hint="See 'nsml ps'.")
    message = c.AskSession(session=session, ask=id, verb=verb, data=data)
    with at.live.expect(id, c.AttemptAnswered) as outcome:
        await publish(at, who, message, id)
        event = await outcome.within(at.doors.answer)
    if event is None:
        raise Unavailable(f"{session} did not answer within {at.doors.answer:g} s.", hint="Try again.")
    _raise_rejected(event)
    assert isinstance(event.body, c.AttemptAnswered)
    return event.body
