"""The error tree as HTTP answers; what nobody foresaw gets an event id, and a traceback in the log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from nsml.core.errors import BadInput, NotFound, NsmlError, TooLarge, Unavailable
from nsml.core.ids import new_id

log = logging.getLogger("nsml.api")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STREAMING = web.RequestKey("streaming", bool)  # the head of the answer is out: no other can follow
SLOW = 408


def reply(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """*data* as a JSON answer."""
    body = orjson.dumps(data)
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def refusal(
    status: int, code: str, message: str, hint: str = "", headers: Mapping[str, str] | None = None
) -> web.Response:
    """The one shape of every error."""
    return reply({"error": {"code": code, "message": message, "hint": hint}}, status, headers)


@web.middleware
async def failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer whatever *handler* raises; once an answer has begun, all that is left is to cut it off."""
    try:
        return await handler(request)
    except ConnectionError:
        raise  # the client left: nobody to answer
    except Exception as error:  # noqa: BLE001  the last door: whatever it is, the client gets a sentence
        if request.get(STREAMING, False):
            return _cut(request, error)
        return _answer(request, error)


def _answer(request: web.Request, error: Exception) -> web.Response:
    if isinstance(error, Unavailable):
        return refusal(error.status, error.code, error.message, error.hint, {"Retry-After": "2"})
    if isinstance(error, NsmlError) and error.status < 500:
        return refusal(error.status, error.code, error.message, error.hint)
    if isinstance(error, web.HTTPException):
        return _of_the_server(request, error)
    if isinstance(error, TimeoutError):
        return refusal(SLOW, "too-slow", "The request did not arrive in time.", "Send it again.")
    if isinstance(error, (web.RequestPayloadError, HttpProcessingError)):
        return refusal(400, BadInput.code, "The body broke off or is not what its headers say.")
    return _unforeseen(request, error)


def _unforeseen(request: web.Request, error: Exception) -> web.Response:
    event = new_id()[:12]
    log.error("%s %s failed, event %s", request.method, request.path, event, exc_info=error)
    if isinstance(error, NsmlError):
        return refusal(error.status, error.code, f"{error.message} (event {event})", error.hint)
    return refusal(
        500,
        NsmlError.code,
        f"The platform failed on this request (event {event}).",
        f"Look for 'event {event}' in the platform's log.",
    )


def _of_the_server(request: web.Request, error: web.HTTPException) -> web.Response:
    """What aiohttp itself refuses, in our shape."""
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return refusal(413, TooLarge.code, "The body is larger than is taken here.")
    if isinstance(error, web.HTTPNotFound):
        return refusal(404, NotFound.code, f"There is nothing at {request.path[:200]!a}.")
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return refusal(error.status, BadInput.code, f"{error.reason} at {request.path[:200]!a}.", "", headers)


def _cut(request: web.Request, error: Exception) -> web.StreamResponse:
    log.warning("%s %s cut off: %s", request.method, request.path, error, exc_info=error)
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("the answer was cut off") from error
