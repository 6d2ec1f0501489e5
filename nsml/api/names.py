"""From what people type to what there is: sessions and datasets, as far as the actor may see them."""

from __future__ import annotations

from nsml.api.auth import Actor
from nsml.core import ids
from nsml.core.catalogue import DatasetRef
from nsml.core.dataset import DATASET, Dataset
from nsml.core.errors import Ambiguous, BadInput, NotFound
from nsml.core.ports import Store
from nsml.core.session import SESSION, Session, State

LONGEST = 256
LARGEST = 10**9  # a session's number; nobody has that many


def session_name(text: str) -> str:
    """*text* if it is a session's full name; else `BadInput`."""
    parts = text.split("/")
    if len(text) > LONGEST or len(parts) != 3:
        raise BadInput(f"{_shown(text)} is not a session: those are called OWNER/DATASET/NUMBER.")
    ids.name(parts[0], "user")
    ids.name(parts[1], "dataset")
    return ids.session_id(parts[0], parts[1], _number(parts[2]))


def _number(text: str) -> int:
    if text.isascii() and text.isdigit() and not text.startswith("0") and int(text[:12]) <= LARGEST:
        return int(text)
    raise BadInput(f"{_shown(text)} is not a session's number.")


def _shown(text: str) -> str:
    return repr(ids.printable(text)[:80])


async def find_session(store: Store, name: str) -> Session:
    """The session of that full name. Raises `BadInput` or `NotFound`."""
    document = await store.load(SESSION.key(session_name(name)))
    session = document.value(SESSION) if document else None
    if session is None:
        raise NotFound(f"There is no session {name}.", hint="See 'nsml ps -a'.")
    if session.state is State.REMOVED:
        raise NotFound(f"The session {name} was removed.", hint="See 'nsml ps -a'.")
    return session


async def own_session(store: Store, actor: Actor, name: str) -> Session:
    """A session that *actor* may change. Raises `NotAllowed`, too."""
    session = await find_session(store, name)
    actor.must_own(session.owner, f"The session {session.id}")
    return session


async def resolve(store: Store, actor: Actor, text: str) -> str:
    """The full name of the one session that *text* (`OWNER/DATASET/N`, `DATASET/N` or `N`) means.

    One's own come first. Raises `BadInput`, `NotFound`, `Ambiguous`.
    """
    if len(text) > LONGEST or not text.isprintable():
        raise BadInput(f"{_shown(text)} is not a session: those are called OWNER/DATASET/NUMBER.")
    parts = text.split("/")
    if len(parts) > 3 or not all(parts):
        raise NotFound(f"There is no session {_shown(text)}.", hint="See 'nsml ps -a'.")
    if len(parts) == 3:
        return (await find_session(store, text)).id
    if not (parts[-1].isascii() and parts[-1].isdigit()):
        raise NotFound(f"There is no session {_shown(text)}.", hint="See 'nsml ps -a'.")
    number = _number(parts[-1])
    owners = await store.tally("session", "owner", {"dataset": parts[0]} if len(parts) == 2 else None)
    for group in ([actor.name], [owner for owner in owners if owner != actor.name]):
        found = [name for owner in group for name in await _numbered(store, owner, parts[:-1], number)]
        if len(found) > 1:
            raise Ambiguous(f"{text} may be {' or '.join(found[:5])}.", hint="Type the whole name.")
        if found:
            return found[0]
    raise NotFound(f"There is no session {text}.", hint="See 'nsml ps -a'.")


async def _numbered(store: Store, owner: str, dataset: list[str], number: int) -> list[str]:
    """The owner's sessions of that number, in *dataset* or in any."""
    datasets = dataset or sorted(await store.tally("session", "dataset", {"owner": owner}))
    found = []
    for name in datasets:
        document = await store.load(SESSION.key(ids.session_id(owner, name, number)))
        session = document.value(SESSION) if document else None
        if session and session.state is not State.REMOVED:
            found.append(session.id)
    return found


async def find_dataset(store: Store, actor: Actor, name: str, owner: str = "") -> Dataset:
    """The dataset that *name* means to *actor*: one's own, else the only one that others show.

    Raises `BadInput`, `NotFound` (also for what is there, but private to somebody else), `Ambiguous`.
    """
    ids.name(name, "dataset")
    if owner:
        found = await _dataset(store, ids.name(owner, "user"), name)
        if found and (owner == actor.name or not found.private):
            return found
        raise _no_dataset(f"{owner}/{name}")
    own = await _dataset(store, actor.name, name)
    if own:
        return own
    where = {"name": name, "removed": False, "private": False}
    others = [d.value(DATASET) for d in await store.scan("dataset", where, limit=20)]
    seen = [d for d in others if d is not None and d.owner != actor.name]
    if not seen:
        raise _no_dataset(name)
    if len(seen) > 1:
        names = " or ".join(d.id for d in seen[:5])
        raise Ambiguous(f"The dataset {name} may be {names}.", hint=f"Type the owner, too: {seen[0].id}.")
    return seen[0]


def _no_dataset(name: str) -> NotFound:
    return NotFound(
        f"There is no dataset {name}.",
        hint="'nsml dataset ls' lists them, 'nsml dataset push NAME PATH' makes one.",
    )


async def _dataset(store: Store, owner: str, name: str) -> Dataset | None:
    document = await store.load(DATASET.key(f"{owner}/{name}"))
    dataset = document.value(DATASET) if document else None
    return None if dataset is None or dataset.removed else dataset


async def dataset_ref(store: Store, actor: Actor, text: str) -> DatasetRef:
    """What `NAME`, `NAME@VERSION` or `OWNER/NAME@VERSION` means to *actor* now."""
    whole, at, number = text.partition("@")
    owner, slash, name = whole.rpartition("/")
    if slash and not owner:
        raise BadInput(f"{_shown(text)} is not a dataset: write NAME, NAME@VERSION or OWNER/NAME.")
    dataset = await find_dataset(store, actor, name, owner)
    wanted = None
    if at:
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise BadInput(f"{_shown(number)} is not a version of a dataset.", hint="Write it like sky@1.")
        wanted = int(number)
    version = dataset.version(wanted)
    if version is None:
        raise NotFound(
            f"The dataset {dataset.name} has no version {number or 'yet'}; the newest is {dataset.last}.",
            hint=f"Write {dataset.name}@{dataset.last}.",
        )
    return DatasetRef(
        name=dataset.name,
        owner=dataset.owner,
        version=version.number,
        tree=version.tree,
        bytes=version.bytes,
    )
