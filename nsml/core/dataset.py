"""A dataset and its versions: each push is a new immutable one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nsml.core import catalogue as c
from nsml.core.errors import NotFound, Refused
from nsml.core.messages import Envelope
from nsml.core.subject import Change, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetVersion:
    """One push: the tree's digest, how many files and bytes, when."""

    number: int
    tree: str
    files: int
    bytes: int
    pushed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset as recorded; the last version is the newest. A removed one keeps its numbers going."""

    id: str
    owner: str
    name: str
    versions: tuple[DatasetVersion, ...]
    description: str = ""
    tags: tuple[str, ...] = ()
    private: bool = False
    removed: bool = False
    last: int = 0

    def version(self, number: int | None) -> DatasetVersion | None:
        """The version of that *number*, the newest for None; None when there is none."""
        if number is None:
            return self.versions[-1] if self.versions else None
        return next((v for v in self.versions if v.number == number), None)


def decide(dataset: Dataset | None, envelope: Envelope) -> Change[Dataset] | None:
    """The change that a message makes to *dataset*. Raises `Refused` or `NotFound`."""
    message = envelope.body
    if isinstance(message, c.PushDataset):
        return _push(dataset, message, envelope)
    if isinstance(message, c.RemoveDataset):
        return _remove(dataset, message)
    return None


def _push(dataset: Dataset | None, message: c.PushDataset, envelope: Envelope) -> Change[Dataset]:
    if dataset and not dataset.removed and not message.force:
        raise Refused(
            f"The dataset {message.dataset} exists already (version {dataset.last}).",
            hint=f"Type 'nsml dataset push -f {message.dataset} PATH' to push a new version.",
        )
    old = dataset or Dataset(
        id=f"{message.owner}/{message.dataset}",
        owner=message.owner,
        name=message.dataset,
        versions=(),
    )
    version = DatasetVersion(
        number=old.last + 1,
        tree=message.tree,
        files=message.files,
        bytes=message.bytes,
        pushed=envelope.at,
    )
    new = replace(
        old,
        versions=(*old.versions, version),
        last=version.number,
        removed=False,
        description=old.description if message.description is None else message.description,
        tags=old.tags if message.tags is None else message.tags,
        private=old.private if message.private is None else message.private,
    )
    return Change(new, ((c.DatasetPushed(owner=new.owner, dataset=new.name, version=version.number), ""),))


def _remove(dataset: Dataset | None, message: c.RemoveDataset) -> Change[Dataset]:
    if dataset is None or dataset.removed:
        raise NotFound(
            f"There is no dataset {message.dataset}.",
            hint="'nsml dataset ls' lists them, 'nsml dataset push NAME PATH' makes one.",
        )
    gone = replace(dataset, versions=(), removed=True, description="", tags=())
    return Change(gone, ((c.DatasetRemoved(owner=gone.owner, dataset=gone.name), ""),))


DATASET: Subject[Dataset] = Subject("dataset", Dataset, decide)
