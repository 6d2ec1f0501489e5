"""What is particular to a maildir: files that readers of mail understand, and a disk that can fail."""

from __future__ import annotations

import mailbox
import os

import pytest

from nsml.core.errors import Unavailable
from nsml.core.ports import Mail
from nsml.notify.maildir import MaildirMailer

MAIL = Mail(id="abc", recipient="alice@localhost", subject="failed", text="It failed.\n")


async def test_a_mail_that_was_read_is_not_delivered_again(tmp_path):
    async with MaildirMailer(tmp_path / "mail") as mailer:
        await mailer.send(MAIL)
        box = mailbox.Maildir(tmp_path / "mail")
        (key,) = box.keys()
        message = box[key]
        message.set_subdir("cur")
        message.set_flags("S")
        box[key] = message
        await mailer.send(MAIL)
        assert len(mailbox.Maildir(tmp_path / "mail")) == 1


async def test_only_the_owner_can_read_the_mail(tmp_path):
    async with MaildirMailer(tmp_path / "mail") as mailer:
        await mailer.send(MAIL)
    modes = {path.stat().st_mode & 0o077 for path in [tmp_path / "mail", *(tmp_path / "mail").rglob("*")]}
    assert modes == {0}


async def test_half_a_mail_is_never_seen_and_cleared_away_in_time(tmp_path):
    tmp = tmp_path / "mail" / "tmp"
    tmp.mkdir(parents=True)
    (tmp / "nsml-old.1").write_text("half")
    (tmp / "nsml-new.1").write_text("half")
    (tmp / "somebody-else").write_text("theirs")
    os.utime(tmp / "nsml-old.1", (0, 0))
    os.utime(tmp / "somebody-else", (0, 0))
    async with MaildirMailer(tmp_path / "mail"):
        assert sorted(path.name for path in tmp.iterdir()) == ["nsml-new.1", "somebody-else"]
        assert len(mailbox.Maildir(tmp_path / "mail", create=False)) == 0


async def test_a_folder_that_cannot_be_written_is_a_failure_that_may_pass(tmp_path):
    async with MaildirMailer(tmp_path / "mail") as mailer:
        (tmp_path / "mail" / "tmp").rmdir()
        with pytest.raises(Unavailable, match="cannot be written"):
            await mailer.send(MAIL)
        (tmp_path / "mail" / "tmp").mkdir()
        await mailer.send(MAIL)
        (tmp_path / "mail" / "new").rename(tmp_path / "mail" / "gone")
        with pytest.raises(Unavailable):
            await mailer.ping()


async def test_a_path_that_cannot_be_a_maildir_is_said_to_be_so(tmp_path):
    (tmp_path / "mail").write_text("a file")
    with pytest.raises(Unavailable, match="cannot be used"):
        async with MaildirMailer(tmp_path / "mail"):
            pass
