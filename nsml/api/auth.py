"""Token → actor: who asks. Everything but `/healthz` wants the home's token, unknown paths included."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Middleware

from nsml.api.failures import Handler, refusal
from nsml.core.errors import NotAllowed

OPEN = frozenset({"/healthz"})


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks, by name."""

    name: str

    @property
    def stamp(self) -> str:
        """The `actor` of an envelope."""
        return f"user:{self.name}"

    def must_own(self, owner: str, what: str) -> None:
        """Raises `NotAllowed` when *what* belongs to somebody else."""
        if owner != self.name:
            raise NotAllowed(f"{what} belongs to {owner}: you may look at it, not change it.")


ACTOR = web.RequestKey("actor", Actor)


def authenticated(token: str, user: str) -> Middleware:
    """A middleware that lets in who brings *token*, as *user*."""
    wanted = token.encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OPEN:
            return await handler(request)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        sent = given.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not wanted or not hmac.compare_digest(sent, wanted):
            return refusal(
                401,
                "no-token",
                "The token is missing or wrong.",
                "It lies in the platform's home, in the file 'token'; 'nsml' finds it there by itself.",
                {"WWW-Authenticate": "Bearer"},
            )
        request[ACTOR] = Actor(user)
        return await handler(request)

    return check


def actor(request: web.Request) -> Actor:
    """Who sent *request*."""
    return request[ACTOR]
