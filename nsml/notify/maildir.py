"""MaildirMailer: mail as files in a maildir, which every mail reader of the machine can open."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from nsml.clock import SystemClock
from nsml.core.errors import BadInput, Unavailable
from nsml.core.ids import printable
from nsml.core.ports import Clock, Mail

ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
ABANDONED = 36 * 3600.0  # seconds after which maildir lets anyone remove what lies in tmp
SENDER = "nsml@localhost"
LONGEST_LINE = 990  # bytes; mail allows 998
_POLICY = SMTP.clone(linesep="\n")


class MaildirMailer:
    """A mailer whose files are named after the mail's id, so that the same mail is there once."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held open."""

    async def ping(self) -> None:
        if not os.access(self._path / "new", os.W_OK | os.X_OK):
            raise Unavailable(f"Mail cannot be written to {self._path}.", hint="Does it exist, is it yours?")

    async def send(self, mail: Mail) -> None:
        content = compose(mail, self._clock.now()).as_bytes()
        await asyncio.to_thread(self._deliver, _file_name(mail.id), content)

    def _open(self) -> None:
        try:
            for folder in (self._path, *(self._path / part for part in ("tmp", "new", "cur"))):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in (self._path / "tmp").glob("nsml-*"):  # by a process that died while it wrote
                if self._clock.now() - left.stat().st_mtime > ABANDONED:
                    left.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"The maildir {self._path} cannot be used: {error.strerror}.") from error

    def _deliver(self, name: str, content: bytes) -> None:
        if self._is_there(name):
            return
        temporary = self._path / "tmp" / f"{name}.{os.getpid()}"
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path / "new" / name)
            _sync(self._path / "new")
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise Unavailable(f"Mail cannot be written to {self._path}: {error.strerror}.") from error

    def _is_there(self, name: str) -> bool:
        """Whether it lies there, unread or (with the reader's flags after its name) read."""
        return (self._path / "new" / name).exists() or any((self._path / "cur").glob(f"{name}:*"))


def compose(mail: Mail, at: float) -> EmailMessage:
    """The message that travels, its headers made safe. Raises `BadInput` for an address that is none."""
    if not ADDRESS.fullmatch(mail.recipient):
        raise BadInput(f"{printable(mail.recipient)[:80]!r} is no mail address.")
    message = EmailMessage(policy=_POLICY)
    message["From"] = f"NSML <{SENDER}>"
    message["To"] = mail.recipient
    message["Subject"] = " ".join(printable(mail.subject).split())[:250]
    message["Date"] = format_datetime(datetime.fromtimestamp(at, UTC))
    message["Message-ID"] = _message_id(mail.id)
    message["Auto-Submitted"] = "auto-generated"  # so that no autoresponder answers
    if mail.thread:
        message["In-Reply-To"] = message["References"] = _message_id(f"thread {mail.thread}")
    text = printable(mail.text.expandtabs())
    # readable as it lies there, where its lines allow it
    fits = all(len(line.encode()) <= LONGEST_LINE for line in text.split("\n"))
    message.set_content(text, cte="8bit" if fits else "quoted-printable")
    return message


def _message_id(text: str) -> str:
    """A Message-ID that stays the same for the same *text*."""
    return f"<{_token(text)}@nsml.localhost>"


def _file_name(mail_id: str) -> str:
    return f"nsml-{_token(mail_id)}"


def _token(text: str) -> str:
    """*text* where it can stand in a file name and a Message-ID, else a digest of it."""
    if re.fullmatch(r"[A-Za-z0-9]{1,64}", text):
        return text
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def _sync(folder: Path) -> None:
    """Make a rename in *folder* outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
