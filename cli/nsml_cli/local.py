"""The platform of this home: whether it runs, starting it in the background (once), ending it."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from nsml.core.errors import Refused, Unavailable
from nsml_cli.profile import Where, home, home_token

PATIENCE = 30.0  # seconds for a start; a first one makes the database and reads every session
LOG_MOST = 20 << 20  # bytes of platform.log that are kept from one start to the next


@dataclass(frozen=True, slots=True)
class Platform:
    """What a running platform wrote about itself."""

    pid: int
    api: str


def known() -> Platform | None:
    """What platform.json says, true or stale; None without one."""
    try:
        facts = json.loads((home() / "platform.json").read_text())
        return Platform(int(facts["pid"]), str(facts["api"] or ""))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pid() -> int | None:
    """The pid of the platform that holds this home's lock; None when nobody does."""
    try:
        with (home() / "platform.lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = lock.read().strip()
                return int(text) if text.isdigit() else 0
    except OSError:
        return None
    return None


def where(say: Callable[[str], None]) -> Where:
    """The address of this home's platform, which is started when none seems to run."""
    platform, token = known(), home_token()
    if platform and platform.api and token and _is_alive(platform.pid):
        return Where(platform.api, token)
    return ensure(say)


def ensure(say: Callable[[str], None]) -> Where:
    """The address of this home's platform once it answers; starts it when it does not run."""
    deadline = time.monotonic() + PATIENCE
    with _starting():
        while True:
            api = _answering()
            if api:
                return Where(api, home_token() or "")
            if pid() is None and (platform := _start_unless_other(())):
                say(f"Started the local platform (pid {platform.pid}); 'nsml down' stops it.")
            elif time.monotonic() > deadline:
                raise _failed(f"does not answer, though it runs (pid {pid() or '?'})", None)
            else:
                time.sleep(0.05)


def back(say: Callable[[str], None]) -> Where:
    """The address again for who follows a session: a platform that was killed is started, one that was ended
    by `nsml down` is only waited for."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        api = _answering()
        if api:
            return Where(api, home_token() or "")
        if known() is not None and pid() is None:
            return ensure(say)
        time.sleep(0.1)
    raise Unavailable(
        "The local platform was ended.", hint="Running sessions go on; 'nsml up --detach' brings it back."
    )


def _answering() -> str:
    """The address of the platform if it answers there."""
    platform = known()
    up = platform and platform.api and _is_alive(platform.pid) and _answers(platform.api)
    return platform.api if platform and up else ""


def up(roles: Sequence[str]) -> Platform:
    """Start a platform in the background; `Refused` when one runs."""
    with _starting():
        holder = pid()
        if holder is not None:
            raise runs_already(holder)
        return _start(roles)


def runs_already(holder: int) -> Refused:
    return Refused(
        f"A platform runs already in {home()} (pid {holder or '?'}).",
        hint="Type 'nsml status' to see it, 'nsml down' to stop it.",
    )


def command(roles: Sequence[str]) -> list[str]:
    """The command line of a platform in the foreground."""
    return [sys.executable, "-m", "nsml.app", *(["--roles", ",".join(roles)] if roles else [])]


def end(holder: int) -> None:
    """Ask the platform *holder* to end and wait until it is gone."""
    try:
        os.kill(holder, signal.SIGTERM)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + PATIENCE
    while pid() == holder:
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The platform (pid {holder}) does not end.",
                hint=f"See {home() / 'platform.log'}; 'kill -9 {holder}' ends it, sessions go on.",
            )
        time.sleep(0.02)
    deadline = time.monotonic() + 2.0
    while _is_alive(holder) and time.monotonic() < deadline:  # its lock is free, it is about to be gone
        time.sleep(0.02)


@contextmanager
def _starting() -> Iterator[None]:
    """Only one command of this home starts a platform; the others wait and find it."""
    folder = home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "start.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start_unless_other(roles: Sequence[str]) -> Platform | None:
    """A started platform; None when another one (`nsml up` in a terminal) was faster."""
    try:
        return _start(roles)
    except Unavailable:
        if pid() is None:
            raise
        return None


def _start(roles: Sequence[str]) -> Platform:
    log = home() / "platform.log"
    if log.exists() and log.stat().st_size > LOG_MOST:
        log.replace(log.with_name("platform.log.1"))
    with log.open("ab") as output:
        begun = output.tell()
        child = subprocess.Popen(
            command(roles),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,  # Ctrl-C at this terminal is none of its business
        )
    return _await(child, begun)


def _await(child: subprocess.Popen[bytes], begun: int) -> Platform:
    """The platform that *child* is, once it answers; raises with its own last words when it ends instead."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        platform = known()
        if platform and platform.pid == child.pid and (not platform.api or _answers(platform.api)):
            return platform
        if child.poll() is not None:
            raise _failed("could not start", begun)
        time.sleep(0.02)
    raise _failed(f"did not answer within {PATIENCE:.0f} s", begun)


def _failed(what: str, begun: int | None) -> Unavailable:
    log = home() / "platform.log"
    sentence, hint = _last_words(log, begun) if begun is not None else ("", "")
    return Unavailable(
        f"The local platform {what}{': ' + sentence if sentence else '.'}",
        hint=f"{hint}\nIts log is {log}." if hint else f"Its log is {log}.",
    )


def _last_words(log: Path, begun: int) -> tuple[str, str]:
    """The error that the log ends with and the hint below it; else its last lines."""
    try:
        with log.open("rb") as file:
            file.seek(max(begun, log.stat().st_size - 20_000))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return "", ""
    for at in range(len(lines) - 1, -1, -1):
        if lines[at].startswith("Error: "):
            return lines[at].removeprefix("Error: "), "\n".join(lines[at + 1 :])
    return "\n".join(lines[-5:]), ""


def _is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # one that ended, but whose parent has not asked how, has no more to say either
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


def _answers(api: str) -> bool:
    parts = urlsplit(api)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status in (200, 503)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
