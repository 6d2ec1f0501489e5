"""Thousands of requests that nobody would send on purpose: never an answer above 499 but 503, never a broken shape."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from nsml.api.commands import NAMES
from nsml.api.desk import Doors

REQUESTS = int(os.environ.get("NSML_FUZZ", "1500"))
NASTY = [
    "", " ", "../x", "..", ".", "a/b", "a\0b", "a\nb", "é", "🙂" * 100, "‮abc", "$where", "a.b", "__proto__", "-rf", "%00",
    "x" * 300, "x" * 5000, "alice/None/1", "alice/digits/1", "digits", "digits@1", "digits@999999999999", "bob/digits",
    "0", "1", "-1", "1e9", "NaN", "None/1", "\x1b[31m", "<script>", "#tag", "main.py", "0" * 64, "f" * 32, "12X", "24G",
]  # fmt: skip
VALUES: list[Any] = [
    *NASTY, None, True, False, 0, 1, -1, 4, 101, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, -0.0, 1e308, 1e-320,
    [], {}, [None], [[]], {"": ""}, {"a": {"b": [1, 2, {"c": None}]}}, ["x"] * 200, list(range(50)),
]  # fmt: skip
FIELDS = [
    "session",
    "dataset",
    "code",
    "entry",
    "args",
    "image",
    "request",
    "kind",
    "priority",
    "retries",
    "max_seconds",
    "env",
    "environment",
    "strict_env",
    "memo",
    "no_queue",
    "interactive",
    "command",
    "iteration",
    "tree",
    "force",
    "description",
    "tags",
    "private",
    "verb",
    "data",
    "node",
    "reason",
    "now",
    "checkpoint",
    "gpus",
    "cpus",
    "memory",
    "shm",
    "nodes",
    "gpu_model",
    "id",
    "body",
    "digests",
]
PARAMETERS = [
    "all",
    "dataset",
    "owner",
    "name",
    "limit",
    "session",
    "version",
    "offset",
    "tail",
    "since",
    "follow",
    "stream",
    "color",
    "rank",
]


class Dice:
    def __init__(self, seed: int, code: str) -> None:
        self.random, self.code = random.Random(seed), code

    def value(self) -> Any:
        return self.random.choice([*VALUES, self.code])

    def body(self, name: str = "") -> dict[str, Any]:
        """What the command *name* wants, with a few fields spoilt or added."""
        good: dict[str, Any] = {"session": self.random.choice(["alice/None/1", "alice/digits/1"])}
        if name in ("session.run", ""):
            good = {"code": self.code, "entry": "main.py", "request": {"gpus": self.random.randrange(6)}}
        elif name.startswith("dataset."):
            good = {"dataset": self.random.choice(["digits", "sky"])} | (
                {"tree": self.code} if "push" in name else {}
            )
        elif name.startswith("node."):
            good = {"node": "n1"}
        good |= {"session.note": {"memo": "x"}, "session.ask": {"verb": "save"}}.get(name, {})
        good |= {"checkpoint": "1"} if name == "checkpoint.drop" else {}
        for spoilt in self.random.sample([*FIELDS, *good], self.random.choice([0, 1, 1, 2, 5])):
            good[spoilt] = self.value()
        if self.random.random() < 0.2:
            good["request"] = {name: self.value() for name in ("gpus", self.random.choice(FIELDS))}
        return good

    def query(self) -> str:
        pairs = [
            f"{name}={quote(self.random.choice(NASTY))}"
            for name in self.random.sample(PARAMETERS, self.random.randrange(4))
            if name != "follow"
        ]
        return "?" + "&".join(pairs) if pairs else ""

    def part(self) -> str:
        return quote(self.random.choice(NASTY[:30]), safe="")

    def request(self) -> tuple[str, str, bytes | None]:
        session = "/".join(self.part() for _ in range(3)) if self.random.random() < 0.4 else "alice/None/1"
        tail = self.random.choice(["", "/why", "/log", "/plot", "/checkpoints", "/output", "/x"])
        names = [*sorted(NAMES), self.part()]
        match self.random.randrange(8):
            case 0 | 1 | 2:
                name = self.random.choice(names)
                outer: Any = {"body": self.body(name)}
                if self.random.random() < 0.2:
                    outer[self.random.choice(["id", "x"])] = self.value()
                return "POST", f"/v1/commands/{name}", orjson.dumps(outer)
            case 3:
                where = self.random.choice(["/v1/plan", "/v1/blobs/missing", "/v1/blobs/fetch"])
                return "POST", where, orjson.dumps(self.body())
            case 4:
                return "GET", f"/v1/sessions/{session}{tail}{self.query()}", None
            case 5:
                where = self.random.choice(["sessions", "resolve", "datasets", "nodes", "gpus", "status"])
                return "GET", f"/v1/{where}{self.query()}", None
            case 6:
                where = self.random.choice(["datasets", "blobs"])
                return "GET", f"/v1/{where}/{self.part()}{self.query()}", None
            case _:
                data = self.random.randbytes(self.random.randrange(200))
                method, where = self.random.choice([("POST", "/v1/blobs"), ("PUT", f"/v1/blobs/{'0' * 64}")])
                return method, where, data


class TestAnything:
    @pytest.fixture
    def doors(self) -> Doors:
        return Doors(outcome=0.2, answer=0.02)

    async def test_no_request_makes_it_fail(self, office: Any) -> None:
        await office.push("digits")
        await office.node("n1", gpus=4)
        await office.place(await office.run())
        await office.run(dataset=["digits"])
        dice = Dice(7, await office.tree({"main.py": b"print(1)"}))
        statuses: dict[int, int] = {}

        async def one() -> None:
            method, path, data = dice.request()
            async with office.http.request(method, office.base + path, data=data) as response:
                text = await response.read()
                statuses[response.status] = statuses.get(response.status, 0) + 1
                asked = b'"verb"' in (data or b"") or "/output" in path
                assert response.status < 500 or (response.status == 503 and asked), (method, path, data, text)
                if response.status >= 400 and len(path) < 8000:  # beyond, the head itself is refused
                    error = orjson.loads(text)["error"]
                    assert error["message"] and set(error) == {"code", "message", "hint"}

        for _ in range(REQUESTS // 10):
            await asyncio.gather(*(one() for _ in range(10)))
        assert statuses.get(200, 0) > REQUESTS / 20 and statuses.get(202, 0) > REQUESTS / 200, statuses
        assert not await office.bus.parked(), "a request got through that nobody could handle"
