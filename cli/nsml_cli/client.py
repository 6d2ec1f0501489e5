"""The platform's HTTP API as calls: JSON in and out, errors as `NsmlError`, a lost connection tried again."""

from __future__ import annotations

import http.client
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from nsml.core.errors import BadInput, NsmlError, Unavailable
from nsml_cli.errors import from_answer
from nsml_cli.profile import Where

PAUSES = (0.1, 0.3, 1.0)  # between tries: a platform that restarts is back within a second or two
CALL_SECONDS = 60.0  # the API itself waits up to 30 s for an answer of a session
STREAM_SECONDS = 60.0  # of silence, after which a stream is asked for again from where it was
LOST = (ConnectionError, http.client.HTTPException, TimeoutError, OSError)

Query = Mapping[str, "str | int | float | None"]
Body = bytes | Callable[[], Any] | None


class Client:
    """A platform's API. After a lost connection *again* finds its address anew (the local one may have
    moved); *back* does for who only follows."""

    def __init__(
        self, where: Where, again: Callable[[], Where] | None = None, back: Callable[[], Where] | None = None
    ) -> None:
        self._where = where
        self._again = again
        self._back = back
        self._mine = threading.local()
        self._finding = threading.Lock()

    @property
    def base(self) -> str:
        return self._where.base

    # -- JSON ---------------------------------------------------------------------------------------
    def get(self, path: str, query: Query | None = None) -> Any:
        """The JSON at *path*. Raises `NsmlError`."""
        return self.call("GET", path + encode(query))

    def post(self, path: str, body: Any) -> Any:
        """The JSON answer to *body*. Raises `NsmlError`."""
        return self.call("POST", path, _encoded(body), "application/json")

    def command(self, name: str, **body: Any) -> Any:
        """Send a command; its id makes a second delivery after a lost connection harmless."""
        return self.post(f"/v1/commands/{name}", {"id": secrets.token_hex(16), "body": body})

    def call(self, method: str, path: str, body: Body = None, kind: str = "application/octet-stream") -> Any:
        """The JSON answer to a request whose body is bytes or a function that opens a file."""
        response = self.open(method, path, body, kind)
        content = self._read(response, path)
        return _json(content) if content else None

    # -- raw ----------------------------------------------------------------------------------------
    def open(
        self, method: str, path: str, body: Body = None, kind: str = "application/octet-stream"
    ) -> http.client.HTTPResponse:
        """The answer to a request, its body unread; read it to the end before this thread's next call."""
        for pause in (*PAUSES, None):
            try:
                response = self._send(self._connection(), method, path, body, kind)
                return self._good(response)
            except LOST as error:
                self._lost(error, pause, self._again)
        raise AssertionError("unreachable")

    def stream(
        self, path: str, query: Query | None = None, seconds: float = STREAM_SECONDS
    ) -> http.client.HTTPResponse:
        """The answer to a GET on a connection of its own, for what is read as it comes; close it."""
        for pause in (*PAUSES, None):
            try:
                connection = _connect(self._where, seconds)
                response = self._send(connection, "GET", path + encode(query), None, "")
                return self._good(response)
            except LOST as error:
                self._lost(error, pause, self._back)
        raise AssertionError("unreachable")

    def events(self, path: str, seconds: float = STREAM_SECONDS) -> Iterator[tuple[str, Any]]:
        """(event, data) of a server-sent stream, until it ends. Raises `LOST` when it breaks or is silent."""
        response = self.stream(path, seconds=seconds)
        with response:
            yield from parse_events(iter(response.readline, b""))

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Body, kind: str
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self._where.token}", "Accept-Encoding": "identity"}
        path = urlsplit(self._where.base).path + path
        if body is not None:
            headers["Content-Type"] = kind
        if not callable(body):
            connection.request(method, path, body, headers)
            return connection.getresponse()
        with body() as file:
            headers["Content-Length"] = str(file.seek(0, 2))
            file.seek(0)
            connection.request(method, path, file, headers)
            return connection.getresponse()

    def _good(self, response: http.client.HTTPResponse) -> http.client.HTTPResponse:
        if response.status < 400:
            return response
        content = response.read()
        raise from_answer(response.status, _json(content, lenient=True))

    def _read(self, response: http.client.HTTPResponse, path: str) -> bytes:
        try:
            return response.read()
        except LOST as error:
            self._forget()
            raise Unavailable(
                f"The connection to {self.base} broke during {path.partition('?')[0]}."
            ) from error

    def _lost(self, error: Exception, pause: float | None, again: Callable[[], Where] | None) -> None:
        """Get ready for another try after *pause* seconds; raises when there is none left."""
        self._forget()
        if pause is None:
            raise Unavailable(
                f"The platform at {self.base} cannot be reached: {error or type(error).__name__}.",
                hint="See 'nsml status', or check NSML_SERVER.",
            ) from error
        time.sleep(pause)
        if again is not None:
            with self._finding:
                self._where = again()

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._mine, "connection", None)
        if connection is None:
            connection = self._mine.connection = _connect(self._where, CALL_SECONDS)
        return connection

    def _forget(self) -> None:
        connection = getattr(self._mine, "connection", None)
        if connection is not None:
            connection.close()
            self._mine.connection = None

    def close(self) -> None:
        """Give this thread's connection back, so that a platform that ends need not wait for it."""
        self._forget()

    # -- sessions and datasets by name --------------------------------------------------------------
    def session(self, text: str) -> str:
        """The full name of the session that *text* (`alice/mnist/12`, `mnist/12` or `12`) means."""
        if text.count("/") == 2 and all(text.split("/")):
            return text
        if not text.strip() or text.count("/") > 2:
            raise BadInput(f"{text!r} is not the name of a session.", hint="See 'nsml ps -a'.")
        return str(self.get("/v1/resolve", {"session": text})["session"])

    def row(self, session: str) -> dict[str, Any]:
        """What `ps` shows of *session*, and everything recorded of it."""
        row: dict[str, Any] = self.get(path_of(session))
        return row

    def rows(self, **query: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.get("/v1/sessions", query)
        return rows


def path_of(session: str, rest: str = "") -> str:
    """The path of a session given by its full name."""
    return "/v1/sessions/" + "/".join(quote(part, safe="") for part in session.split("/")) + rest


def dataset_path(text: str) -> str:
    """The path of the dataset `[OWNER/]NAME[@VERSION]`."""
    named, _, version = text.partition("@")
    owner, _, name = named.rpartition("/")
    if version and not version.isdigit():
        raise BadInput(f"{version!r} is not a version of a dataset.", hint=f"Write it like {named}@2.")
    query = encode({"owner": owner or None, "version": version or None})
    return f"/v1/datasets/{quote(name, safe='')}{query}"


def encode(query: Query | None) -> str:
    """`?a=1&b=2` of what is not None."""
    given = {key: value for key, value in (query or {}).items() if value is not None}
    return "?" + urlencode(given) if given else ""


def parse_events(lines: Iterator[bytes]) -> Iterator[tuple[str, Any]]:
    """The (event, data) pairs of a server-sent stream's lines; data is JSON."""
    event, data = "message", list[str]()
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            if data or event != "message":
                yield event, _json("\n".join(data).encode()) if data else None
            event, data = "message", []
        elif line.startswith("event:"):
            event = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))


def _connect(where: Where, seconds: float) -> http.client.HTTPConnection:
    parts = urlsplit(where.base)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=seconds)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)


def _encoded(body: Any) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        words = ascii(error.object[max(0, error.start - 20) : error.end + 20])
        raise BadInput(f"What was typed is not UTF-8: {words}.", hint="Type it as UTF-8.") from error
    except ValueError as error:
        raise BadInput("An infinite number is among what was typed.", hint="Name a finite one.") from error


def _json(content: bytes, lenient: bool = False) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        if lenient:
            return None
        raise NsmlError("The platform's answer is not JSON; is this the right address?") from error
