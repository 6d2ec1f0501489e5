"""Datasets, checkpoints, produced files, code and curves, as commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_platform import Answer, FakePlatform, Typing

SESSION = "a/b/1"
PATH = f"/v1/sessions/{SESSION}"


@pytest.fixture
def pushes(platform: FakePlatform, nsml: Typing) -> FakePlatform:
    platform.answers["/v1/datasets"] = []
    platform.answers["/v1/commands/dataset.push"] = Answer(202, {"dataset": "sky", "version": 1})
    platform.answers["/v1/commands/dataset.remove"] = Answer(202, {"dataset": "sky", "status": "removed"})
    Path("data/a").mkdir(parents=True)
    Path("data/a/b.bin").write_bytes(b"12")
    Path("data/t.txt").write_bytes(b"3")
    return platform


def test_a_push_lies_below_train_and_comes_back_without(nsml: Typing, pushes: FakePlatform) -> None:
    done = nsml(
        "dataset",
        "push",
        "sky",
        "data",
        "--private",
        "--tag",
        "#x",
        "--tag",
        "#y",
        "--description",
        "d",
        "-v",
    )
    assert done.code == 0 and "2 files, 3 B" in done.out
    (body,) = pushes.commands("dataset.push")
    assert {"private": True, "tags": ["#x", "#y"], "description": "d", "force": False}.items() <= body.items()
    pushes.answers["/v1/datasets/sky"] = {"name": "sky", "tree": body["tree"]}
    assert nsml("dataset", "fs", "sky", "--json").json == [
        {"path": "train/a/b.bin", "bytes": 2},
        {"path": "train/t.txt", "bytes": 1},
    ]
    assert nsml("dataset", "pull", "sky", "back").code == 0
    assert Path("back/a/b.bin").read_bytes() == b"12"
    assert nsml("dataset", "pull", "sky", "back").code == 1
    assert nsml("dataset", "pull", "-f", "sky@1", "back").code == 0
    assert pushes.calls[-1].query == {} and any(call.query == {"version": "1"} for call in pushes.calls)


def test_what_was_not_said_is_not_sent(nsml: Typing, pushes: FakePlatform) -> None:
    nsml("dataset", "push", "sky", "data")
    assert set(pushes.commands("dataset.push")[0]) == {"dataset", "tree", "force"}


def test_a_single_file_is_pushed_under_its_name(nsml: Typing, pushes: FakePlatform) -> None:
    nsml("dataset", "push", "sky", "data/t.txt", "--json")
    pushes.answers["/v1/datasets/sky"] = {"tree": pushes.commands("dataset.push")[0]["tree"]}
    assert nsml("dataset", "fs", "sky", "-o", "name").out == "train/t.txt\n"


@pytest.mark.parametrize("name", ["../x", "a b", "x" * 300, "-rf", "a/b", "é\n", "", "."])
def test_a_bad_name_is_refused_before_anything_is_read(name: str, nsml: Typing, pushes: FakePlatform) -> None:
    assert nsml("dataset", "push", "--", name, "nowhere").code == 2
    assert not pushes.calls


def test_a_name_that_is_taken_needs_force(nsml: Typing, pushes: FakePlatform) -> None:
    pushes.answers["/v1/datasets"] = [{"name": "sky", "owner": "alice", "version": 3}]
    pushes.answers["/v1/status"] = {}
    done = nsml("dataset", "push", "sky", "data")
    assert done.code == 1 and "push -f" in done.err and not pushes.blobs
    assert nsml("dataset", "push", "-f", "sky", "data").code == 0
    pushes.answers["/v1/status"] = {"user": "bob"}
    assert nsml("dataset", "push", "sky", "data").code == 0


def test_nothing_to_push_is_said(nsml: Typing, pushes: FakePlatform) -> None:
    Path("empty").mkdir()
    assert nsml("dataset", "push", "sky", "empty").code == 2
    assert nsml("dataset", "push", "sky", "nowhere").code == 2
    assert not pushes.commands("dataset.push")


def test_removing_datasets(nsml: Typing, pushes: FakePlatform) -> None:
    assert nsml("dataset", "rm", "sky", "sea", "--json").json == {"removed": ["sky", "sea"]}
    assert nsml("dataset", "rm", "sky@1").code == 2


@pytest.fixture
def saved(platform: FakePlatform, nsml: Typing) -> FakePlatform:
    rows = [
        {"checkpoint": name, "modified": "2026-01-31T12:00:00+00:00", "elapsed": 1.5, "bytes": 2,
         "summary": {"loss": 1 / 3}, "tree": platform.add_tree({"weights": name.encode()})}
        for name in ("1", "10", "best", "*")
    ]  # fmt: skip
    platform.answers[f"{PATH}/checkpoints"] = rows
    platform.answers["/v1/commands/checkpoint.drop"] = Answer(202, {})
    platform.answers[f"{PATH}/output"] = {"tree": platform.add_tree({"out/r.txt": b"42", "x": b"1"})}
    platform.answers[PATH] = {"session": SESSION, "run": {"code": platform.add_tree({"main.py": b"1"})}}
    return platform


def test_checkpoints_are_listed_with_full_precision(nsml: Typing, saved: FakePlatform) -> None:
    lines = nsml("model", "ls", SESSION).out.splitlines()
    assert lines[2].startswith("1 ") and f"loss={1 / 3}" in lines[2]
    assert nsml("model", "ls", SESSION, "-q").out.split() == ["1", "10", "best", "*"]


def test_a_checkpoint_comes_into_a_folder(nsml: Typing, saved: FakePlatform) -> None:
    assert nsml("model", "pull", SESSION, "best", "m").code == 0
    assert Path("m/weights").read_text() == "best"
    assert nsml("model", "pull", SESSION, "11", "n").code == 102 and not Path("n").exists()


def test_checkpoints_are_removed_by_name_or_pattern(nsml: Typing, saved: FakePlatform) -> None:
    def dropped() -> list[str]:
        return [body["checkpoint"] for body in saved.commands("checkpoint.drop")]

    assert nsml("model", "rm", SESSION, "1*").code == 0 and dropped() == ["1", "10"]
    nsml("model", "rm", SESSION, "*")
    assert dropped()[2:] == ["*"], "a checkpoint of that very name wins over the pattern"
    assert nsml("model", "rm", SESSION, "none*").code == 102


def test_produced_files_come_whole_or_one_by_one(nsml: Typing, saved: FakePlatform) -> None:
    assert nsml("download", SESSION, "got").code == 0
    assert Path("got/out/r.txt").read_text() == "42" and Path("got/x").exists()
    assert nsml("download", SESSION, "got").code == 1
    assert nsml("download", "-f", SESSION, "got").code == 0
    assert nsml("download", "-s", "/app/out", SESSION).code == 0
    assert Path("out/r.txt").exists() and not Path("x").exists()
    assert nsml("download", "-s", "none", SESSION, "y").code == 102


def test_the_code_comes_back_and_force_erases(nsml: Typing, saved: FakePlatform) -> None:
    Path("code").mkdir()
    Path("code/mine").write_text("")
    assert nsml("pull", SESSION, "code").code == 1 and Path("code/mine").exists()
    assert nsml("pull", "-f", SESSION, "code").code == 0
    assert Path("code/main.py").exists() and not Path("code/mine").exists()


def test_curves_are_drawn_or_told(nsml: Typing, platform: FakePlatform) -> None:
    curve = {"name": "train/loss", "steps": [1, 2], "values": [1.0, "NaN"], "times": [0.0, 1.0]}
    other = {**curve, "name": "test/loss"}
    platform.answers[f"{PATH}/plot"] = {"session": SESSION, "series": [curve, other]}
    assert {"train/loss", "test/loss"} <= set(nsml("plot", SESSION).out.split())
    assert nsml("plot", SESSION, "--json").json["series"] == [curve, other]
    only = nsml("plot", SESSION, "--name", "test/*", "--json").json
    assert only == {"session": SESSION, "series": [other]}
    assert nsml("plot", SESSION, "--name", "x").code == 102
    counting = {**curve, "name": "epoch"}
    platform.answers[f"{PATH}/plot"] = {"session": SESSION, "series": [counting, curve]}
    assert "epoch" not in nsml("plot", SESSION).out.split()
    assert "epoch" in nsml("plot", SESSION, "--name", "epoch").out.split()
    assert nsml("plot", SESSION, "--json").json["series"] == [counting, curve]
    platform.answers[f"{PATH}/plot"] = {"session": SESSION, "series": []}
    assert nsml("plot", SESSION).code == 0


def test_nodes_and_gpus(nsml: Typing, platform: FakePlatform) -> None:
    node = {"node": "n1", "status": "ready", "gpus": 4, "free_gpus": 3, "cpus": 8.0, "memory": 1 << 34,
            "sessions": ["a/b/1"], "last_seen": None}  # fmt: skip
    gpu = {"node": "n1", "index": 0, "uuid": "u", "name": "A100", "utilization": None, "memory_used": None,
           "memory_total": None, "temperature": None, "power": None, "session": None, "user": None}  # fmt: skip
    platform.answers.update({"/v1/nodes": [node], "/v1/gpus": [gpu]})
    platform.answers["/v1/commands/node.drain"] = Answer(202, {"node": "n1", "status": "draining"})
    platform.answers["/v1/commands/node.resume"] = Answer(202, {"node": "n1", "status": "ready"})
    assert "3/4 free" in nsml("node", "ls").out and "A100" in nsml("gpustat").out
    assert nsml("node", "ls", "--json").json == [node] and nsml("gpustat", "-j").json == [gpu]
    assert nsml("node", "drain", "n1", "--reason", "disks").code == 0
    assert platform.commands("node.drain") == [{"node": "n1", "reason": "disks"}]
    assert nsml("node", "resume", "n1", "--json").json["status"] == "ready"
    platform.answers["/v1/gpus"] = []
    assert nsml("gpustat", "-j").json == [] and nsml("gpustat").code == 0


def test_the_status(nsml: Typing, platform: FakePlatform) -> None:
    answer = {"api": "http://x", "pid": 7, "version": "1", "leader": "h/7", "term": 2, "nodes": 1, "gpus": 0,
              "free_gpus": 0, "queued": 1, "running": 2, "roles": ["api"], "warnings": ["a sink drops"]}  # fmt: skip
    platform.answers["/v1/status"] = answer
    out = nsml("status").out
    assert "pid 7" in out and "2 running, 1 queued" in out and "Warning: a sink drops" in out
    assert nsml("status", "--json").json == answer
