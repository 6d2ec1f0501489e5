"""Commands: what they answer, what they refuse, and that a repeat changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from nsml.api.desk import Doors
from nsml.core import catalogue as c
from nsml.core.ids import new_id
from nsml.core.plain import plain
from nsml.core.resources import Slot
from nsml.core.session import State
from nsml.core.tree import File, Tree


# -- session.run -------------------------------------------------------------------------------------
async def test_a_run_is_queued_under_the_next_number(office: Any) -> None:
    assert await office.run() == "alice/None/1"
    assert await office.run() == "alice/None/2"
    await office.push("digits")
    assert await office.run(dataset=["digits"]) == "alice/digits/1"
    assert (await office.session("alice/digits/1")).state is State.QUEUED


async def test_everything_that_was_asked_for_is_recorded(office: Any) -> None:
    await office.push("sky")
    await office.push("sky", force=True)
    wish = await office.wish(
        dataset=["sky@1"],
        args=["--name", "a b"],
        image="img",
        request={"gpus": 2, "cpus": 1.5, "memory": "24G", "shm": 1 << 30, "nodes": 1, "gpu_model": "P40"},
        priority=-5,
        retries=2,
        max_seconds=60,
        env={"A": "1", "B": "x=y"},
        environment="ab12",
        strict_env=True,
        memo="line\nline \x1b[31m",
        command="nsml run …",
        kind="normal",
    )
    status, data = await office.command("session.run", wish)
    assert (status, data) == (202, {"session": "alice/sky/1", "status": "queued"})
    session = await office.session("alice/sky/1")
    run = session.run
    assert (run.args, run.image, run.priority, run.retries, run.max_seconds) == (
        ("--name", "a b"),
        "img",
        -5,
        2,
        60,
    )
    assert (run.request.memory, run.request.shm, run.request.cpus) == (24 << 30, 1 << 30, 1.5)
    assert run.env == (("A", "1"), ("B", "x=y")) and run.strict_env and run.environment == "ab12"
    assert [(d.name, d.version) for d in run.datasets] == [("sky", 1)]
    assert session.memo == "line\nline \x1b[31m"


async def test_fifty_copies_of_a_request_make_one_session(office: Any) -> None:
    wish, id = await office.wish(), new_id()
    answers = await asyncio.gather(*(office.command("session.run", wish, id) for _ in range(50)))
    assert {(status, data["session"]) for status, data in answers} == {(202, "alice/None/1")}
    assert await office.run() == "alice/None/2"
    assert len(await office.get("/v1/sessions?all=1")) == 2


async def test_a_copy_that_comes_after_the_session_is_gone_finds_it_gone(office: Any) -> None:
    wish, id = await office.wish(), new_id()
    await office.command("session.run", wish, id)
    await office.command("session.remove", {"session": "alice/None/1", "force": True})
    status, data = await office.command("session.run", wish, id)
    assert (status, data) == (202, {"session": "alice/None/1", "status": "removed"})


async def test_an_id_serves_one_request_only(office: Any) -> None:
    id = new_id()
    await office.command("session.run", await office.wish(), id)
    status, data = await office.command("session.run", await office.wish(memo="another"), id)
    assert status == 409 and data["error"]["code"] == "refused"


async def test_what_was_cut_off_before_it_was_sent_is_sent_by_the_repeat(office: Any) -> None:
    """The name was written down, then the API died: the repeat must give that name a session."""
    wish, id = await office.wish(), new_id()
    await office.command("session.run", wish, id)
    await office.store.drop("session/alice/None/1")
    status, data = await office.command("session.run", wish, id)
    assert (status, data) == (202, {"session": "alice/None/1", "status": "queued"})


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"code": "xyz"}, 400),
        ({"code": "0" * 64}, 400),
        ({"entry": "other.py"}, 400),
        ({"entry": "../main.py"}, 400),
        ({"entry": "main.py\n"}, 400),
        ({"args": "--x"}, 400),
        ({"args": [1]}, 400),
        ({"args": ["a\0b"]}, 400),
        ({"args": ["x" * 200_000]}, 413),
        ({"args": ["x"] * 5000}, 413),
        ({"request": {"gpus": -1}}, 400),
        ({"request": {"gpus": 1.5}}, 400),
        ({"request": {"gpus": True}}, 400),
        ({"request": {"memory": "12X"}}, 400),
        ({"request": {"memory": -1}}, 400),
        ({"request": {"cpus": 1e300}}, 400),
        ({"request": {"nodes": 0}}, 400),
        ({"request": {"gpu": 1}}, 400),
        ({"request": []}, 400),
        ({"priority": 101}, 400),
        ({"priority": -101}, 400),
        ({"retries": 101}, 400),
        ({"max_seconds": -1}, 400),
        ({"env": {"A=B": "1"}}, 400),
        ({"env": {"1A": "1"}}, 400),
        ({"env": {"": "1"}}, 400),
        ({"env": {"A": 1}}, 400),
        ({"env": {"A": "x\0"}}, 400),
        ({"env": {"NSML_SESSION": "x"}}, 400),
        ({"kind": "strange"}, 400),
        ({"environment": "../x"}, 400),
        ({"strict_env": "yes"}, 400),
        ({"memo": "x" * 20_000}, 413),
        ({"datasets": ["digits"]}, 400),
        ({"dataset": "digits"}, 400),
        ({"dataset": ["no-such-set"]}, 404),
        ({"dataset": ["../x"]}, 400),
        ({"dataset": ["a\0b"]}, 400),
        ({"dataset": ["x" * 300]}, 413),
        ({"dataset": ["digits@0x1"]}, 400),
        ({"dataset": ["digits@9"]}, 404),
        ({"dataset": ["bob/secret"]}, 404),
        ({"dataset": ["/digits"]}, 400),
        ({"dataset": ["$where"]}, 400),
    ],
)
async def test_a_wrong_wish_is_refused_and_creates_nothing(
    office: Any, change: dict[str, Any], status: int
) -> None:
    await office.push("digits")
    await _pushed_by_bob(office, "secret", private=True)
    answer, data = await office.command("session.run", await office.wish(**change))
    assert answer == status, data
    assert data["error"]["message"] and set(data["error"]) == {"code", "message", "hint"}
    assert await office.get("/v1/sessions?all=1") == []
    assert await office.run() == "alice/None/1", "a refused run took a number"


async def test_a_run_without_code_says_so(office: Any) -> None:
    assert await office.refused("session.run", {}) == (400, "'body' lacks 'code'.")


async def test_a_misspelt_field_is_named_with_the_right_one(office: Any) -> None:
    _, data = await office.command("session.run", await office.wish(retires=3))
    assert data["error"]["hint"] == "Did you mean 'retries'?"


async def test_what_no_node_could_ever_run_is_refused_at_the_door(office: Any) -> None:
    assert await office.run(request={"gpus": 9}) == "alice/None/1", "no node is known yet: it waits for one"
    await office.node("n1", gpus=4)
    status, data = await office.command("session.run", await office.wish(request={"gpus": 9}))
    assert status == 422 and data["error"]["code"] == "never-fits"
    assert "9 GPUs wanted, it has 4" in data["error"]["message"]
    status, data = await office.command("session.run", await office.wish(request={"gpus": 4, "nodes": 2}))
    assert status == 422 and "2 nodes wanted" in data["error"]["message"]
    assert await office.run(request={"gpus": 4}) == "alice/None/2"


async def test_code_over_the_limits_is_refused_in_the_words_of_the_original(office: Any) -> None:
    tree = await office.tree({"main.py": b"", **{f"f{i}": b"" for i in range(100)}})
    status, message = await office.refused("session.run", {"code": tree})
    assert status == 413 and "total number of files cannot exceed 100" in message


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        "./a",
        "a/.",
        "a\\b",
        "a\0b",
        "",
        "x" * 300,
        "a/" * 600 + "b",
    ],
)
async def test_a_tree_that_would_leave_its_folder_is_refused(office: Any, path: str) -> None:
    digest = await office.blobs.put_bytes(b"x")
    files = [{"path": "main.py", "bytes": 1, "sha256": digest}, {"path": path, "bytes": 1, "sha256": digest}]
    tree = await office.blobs.put_bytes(orjson.dumps({"files": files}))
    assert (await office.refused("session.run", {"code": tree}))[0] == 400
    assert (await office.refused("dataset.push", {"dataset": "d", "tree": tree}))[0] == 400


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b'{"files": 3}',
        b'{"files": [3]}',
        b'{"files": [{"path": "a"}]}',
        b'{"files": [{"path": 1, "bytes": 1, "sha256": "x"}]}',
        b'{"files": [{"path": "a", "bytes": NaN, "sha256": "x"}]}',
        b'{"files": [{"path": "a", "bytes": 1, "sha256": "short"}]}',
        b"[" * 100_000,
    ],
)
async def test_what_is_no_list_of_files_is_refused(office: Any, content: bytes) -> None:
    tree = await office.blobs.put_bytes(content)
    assert (await office.refused("session.run", {"code": tree}))[0] == 400


async def test_a_tree_whose_files_were_not_uploaded_is_refused_by_name(office: Any) -> None:
    file = File(path="main.py", bytes=1, sha256="ab" * 32)
    tree = await office.blobs.put_bytes(orjson.dumps(plain(Tree(files=(file,)))))
    status, message = await office.refused("session.run", {"code": tree})
    assert status == 400 and "main.py" in message and "not uploaded" in message


@pytest.mark.parametrize("said", [0, 2, 1 << 40])
async def test_a_tree_that_lies_about_a_length_is_refused_by_name(office: Any, said: int) -> None:
    file = File(path="main.py", bytes=said, sha256=await office.blobs.put_bytes(b"x"))
    tree = await office.blobs.put_bytes(orjson.dumps(plain(Tree(files=(file,)))))
    for command, body in [("session.run", {"code": tree}), ("dataset.push", {"dataset": "d", "tree": tree})]:
        status, message = await office.refused(command, body)
        assert status == 400 and f"'main.py' has 1 bytes, not the {said}" in message


# -- the others ----------------------------------------------------------------------------------------
async def test_a_session_is_noted_stopped_resumed_and_removed(office: Any) -> None:
    session = await office.run()
    assert (await office.command("session.note", {"session": session, "memo": "better"}))[0] == 202
    assert (await office.session(session)).memo == "better"
    status, data = await office.command("session.stop", {"session": session})
    assert (status, data["status"]) == (202, "stopped")
    status, data = await office.command("session.resume", {"session": session})
    assert (status, data) == (202, {"session": session, "status": "queued"})
    status, message = await office.refused("session.remove", {"session": session})
    assert status == 409 and "cannot be removed" in message
    assert (await office.command("session.remove", {"session": session, "force": True}))[1][
        "status"
    ] == "removed"
    assert (await office.refused("session.stop", {"session": session}))[0] == 404


async def test_a_repeated_removal_is_as_good_as_the_first(office: Any) -> None:
    session, id = await office.run(), new_id()
    await office.push("digits")
    for _ in range(2):
        answer = await office.command("session.remove", {"session": session, "force": True}, id)
        assert answer == (202, {"session": session, "status": "removed"})
    for _ in range(2):
        assert (await office.command("dataset.remove", {"dataset": "digits"}, id))[0] == 202
    assert (await office.refused("dataset.remove", {"dataset": "digits"}))[0] == 404


async def test_a_resume_goes_on_from_what_was_saved_last_and_is_still_there(office: Any) -> None:
    session = await office.run()
    await office.place(session)
    await office.save(session, "1", at=10.0)
    await office.save(session, "2", at=20.0)
    await office.exit(session, 1)
    await office.command("checkpoint.drop", {"session": session, "checkpoint": "2"})
    await office.command("session.resume", {"session": session})
    assert (await office.session(session)).run.iteration == "1"
    assert (await office.refused("session.resume", {"session": session, "iteration": "2"}))[0] == 404


async def test_a_checkpoint_is_dropped_once(office: Any) -> None:
    session, id = await office.run(), new_id()
    await office.place(session)
    await office.save(session, "best", at=10.0)
    body = {"session": session, "checkpoint": "best"}
    assert (await office.command("checkpoint.drop", body, id))[0] == 202
    assert (await office.command("checkpoint.drop", body, id))[0] == 202
    assert (await office.refused("checkpoint.drop", body))[0] == 404


@pytest.mark.parametrize(
    ("session", "status"),
    [
        ("alice/None/9", 404),
        ("alice/None", 400),
        ("../../x", 400),
        ("a\nb/c/1", 400),
        ("alice/None/01", 400),
        ("", 400),
    ],
)
@pytest.mark.parametrize(
    "name", ["session.stop", "session.remove", "session.resume", "session.note", "session.ask"]
)
async def test_a_session_that_is_not_there_is_said_for_every_command(
    office: Any, name: str, session: str, status: int
) -> None:
    extra = {"session.note": {"memo": "x"}, "session.ask": {"verb": "save"}}.get(name, {})
    assert (await office.refused(name, {"session": session, **extra}))[0] == status


async def test_somebody_elses_session_may_be_seen_but_not_touched(office: Any) -> None:
    code = await office.tree({"main.py": b""})
    await office.tell(c.RunSession(session="bob/None/1", run=c.Run(code=code)), "user:bob")
    assert (await office.get("/v1/sessions/bob/None/1"))["owner"] == "bob"
    for name in ("session.stop", "session.remove", "session.resume"):
        assert (await office.refused(name, {"session": "bob/None/1"}))[0] == 403


async def test_a_question_is_answered_by_the_session(office: Any) -> None:
    session = await office.run()
    assert (await office.refused("session.ask", {"session": session, "verb": "save"}))[0] == 409
    await office.place(session)
    asking = asyncio.create_task(
        office.command("session.ask", {"session": session, "verb": "exec", "data": "1+1"})
    )
    while not office.clerk.asked:
        await asyncio.sleep(0.005)
    question = office.clerk.asked[0]
    assert (question.verb, question.data) == ("exec", "1+1")
    await office.tell(c.AttemptAnswered(session=session, ask=question.ask, ok=True, data="2"))
    assert await asking == (202, {"ok": True, "data": "2"})


# -- datasets ------------------------------------------------------------------------------------------
async def test_a_push_counts_files_and_bytes_itself(office: Any) -> None:
    assert await office.push("sky", description="stars\x07", tags=["#astro"], private=True) == {
        "dataset": "sky",
        "version": 1,
    }
    row = await office.get("/v1/datasets/sky")
    assert (row["files"], row["bytes"], row["private"], row["tags"]) == (2, 8, True, ["#astro"])
    assert row["description"] == "stars\x07", "text is kept as typed"
    tree = await office.tree({"train/a.txt": b"new"})
    status, message = await office.refused("dataset.push", {"dataset": "sky", "tree": tree})
    assert status == 409 and "exists already" in message
    status, data = await office.command("dataset.push", {"dataset": "sky", "tree": tree, "force": True})
    assert data["version"] == 2 and (await office.get("/v1/datasets/sky"))["private"] is True


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"dataset": "../x"}, 400),
        ({"dataset": "a b"}, 400),
        ({"dataset": "é\n"}, 400),
        ({"dataset": "-rf"}, 400),
        ({"dataset": ""}, 400),
        ({"dataset": "x" * 65}, 400),
        ({"dataset": 3}, 400),
        ({"tree": "1" * 64}, 400),
        ({"tags": ["astro"]}, 400),
        ({"tags": ["#a b"]}, 400),
        ({"tags": ["#" + "x" * 50]}, 413),
        ({"tags": [f"#{i}" for i in range(8)]}, 413),
        ({"description": "x" * 2001}, 413),
        ({"private": 1}, 400),
        ({"files": 3}, 400),
    ],
)
async def test_a_wrong_push_is_refused(office: Any, change: dict[str, Any], status: int) -> None:
    tree = await office.tree({"train/a": b"1"})
    assert (await office.refused("dataset.push", {"dataset": "ok", "tree": tree, **change}))[0] == status
    assert await office.get("/v1/datasets") == []


async def test_ones_own_dataset_comes_first_and_others_only_when_they_are_one(office: Any) -> None:
    await _pushed_by_bob(office, "stars")
    assert await office.run(dataset=["stars"]) == "alice/stars/1"
    await _pushed_by_bob(office, "stars", owner="carol")
    status, message = await office.refused("session.run", await office.wish(dataset=["stars"]))
    assert status == 409 and "bob/stars" in message and "carol/stars" in message
    assert await office.run(dataset=["bob/stars"]) == "alice/stars/2"
    await office.push("stars")
    session = await office.session(await office.run(dataset=["stars"]))
    assert session.run.datasets[0].owner == "alice"


async def test_somebody_elses_dataset_is_not_mine_to_remove(office: Any) -> None:
    await _pushed_by_bob(office, "open")
    await _pushed_by_bob(office, "secret", private=True)
    assert (await office.refused("dataset.remove", {"dataset": "bob/open"}))[0] == 403
    assert (await office.refused("dataset.remove", {"dataset": "bob/secret"}))[0] == 404


# -- nodes ---------------------------------------------------------------------------------------------
async def test_a_node_is_drained_and_resumed(office: Any) -> None:
    await office.node("n1")
    answer = await office.command("node.drain", {"node": "n1", "reason": "new fans"})
    assert answer == (202, {"node": "n1", "status": "drained"})
    assert (await office.command("node.resume", {"node": "n1"}))[1]["status"] == "ready"
    assert (await office.refused("node.drain", {"node": "n9"}))[0] == 404
    assert (await office.refused("node.drain", {"node": "n 9"}))[0] == 400


# -- outcomes ----------------------------------------------------------------------------------------
class TestWhenNobodyAnswers:
    @pytest.fixture
    def doors(self) -> Doors:
        return Doors(outcome=0.1, publish=0.1, answer=0.1)

    async def test_a_silent_session_is_said_to_be_silent(self, office: Any) -> None:
        session = await office.run()
        await office.place(session, Slot(node="n1"))
        status, message = await office.refused("session.ask", {"session": session, "verb": "save"})
        assert status == 503 and "did not answer" in message

    async def test_a_command_that_nobody_takes_is_in_doubt_and_its_repeat_harmless(self, office: Any) -> None:
        office.clerk.works.clear()
        wish, id = await office.wish(), new_id()
        status, data = await office.command("session.run", wish, id)
        assert status == 503 and data["error"]["code"] == "unavailable"
        office.clerk.works.set()
        status, data = await office.command("session.run", wish, id)
        assert (status, data["session"]) == (202, "alice/None/1")
        assert len(await office.get("/v1/sessions")) == 1

    async def test_a_command_that_is_safe_but_not_yet_handled_is_accepted(self, office: Any) -> None:
        """As with a broker between: publishing returns at once, the outcome comes later or not in time."""
        session = await office.run()

        async def published(envelope: object) -> None:
            return None

        office.bus.publish = published
        answer = await office.command("session.stop", {"session": session})
        assert answer == (202, {"session": session, "status": "accepted"})


@pytest.mark.parametrize(
    ("path", "status"), [("session.fly", 404), ("session", 404), ("%00", 404), ("session.run%0a", 404)]
)
async def test_an_unknown_command_is_not_found(office: Any, path: str, status: int) -> None:
    assert (await office.call("POST", f"/v1/commands/{path}", json={"body": {}}))[0] == status


@pytest.mark.parametrize("id", ["short", "X" * 32, "g" * 32, 5])
async def test_an_id_is_32_hexadecimal_digits(office: Any, id: Any) -> None:
    assert (await office.command("session.run", await office.wish(), id))[0] == 400


async def _pushed_by_bob(office: Any, name: str, owner: str = "bob", private: bool = False) -> None:
    tree = await office.tree({"train/a": b"1"})
    message = c.PushDataset(owner=owner, dataset=name, tree=tree, files=1, bytes=1, private=private)
    await office.tell(message, f"user:{owner}")
