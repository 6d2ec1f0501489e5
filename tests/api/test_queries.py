"""What is read: rows of sessions, checkpoints, datasets, nodes and GPUs, curves, the platform's state."""

from __future__ import annotations

import json
import math
import struct
from datetime import datetime
from typing import Any

import pytest

from nsml.api import curves
from nsml.core import catalogue as c
from nsml.core.resources import Slot
from nsml.core.subject import Document

PS = (
    "session status type created args summary description models gpus node attempt exit_code reason progress "
    "wait_seconds run_seconds"
)


# -- sessions ----------------------------------------------------------------------------------------------
async def test_a_row_has_the_fixed_fields_and_times_have_a_zone(office: Any) -> None:
    session = await office.run(args=["--name", "a b"], memo="first", request={"gpus": 2, "nodes": 2})
    (row,) = await office.get("/v1/sessions")
    assert set(PS.split()) <= set(row)
    assert (row["session"], row["status"], row["type"]) == (session, "queued", "normal")
    assert (row["args"], row["description"], row["gpus"], row["node"]) == ("--name 'a b'", "first", 4, None)
    assert (row["summary"], row["models"], row["progress"], row["exit_code"]) == ({}, 0, None, None)
    assert datetime.fromisoformat(row["created"]).tzinfo is not None
    assert row["wait_seconds"] >= 0 and row["run_seconds"] == 0


async def test_the_newest_come_first_and_ended_ones_only_when_all_are_asked_for(office: Any) -> None:
    names = [await office.run() for _ in range(12)]
    await office.command("session.stop", {"session": names[3]})
    await office.command("session.remove", {"session": names[5], "force": True})
    active = [row["session"] for row in await office.get("/v1/sessions")]
    assert active == [n for n in reversed(names) if n not in (names[3], names[5])]
    every = [row["session"] for row in await office.get("/v1/sessions?all=1")]
    assert every == [n for n in reversed(names) if n != names[5]]
    assert [row["session"] for row in await office.get("/v1/sessions?all=1&limit=2")] == every[:2]
    assert await office.get("/v1/sessions?all=1&limit=0") == []


async def test_sessions_are_found_by_dataset_owner_and_pattern(office: Any) -> None:
    await office.push("digits")
    one, two = await office.run(), await office.run(dataset=["digits"])
    assert [r["session"] for r in await office.get("/v1/sessions?dataset=digits")] == [two]
    assert [r["session"] for r in await office.get("/v1/sessions?name=*/None/*")] == [one]
    assert [r["session"] for r in await office.get("/v1/sessions?name=alice/digits/%3F")] == [two]
    assert await office.get("/v1/sessions?owner=bob") == []
    assert await office.get("/v1/sessions?name=[") == []


async def test_the_newest_are_found_behind_many_removed_ones(office: Any) -> None:
    kept = await office.run()
    for _ in range(120):
        session = await office.run()
        await office.command("session.remove", {"session": session, "force": True})
    assert [r["session"] for r in await office.get("/v1/sessions?all=1&limit=1")] == [kept]


async def test_what_is_read_for_a_list_grows_with_the_list_not_with_history(office: Any) -> None:
    code = await office.tree({"main.py": b""})
    for number in range(1, 601):
        body = {"id": f"alice/None/{number}", "owner": "alice", "dataset": "None", "state": "completed"}
        body |= {"run": {"code": code}, "created": float(number)}
        await office.store.commit(Document(key=f"session/alice/None/{number}", body=body, version=1))
    scan, seen = office.store.scan, []

    async def counted(*args: Any, **options: Any) -> Any:
        found = await scan(*args, **options)
        seen.append(len(found))
        return found

    office.store.scan = counted
    rows = await office.get("/v1/sessions?all=1&limit=20")
    assert [r["session"] for r in rows] == [f"alice/None/{n}" for n in range(600, 580, -1)]
    assert sum(seen) <= 100, seen


