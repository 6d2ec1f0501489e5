"""The active sessions and the nodes in memory, kept up by what is committed and compared with the store."""

from __future__ import annotations

from collections.abc import Iterable

from nsml.core.node import NODE, Node
from nsml.core.session import ACTIVE, SESSION, Session, State
from nsml.core.subject import Document
from nsml.scheduler.snapshot import Holder, Waiting, holds, waits


class Index:
    """Of two versions of a document the higher one counts, so the order in which they come does not matter.
    Sessions that ended are not kept; only their versions are, until the next comparison with the store."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.waiting: dict[str, Waiting] = {}
        self.holders: dict[str, Holder] = {}
        self.nodes: dict[str, Node] = {}
        self._versions: dict[str, int] = {}
        self._ended: set[str] = set()

    def put(self, document: Document) -> Session | Node | None:
        """Take over a committed document of a session or node; its value."""
        if self._versions.get(document.key, 0) >= document.version:
            return None
        self._versions[document.key] = document.version
        if document.kind == NODE.kind:
            node = document.value(NODE)
            if node:
                self.nodes[node.id] = node
            return node
        session = document.value(SESSION)
        if session:
            self._put(session, document.key)
        return session

    def _put(self, session: Session, key: str) -> None:
        for kept in (self.sessions, self.waiting, self.holders):
            kept.pop(session.id, None)
        if session.state not in ACTIVE:
            self._ended.add(key)
            return
        self._ended.discard(key)
        self.sessions[session.id] = session
        if session.state is State.QUEUED:
            self.waiting[session.id] = waits(session)
        else:
            self.holders[session.id] = holds(session)

    def begin(self) -> None:
        """What ended before now cannot be in a scan that begins now."""
        for key in self._ended:
            self._versions.pop(key, None)
        self._ended.clear()

    def compare(self, documents: Iterable[Document]) -> list[str]:
        """Take over a scan of all active sessions and nodes; the sessions that the store has ended without
        our knowing, which must be loaded one by one."""
        found = set()
        for document in documents:
            found.add(document.key)
            self.put(document)
        return [name for name in self.sessions if SESSION.key(name) not in found]
