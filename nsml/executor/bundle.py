"""What a session sees: its working directory, its variables, its arguments, the library `nsml`."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

import nsml
from nsml.core.catalogue import AttemptSpec
from nsml.core.ports import Limits, Mount, RunSpec
from nsml.executor.attempt import Kept
from nsml.settings import Settings

LIBRARY = ("__init__.py", "constants.py", "encoder.py", "decoder.py", "sdk/*.py")  # nothing else of `nsml`
MOST_MEMORY = 0.9  # of the machine, for one session: the rest keeps it alive
MOST_DISK = 0.45  # of what is free: what a session wrote is there twice when its files are kept
FIRST_PORT = 29500  # what frameworks use for a session over several nodes


def lay_library(root: Path) -> Path:
    """The folder below *root* that holds `nsml` as sessions import it, for `PYTHONPATH`; named by content."""
    package = Path(nsml.__file__).parent
    files = sorted(file for pattern in LIBRARY for file in package.glob(pattern))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    target = root / digest.hexdigest()[:16]
    if not target.exists():
        half = root / f".{target.name}.new"
        shutil.rmtree(half, ignore_errors=True)
        for file in files:
            copy = half / "nsml" / file.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        half.replace(target)
    return target


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What every session on this node sees: where the library lies, which variables it inherits; `memory` is
    what the machine has."""

    settings: Settings
    library: Path
    inherited: Mapping[str, str]
    memory: int


def run_spec(
    host: Host, kept: Kept, folder: Path, python: str, mounts: Iterable[Mount] = (), free: int = 0
) -> RunSpec:
    """What the executor is to run for an attempt laid out in *folder*, on a disk with *free* bytes left."""
    spec, settings = kept.spec, host.settings
    env = {**host.inherited, "PYTHONUNBUFFERED": "1", **dict(spec.run.env)}
    env |= _paths(python, host.library, env) | _variables(kept, folder, settings.node)
    request = spec.run.request
    return RunSpec(
        attempt=kept.id,
        folder=str(folder),
        argv=_argv(spec, python),
        cwd=str(folder / "app"),
        env=tuple(env.items()),
        mounts=tuple(mounts),
        gpus=tuple(map(str, spec.gpus)),
        image=spec.run.image,
        limits=Limits(
            memory=_least(request.memory or settings.memory_limit, int(host.memory * MOST_MEMORY)),
            shm=request.shm,
            cpus=request.cpus,
            processes=settings.processes,
            files=settings.open_files,
            disk=_least(settings.disk_limit, int(free * MOST_DISK)),
            seconds=spec.run.max_seconds,
            log=settings.log_limit,
        ),
    )


def _argv(spec: AttemptSpec, python: str) -> tuple[str, ...]:
    run = spec.run
    program = (shutil.which("bash") or "bash",) if run.entry.endswith(".sh") else (python, "-u")
    going_on = ("--pause", "1", "--iteration", run.iteration) if run.iteration is not None else ()
    return (*program, run.entry, *run.args, *going_on)


def _variables(kept: Kept, folder: Path, node: str) -> dict[str, str]:
    """What NSML tells the session; a list where there are several datasets."""
    spec, run = kept.spec, kept.spec.run
    found = {
        "NSML_SESSION": kept.session,
        "NSML_ATTEMPT": str(kept.attempt),
        "NSML_SPOOL": str(folder / "spool"),
        "NSML_GPU_NUM": str(len(spec.gpus)),
        "NSML_USER": spec.owner,
        "NSML_RANK": str(spec.rank),
        "NSML_WORLD_SIZE": str(max(1, len(spec.hosts))),
        "NSML_NODE": node,
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus)),
    }
    names = [dataset.name for dataset in run.datasets]
    if names:
        found["NSML_DATASET_NAME"] = _one_or_list(names)
        found["NSML_DATASET_PATH"] = _one_or_list([str(folder / "data" / name) for name in names])
    if run.iteration is not None:
        found |= {"NSML_PARENT": run.parent or kept.session, "NSML_ITERATION": run.iteration}
    if len(spec.hosts) > 1:
        ports = [str(FIRST_PORT + rank) for rank in range(len(spec.hosts))]
        found |= {"NSML_PARALLEL_WORLD": _list(spec.hosts), "NSML_PARALLEL_PORTS": _list(ports)}
    return found


def _paths(python: str, library: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Where programs and modules are looked for: ours first, then what *env* says."""
    modules = [str(library), *([env["PYTHONPATH"]] if env.get("PYTHONPATH") else [])]
    programs = env.get("PATH") or "/usr/local/bin:/usr/bin:/bin"
    return {"PYTHONPATH": ":".join(modules), "PATH": f"{Path(python).parent}:{programs}"}


def _one_or_list(values: list[str]) -> str:
    return values[0] if len(values) == 1 else _list(values)


def _list(values: Iterable[str]) -> str:
    return orjson.dumps(list(values)).decode()


def _least(*values: int) -> int:
    """The smallest of *values* that are set."""
    return min((value for value in values if value > 0), default=0)