async def test_a_queued_one_says_why_and_where_it_stands(office: Any) -> None:
    first, second = await office.run(), await office.run()
    await office.queue(
        {
            "session": first,
            "position": 1,
            "reason": "4 GPUs wanted, 2 are free",
            "nearest": "with 2 GPUs instead of 4",
        }
    )
    rows = {r["session"]: r for r in await office.get("/v1/sessions")}
    assert (rows[first]["reason"], rows[first]["position"]) == ("4 GPUs wanted, 2 are free", 1)
    assert rows[second]["position"] is None and rows[second]["reason"]
    answer = await office.get(f"/v1/sessions/{first}/why")
    assert answer == {
        "session": first,
        "reason": "4 GPUs wanted, 2 are free",
        "nearest": "with 2 GPUs instead of 4",
    }


async def test_why_has_a_sentence_for_every_state(office: Any) -> None:
    session = await office.run()

    async def said() -> str:
        return str((await office.get(f"/v1/sessions/{session}/why"))["reason"])

    assert "has not looked" in await said()
    await office.place(session)
    assert "it runs on n1" in await said()
    await office.command("session.stop", {"session": session})
    assert "being stopped: stopped by alice" in await said()
    await office.exit(session, 143, cause="stopped")
    assert "was stopped: stopped by alice" in await said()
    await office.command("session.resume", {"session": session})
    await office.place(session)
    await office.exit(session, 3)
    assert "failed: exit code 3" in await said()


async def test_waiting_and_running_times_grow_while_it_waits_and_runs(office: Any) -> None:
    session = await office.run()
    first, second = [(await office.get("/v1/sessions"))[0]["wait_seconds"] for _ in range(2)]
    assert second >= first
    await office.place(session)
    row = (await office.get("/v1/sessions"))[0]
    assert row["status"] == "running" and row["node"] == "n1" and row["attempt"] == 1
    await office.exit(session, 3)
    row = (await office.get("/v1/sessions?all=1"))[0]
    assert (row["status"], row["exit_code"], row["cause"]) == ("failed", 3, "error")
    again = (await office.get("/v1/sessions?all=1"))[0]
    assert again["run_seconds"] == row["run_seconds"], "an ended session's time stands still"


async def test_everything_recorded_of_a_session_can_be_read(office: Any) -> None:
    await office.push("digits")
    session = await office.run(dataset=["digits"], args=["--x"], env={"A": "1"}, command="nsml run -d digits")
    await office.place(session)
    await office.exit(session, streams=((f"log/{session}/1", 5), (f"outbox/{session}/1", 7)), output="")
    data = await office.get(f"/v1/sessions/{session}")
    assert (
        data["session"] == session
        and data["run"]["args"] == ["--x"]
        and data["command"] == "nsml run -d digits"
    )
    assert data["datasets"][0]["name"] == "digits" and data["code"] == data["run"]["code"]
    assert data["attempts"] == [
        {"attempt": 1, "streams": {f"log/{session}/1": 5, f"outbox/{session}/1": 7}},
    ]
    assert (await office.get(f"/v1/sessions/{session}/output")) == {"tree": None}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("alice/digits/1", "alice/digits/1"),
        ("digits/1", "alice/digits/1"),
        ("2", "alice/None/2"),
        ("stars/1", "bob/stars/1"),
        ("1", 409),
        ("9", 404),
        ("digits/9", 404),
        ("bob/digits/1", 404),
        ("strange", 404),
        ("a/b/c/d", 404),
        ("//", 404),
        ("", 404),
        ("x%00", 400),
        ("1%0A", 400),
        ("x" * 250, 404),
        ("0", 400),
        ("1" * 100, 400),
    ],
)
async def test_short_names_are_understood_when_they_mean_one(office: Any, text: str, answer: object) -> None:
    await office.push("digits")
    await office.run()
    await office.run()
    await office.run(dataset=["digits"])
    code = await office.tree({"main.py": b""})
    await office.tell(c.RunSession(session="bob/stars/1", run=c.Run(code=code)), "user:bob")
    status, data = await office.call("GET", f"/v1/resolve?session={text}")
    assert (data["session"] if status == 200 else status) == answer, data


