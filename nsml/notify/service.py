"""Notifier: events become notices in the store; a loop mails the notices that are due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from nsml.bus import topology
from nsml.bus.consumer import consume
from nsml.core import catalogue as c
from nsml.core.errors import BadInput, Unavailable
from nsml.core.messages import Envelope, Message
from nsml.core.notice import NOTICE, Notice, NoticeState
from nsml.core.ports import Bus, Clock, Mail, Mailer, Store
from nsml.core.session import ACTIVE, SESSION
from nsml.notify import rules
from nsml.store.unit import apply

log = logging.getLogger("nsml.notify")

FIRST_RETRY = 1.0  # seconds; a mail server that restarts is back in a few
LAST_RETRY = 300.0  # of one that is away for hours: often enough that nobody waits long afterwards
AT_ONCE = 200  # notices read at a time


class Notifier:
    """Mails what `rules` finds worth a mail, once per event, whenever the mailer can be reached."""

    def __init__(self, mailing: rules.Mailing, store: Store, bus: Bus, mailer: Mailer, clock: Clock) -> None:
        self._mailing = mailing
        self._store = store
        self._bus = bus
        self._mailer = mailer
        self._clock = clock
        self.ready = asyncio.Event()
        self._due = asyncio.Event()

    async def run(self) -> None:
        queue = topology.notifier()
        await self._bus.declare(queue)
        self._due.set()  # what a former process left unsent
        self.ready.set()
        handlers = {c.SessionFailed: self._on_event, c.NodeLost: self._on_event}
        async with asyncio.TaskGroup() as group:
            group.create_task(consume(self._bus, queue, handlers, clock=self._clock), name="notifier events")
            group.create_task(self._mail_for_ever(), name="mail")

    async def _on_event(self, envelope: Envelope) -> None:
        due = rules.notice(envelope.body, self._mailing, await self._affected(envelope.body))
        if due is not None:
            recorded = Envelope(id=envelope.id, body=due, at=envelope.at, cause=envelope.id)
            await apply(self._store, NOTICE, envelope.id, recorded)
            self._due.set()

    async def _affected(self, event: Message) -> Sequence[str]:
        """The sessions that are or were last on a lost node and have not ended."""
        if not isinstance(event, c.NodeLost):
            return ()
        where = {"state": tuple(state.value for state in ACTIVE)}
        found = [d.value(SESSION) for d in await self._store.scan("session", where)]
        return sorted(s.id for s in found if s is not None and event.node in s.node.split(","))

    async def _mail_for_ever(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            wait = FIRST_RETRY
            while not await self._mail_what_is_due():
                await self._clock.sleep(wait)
                wait = min(2 * wait, LAST_RETRY)

    async def _mail_what_is_due(self) -> bool:
        """Send the notices that are due; whether that was all of them."""
        try:
            while due := await self._store.scan(
                "notice", {"state": NoticeState.DUE.value}, order="due", limit=AT_ONCE
            ):
                sent = [await self._send(notice) for d in due if (notice := d.value(NOTICE)) is not None]
                if not all(sent):
                    return False
        except Unavailable as error:
            log.warning("notices have to wait: %s", error)
            return False
        except Exception:  # whatever it is, the sessions go on and the notices are kept: try again later
            log.exception("notices have to wait")
            return False
        return True

    async def _send(self, notice: Notice) -> bool:
        """Send *notice* and record that; False when it has to wait for the mail server."""
        mail = Mail(
            id=notice.id,
            recipient=notice.recipient,
            subject=notice.subject,
            text=notice.text,
            thread=notice.session,
        )
        try:
            await self._mailer.send(mail)
        except Unavailable as error:
            log.warning("mail has to wait", extra={"notice": notice.id, "reason": str(error)})
            return False
        except BadInput as error:
            await self._record(notice, c.NoticeGivenUp(reason=error.message))
            log.warning("mail given up", extra={"notice": notice.id, "reason": error.message})
            return True
        except Exception as error:  # one mail that breaks the mailer must not hold back all others for ever
            await self._record(notice, c.NoticeGivenUp(reason=f"{type(error).__name__}: {error}"))
            log.exception("mail given up", extra={"notice": notice.id})
            return True
        await self._record(notice, c.NoticeSent())
        log.info("mail sent", extra={"notice": notice.id, "session": notice.session})
        return True

    async def _record(self, notice: Notice, outcome: Message) -> None:
        await apply(
            self._store, NOTICE, notice.id, Envelope(body=outcome, at=self._clock.now(), cause=notice.id)
        )
