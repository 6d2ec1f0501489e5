"""What every mailer promises: one mail per id, safe headers, temporary and final failure told apart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from email.message import EmailMessage
from pathlib import Path

import adapters
import pytest

from nsml.core.errors import BadInput
from nsml.core.ports import Mail


class Post:
    """A mailer, and a look into the mailbox it delivers to."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.mailer = adapters.MAILERS[name](folder)

    def inbox(self) -> Sequence[EmailMessage]:
        return adapters.INBOXES[self.name](self.folder)


@pytest.fixture(params=tuple(adapters.MAILERS))
async def post(request, tmp_path) -> AsyncIterator[Post]:
    post = Post(request.param, tmp_path)
    async with post.mailer:
        yield post


def a_mail(**changes: str) -> Mail:
    facts = {
        "id": "0123456789abcdef0123456789abcdef",
        "recipient": "alice@localhost",
        "subject": "alice/mnist/12 failed",
        "text": "It failed.\n",
    }
    return Mail(**{**facts, **changes})


async def test_a_mail_arrives_as_it_was_written(post):
    text = "Zeile mit Umlaut: ä\n\n.a dot first\nFrom the start\n"
    await post.mailer.send(a_mail(subject="ä/mnist/12 failed", text=text))
    (mail,) = post.inbox()
    assert mail["To"] == "alice@localhost"
    assert mail["Subject"] == "ä/mnist/12 failed"
    assert mail["Date"] is not None
    assert mail.get_content() == text


async def test_a_mail_sent_twice_is_there_once(post):
    await post.mailer.send(a_mail())
    await post.mailer.send(a_mail())
    assert len(post.inbox()) == 1


async def test_a_mail_sent_again_by_the_next_process_is_there_once(post):
    await post.mailer.send(a_mail())
    async with Post(post.name, post.folder).mailer as mailer:
        await mailer.send(a_mail())
    assert len(post.inbox()) == 1


async def test_two_ids_are_two_mails_even_with_the_same_words(post):
    await post.mailer.send(a_mail(id="one"))
    await post.mailer.send(a_mail(id="two"))
    first, second = post.inbox()
    assert first["Message-ID"] != second["Message-ID"]


async def test_the_message_id_follows_from_the_id_alone(post, tmp_path_factory):
    await post.mailer.send(a_mail(subject="once"))
    other = Post(post.name, tmp_path_factory.mktemp("other"))
    async with other.mailer:
        await other.mailer.send(a_mail(subject="and again"))
        assert other.inbox()[0]["Message-ID"] == post.inbox()[0]["Message-ID"]


async def test_no_autoresponder_answers(post):
    await post.mailer.send(a_mail())
    assert post.inbox()[0]["Auto-Submitted"] == "auto-generated"


async def test_mails_of_one_thread_lie_together_and_others_do_not(post):
    await post.mailer.send(a_mail(id="one", thread="alice/mnist/12"))
    await post.mailer.send(a_mail(id="two", thread="alice/mnist/12"))
    await post.mailer.send(a_mail(id="three", thread="alice/mnist/13"))
    references = sorted(mail["References"] for mail in post.inbox())
    assert len(set(references)) == 2
    assert all(mail["In-Reply-To"] == mail["References"] for mail in post.inbox())


@pytest.mark.parametrize("hostile", ["x\r\nBcc: victim@example.org", "x\n\nbody", "x\0y\x1b[31m", "\ud800"])
@pytest.mark.parametrize("field", ["subject", "thread", "id"])
async def test_no_header_can_be_smuggled_in(post, field, hostile):
    await post.mailer.send(a_mail(**{field: hostile}))
    (mail,) = post.inbox()
    assert mail["Bcc"] is None
    assert mail.get_content() == "It failed.\n"
    assert all(str(value).isprintable() for value in mail.values())


@pytest.mark.parametrize(
    "recipient",
    ["", "alice", "a@b\r\nBcc: c@d", "a@b, c@d", "a b@c", "@localhost", "alice@", "Alice <a@b>", "a@b\0"],
)
async def test_an_address_that_is_none_is_a_final_failure(post, recipient):
    with pytest.raises(BadInput):
        await post.mailer.send(a_mail(recipient=recipient))
    assert not post.inbox()


async def test_lines_of_any_length_arrive(post):
    text = "é" * 20_000 + "\n"
    await post.mailer.send(a_mail(text=text))
    assert post.inbox()[0].get_content() == text


async def test_ping_is_silent_when_all_is_well(post):
    await post.mailer.ping()
