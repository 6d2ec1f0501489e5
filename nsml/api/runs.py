"""What a `session.run` asks for: read, checked against what there is, not yet sent."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nsml.api import names
from nsml.api.auth import Actor
from nsml.api.cluster import known_nodes
from nsml.api.desk import Desk
from nsml.api.fields import Fields
from nsml.api.trees import stored_tree
from nsml.core import catalogue as c
from nsml.core.errors import BadInput, NeverFits, TooLarge
from nsml.core.ids import NO_DATASET, digest, printable
from nsml.core.resources import Request, never, size
from nsml.core.tree import Tree
from nsml.settings import parse_size

KINDS = ("normal", "fork", "submit", "test", "infer")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
ENVIRONMENT = re.compile(r"[A-Za-z0-9:._-]{0,128}")
MOST_MEMO = 10_000
MOST_ARGS_BYTES = 128 << 10  # what an operating system takes for one argument, and plenty for all of them
TEN_YEARS = 10 * 365 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A run as asked for: `dataset` is the middle part of the session's name."""

    run: c.Run
    dataset: str
    kind: str
    memo: str
    no_queue: bool
    interactive: bool

    def message(self, session: str) -> c.RunSession:
        return c.RunSession(
            session=session,
            run=self.run,
            kind=self.kind,
            memo=self.memo,
            no_queue=self.no_queue,
            interactive=self.interactive,
        )


async def read_wish(desk: Desk, actor: Actor, fields: Fields) -> Wish:
    """The run that *fields* ask for. Raises `BadInput`, `NotFound`, `Ambiguous`, `TooLarge`, `NeverFits`."""
    request = _request(fields.fields("request"))
    kind = fields.line("kind", "normal")
    if kind not in KINDS:
        raise BadInput(f"{kind!r} is no kind of session.", hint=f"Kinds are: {', '.join(KINDS)}.")
    run = c.Run(
        code=digest(fields.line("code")),
        entry=fields.line("entry", "main.py", 1024),
        args=_args(fields),
        image=fields.line("image", "", 1024),
        request=request,
        priority=fields.whole("priority", 0, low=-100, high=100),
        retries=fields.whole("retries", 0, high=100),
        max_seconds=fields.number("max_seconds", 0.0, high=TEN_YEARS),
        env=_env(fields),
        environment=_environment(fields),
        strict_env=fields.flag("strict_env"),
        command=fields.text("command", "", 256 << 10),
        datasets=tuple(
            [
                await names.dataset_ref(desk.store, actor, text)
                for text in fields.texts("dataset", (), most=16)
            ]
        ),
    )
    wish = Wish(
        run=run,
        dataset=run.datasets[0].name if run.datasets else NO_DATASET,
        kind=kind,
        memo=fields.text("memo", "", MOST_MEMO),
        no_queue=fields.flag("no_queue"),
        interactive=fields.flag("interactive"),
    )
    fields.done()
    _check_code(desk, run.entry, await stored_tree(desk.blobs, run.code, desk.doors.tree))
    await _check_fits(desk, request)
    return wish


def _request(fields: Fields) -> Request:
    request = Request(
        gpus=fields.whole("gpus", 0, high=1024),
        cpus=fields.number("cpus", 0.0, high=1e5),
        memory=_size(fields, "memory"),
        shm=_size(fields, "shm"),
        nodes=fields.whole("nodes", 1, low=1, high=1024),
        gpu_model=fields.line("gpu_model", ""),
    )
    fields.done()
    return request


def _size(fields: Fields, name: str) -> int:
    """Bytes, as a number or as people write them (`24G`)."""
    value = fields.raw(name, 0)
    return parse_size(value[:40]) if isinstance(value, str) else fields.whole(name, 0)


def _args(fields: Fields) -> tuple[str, ...]:
    args = fields.texts("args", (), most=4096, each=MOST_ARGS_BYTES)
    if sum(len(arg.encode()) + 1 for arg in args) > MOST_ARGS_BYTES:
        raise TooLarge(f"The arguments are longer than {size(MOST_ARGS_BYTES)}.", hint="Put them in a file.")
    for arg in args:
        if "\0" in arg:
            raise BadInput(f"The argument {printable(arg)[:80]!r} has a NUL character.")
    return args


def _env(fields: Fields) -> tuple[tuple[str, str], ...]:
    env = fields.pairs("env")
    for name, value in env:
        if not VARIABLE.fullmatch(name):
            raise BadInput(
                f"{printable(name)[:80]!r} cannot name a variable.", hint="Write --env NAME=VALUE."
            )
        if name.startswith("NSML_"):
            raise BadInput(
                f"{name}: names that begin with NSML_ are the platform's.", hint="Choose another name."
            )
        if "\0" in value:
            raise BadInput(f"The value of {name} has a NUL character.")
    if sum(len(name) + len(value) for name, value in env) > MOST_ARGS_BYTES:
        raise TooLarge(f"The variables are longer than {size(MOST_ARGS_BYTES)}.", hint="Put them in a file.")
    return env


def _environment(fields: Fields) -> str:
    text = fields.line("environment", "")
    if not ENVIRONMENT.fullmatch(text):
        raise BadInput(f"{text[:80]!r} is not the digest of an environment.")
    return text


def _check_code(desk: Desk, entry: str, tree: Tree) -> None:
    limits = desk.settings
    if len(tree.files) > limits.upload_files:
        raise TooLarge(
            f"The code has {len(tree.files)} files: "
            f"the total number of files cannot exceed {limits.upload_files}.",
            hint="List what is not needed in .nsmlignore, or push data with 'nsml dataset push'.",
        )
    if tree.bytes > limits.upload_bytes:
        raise TooLarge(
            f"The code has {size(tree.bytes)}: "
            f"the total size of files cannot exceed {size(limits.upload_bytes)}.",
            hint="List what is not needed in .nsmlignore, or push data with 'nsml dataset push'.",
        )
    if not any(file.path == entry for file in tree.files):
        raise BadInput(
            f"The code has no file {printable(entry)[:200]!r} to start.",
            hint="Name the entry file: nsml run -e FILE.",
        )


async def _check_fits(desk: Desk, request: Request) -> None:
    """Refuse what no node could run even if it were empty; with no node known yet, wait for one."""
    nodes = await known_nodes(desk.store)
    reasons = [(node.id, never(request, node.capacity)) for node in nodes]
    fitting = sum(1 for _, reason in reasons if reason is None)
    if not nodes or fitting >= request.nodes:
        return
    if fitting:
        raise NeverFits(
            f"This can never run: {request.nodes} nodes wanted, {fitting} could give their share.",
            hint="Ask for fewer nodes: nsml run -n N.",
        )
    said = "; ".join(f"{node}: {reason}" for node, reason in reasons[:3])
    more = f"; and {len(reasons) - 3} more nodes" if len(reasons) > 3 else ""
    raise NeverFits(
        f"This can never run: {said}{more}.", hint="Ask for less; 'nsml node ls' shows what there is."
    )