# -- checkpoints, output -------------------------------------------------------------------------------------
async def test_checkpoints_come_in_saving_order_with_the_time_since_the_one_before(office: Any) -> None:
    session = await office.run()
    await office.place(session)
    assert await office.get(f"/v1/sessions/{session}/checkpoints") == []
    for name, at in (("10", 2_000_000_000.0), ("9", 2_000_000_005.0), ("best", 2_000_000_007.5)):
        await office.save(session, name, at=at, summary=(("loss", 0.5), ("acc", None)), bytes=7)
    rows = await office.get(f"/v1/sessions/{session}/checkpoints")
    assert [r["checkpoint"] for r in rows] == ["10", "9", "best"]
    assert [r["elapsed"] for r in rows][1:] == [5.0, 2.5] and rows[0]["bytes"] == 7
    assert rows[0]["summary"] == {"loss": 0.5, "acc": None} and len(rows[0]["tree"]) == 64
    assert [(row["models"], row["bytes"]) for row in await office.get("/v1/sessions")] == [(3, 21)]
    await office.command("checkpoint.drop", {"session": session, "checkpoint": "9"})
    assert [(row["models"], row["bytes"]) for row in await office.get("/v1/sessions")] == [(2, 14)]


async def test_the_files_of_a_running_session_are_asked_of_its_node(office: Any) -> None:
    import asyncio

    session = await office.run()
    await office.place(session)
    asking = asyncio.create_task(office.get(f"/v1/sessions/{session}/output"))
    while not office.clerk.asked:
        await asyncio.sleep(0.005)
    assert office.clerk.asked[0].verb == "output"
    answered = c.AttemptAnswered(session=session, ask=office.clerk.asked[0].ask, ok=True, data="ab" * 32)
    await office.tell(answered)
    assert await asking == {"tree": "ab" * 32}
    await office.exit(session, output="cd" * 32)
    assert await office.get(f"/v1/sessions/{session}/output") == {"tree": "cd" * 32}


# -- datasets --------------------------------------------------------------------------------------------
async def test_datasets_of_others_are_seen_unless_private(office: Any) -> None:
    await office.push("sky")
    await office.push("sky", force=True)
    tree = await office.tree({"train/a": b"1"})
    for name, private in (("open", False), ("secret", True)):
        await office.tell(
            c.PushDataset(owner="bob", dataset=name, tree=tree, files=1, bytes=1, private=private), "user:bob"
        )
    rows = await office.get("/v1/datasets")
    assert [(r["owner"], r["name"], r["version"]) for r in rows] == [("bob", "open", 1), ("alice", "sky", 2)]
    fixed = "name owner version bytes files modified description tags private board"
    assert set(fixed.split()) <= set(rows[0])
    one = await office.get("/v1/datasets/sky?version=1")
    assert (
        one["version"] == 1 and [v["version"] for v in one["versions"]] == [1, 2] and len(one["tree"]) == 64
    )
    assert (await office.get("/v1/datasets/open?owner=bob"))["tree"] == tree
    for path in ("secret", "secret?owner=bob", "sky?version=9", "none", "sky?owner=bob"):
        assert (await office.call("GET", f"/v1/datasets/{path}"))[0] == 404, path
    assert (await office.call("GET", "/v1/datasets/%2e%2e%2fx"))[0] == 400
    assert (await office.call("GET", "/v1/datasets/sky?version=x"))[0] == 400


# -- the cluster ---------------------------------------------------------------------------------------------
async def test_nodes_and_gpus_show_what_is_free_and_who_holds_what(office: Any) -> None:
    await office.node("n1", gpus=4, loads=(c.GpuLoad(index=1, utilization=97.0, power=210.5),))
    await office.node("n2", gpus=1)
    session = await office.run(request={"gpus": 2, "cpus": 3, "memory": "8G"})
    await office.place(session, Slot(node="n1", gpus=(1, 2)))
    one, two = await office.get("/v1/nodes")
    fixed = "node status gpus free_gpus cpus memory sessions last_seen"
    assert set(fixed.split()) <= set(one)
    assert (one["gpus"], one["free_gpus"], one["sessions"], one["free_cpus"]) == (4, 2, [session], 5.0)
    assert (two["free_gpus"], two["sessions"], two["status"]) == (1, [], "ready")
    gpus = await office.get("/v1/gpus")
    fixed = "node index uuid name utilization memory_used memory_total temperature power session user"
    assert set(fixed.split()) <= set(gpus[0]) and len(gpus) == 5
    assert [(g["session"], g["user"]) for g in gpus[:3]] == [
        (None, None),
        (session, "alice"),
        (session, "alice"),
    ]
    assert (gpus[1]["utilization"], gpus[1]["power"], gpus[1]["temperature"]) == (97.0, 210.5, None)
    await office.command("node.drain", {"node": "n2"})
    assert (await office.get("/v1/nodes"))[1]["free_gpus"] == 0


async def test_status_counts_and_warns(office: Any) -> None:
    data = await office.get("/v1/status")
    fixed = "api pid version leader term nodes gpus free_gpus queued running roles warnings"
    assert set(fixed.split()) <= set(data) and data["api"] == office.base
    assert any("No scheduler leads" in w for w in data["warnings"]) and data["leader"] is None
    await office.store.commit(
        Document(key="lease/scheduler", body={"holder": "host/7", "released": False}, version=1, term=3)
    )
    facts = {"pid": 77, "roles": ["api", "scheduler"]}
    (office.settings.home / "platform.json").write_text(json.dumps(facts))
    await office.node("n1", gpus=4, disk_free=1000)
    await office.run()
    session = await office.run(request={"gpus": 1})
    await office.place(session, Slot(node="n1", gpus=(0,)))
    data = await office.get("/v1/status")
    assert (data["leader"], data["term"], data["pid"], data["roles"]) == (
        "host/7",
        3,
        77,
        ["api", "scheduler"],
    )
    assert (data["nodes"], data["gpus"], data["free_gpus"], data["queued"], data["running"]) == (
        1,
        4,
        3,
        1,
        1,
    )
    assert ["disk of the node n1 is nearly full" in w for w in data["warnings"]] == [True]


# -- plans ---------------------------------------------------------------------------------------------------
async def test_a_plan_says_where_it_would_run_and_creates_nothing(office: Any) -> None:
    async def plan(**changes: Any) -> tuple[int, Any]:
        return await office.call("POST", "/v1/plan", json=await office.wish(**changes))

    assert (await plan(request={"gpus": 1}))[1]["reason"] == "no node has reported yet"
    await office.node("n1", gpus=4)
    await office.node("n2", gpus=2)
    status, data = await plan(request={"gpus": 2})
    assert status == 200 and (data["fits"], data["node"], data["session_would_be"]) == (
        True,
        "n2",
        "alice/None/1",
    )
    holder = await office.run(request={"gpus": 3})
    await office.place(holder, Slot(node="n1", gpus=(0, 1, 2)))
    _, data = await plan(request={"gpus": 3})
    assert data["fits"] is False and data["node"] is None and "n1 has 1 free" in data["reason"]
    assert data["session_would_be"] == "alice/None/2"
    assert (await plan(request={"gpus": 9}))[0] == 422
    assert (await plan(dataset=["no-such-set"]))[0] == 404
    assert len(await office.get("/v1/sessions?all=1")) == 1


# -- curves --------------------------------------------------------------------------------------------------
def names(id: int, *names: str) -> bytes:
    return note({"op": "names", "id": id, "names": list(names)})


def note(data: dict[str, Any]) -> bytes:
    payload = json.dumps(data).encode()
    return struct.pack("<IB", len(payload), 1) + payload


def row(schema: int, at: float, step: float | None, *values: float) -> bytes:
    head = struct.pack("<IBdd", schema, 0, at, math.nan if step is None else step)
    payload = head + struct.pack(f"<{len(values)}d", *values)
    return struct.pack("<IB", len(payload), 2) + payload


async def test_a_plot_has_every_point_of_every_attempt(office: Any) -> None:
    session = await office.run()
    one = names(1, "loss", "$c") + b"".join(row(1, 10.0 + i, i, 1 / (i + 1), i) for i in range(3000))
    tenth = names(1, "loss") + row(1, 99.0, 5000, math.nan) + row(1, 99.5, 5001.5, math.inf)
    await office.streams.append(f"outbox/{session}/10", 0, tenth)
    await office.streams.append(f"outbox/{session}/9", 0, one)
    data = await office.get(f"/v1/sessions/{session}/plot")
    series = {s["name"]: s for s in data["series"]}
    assert data["session"] == session and set(series) == {"loss", "$c"}
    assert series["loss"]["steps"] == [*range(3000), 5000, 5001.5]
    assert series["loss"]["values"][:2] == [1.0, 0.5] and series["loss"]["values"][-2:] == ["NaN", "Infinity"]
    assert series["$c"]["values"] == list(range(3000)) and series["loss"]["times"][-1] == 99.5


async def test_a_plot_goes_on_where_the_outbox_grew_and_counts_reports_without_a_step(office: Any) -> None:
    session = await office.run()
    assert await office.get(f"/v1/sessions/{session}/plot") == {"session": session, "series": []}
    stream, data = f"outbox/{session}/1", names(4, "a") + b"".join(row(4, 1.0, None, i) for i in range(10))
    for end in range(7, len(data) + 7, 7):  # records cut anywhere
        at = await office.streams.size(stream)
        await office.streams.append(stream, at, data[at:end])
        await office.get(f"/v1/sessions/{session}/plot")
    again = names(1, "a") + row(1, 2.0, None, 77.0) + b"\0" * 100
    await office.streams.append(f"outbox/{session}/2", 0, again)
    (series,) = (await office.get(f"/v1/sessions/{session}/plot"))["series"]
    assert series["steps"] == list(range(1, 12)) and series["values"] == [*range(10), 77.0]


async def test_a_large_plot_is_read_in_blocks_and_its_memory_is_bounded(
    office: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "BLOCK", 10_000)
    monkeypatch.setattr(curves, "MOST_POINTS", 1000)
    session = await office.run()
    note_of_many = note({"op": "report", "at": 1.0, "step": 1, "values": {f"v{i}": i for i in range(2000)}})
    assert len(note_of_many) > 2 * curves.BLOCK
    await office.streams.append(f"outbox/{session}/1", 0, names(1, "x") + row(1, 1, 1, 5) + note_of_many)
    data = await office.get(f"/v1/sessions/{session}/plot")
    assert len(data["series"]) == 2001
    assert not office.api.curves.remembered, "more than may be kept is not kept"


async def test_an_outbox_that_cannot_be_read_ends_its_curves_not_the_answer(office: Any) -> None:
    session = await office.run()
    await office.streams.append(f"outbox/{session}/1", 0, names(1, "x") + row(1, 1, 1, 5) + b"\xff" * 50)
    (series,) = (await office.get(f"/v1/sessions/{session}/plot"))["series"]
    assert series["values"] == [5.0]


async def test_a_summary_is_shown_with_its_progress(office: Any) -> None:
    session = await office.run()
    body = {"session": session, "told": [["train/loss", 0.25], ["odd", "NaN"]], "progress": 0.5}
    await office.store.commit(Document(key=f"summary/{session}", body=body, version=1))
    row = (await office.get("/v1/sessions"))[0]
    assert row["summary"] == {"train/loss": 0.25, "odd": "NaN"} and row["progress"] == 0.5
