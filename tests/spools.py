"""The node's side of a spool, for tests of the SDK: it keeps what is saved and answers what is asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping
from pathlib import Path

from nsml.core import outbox

ROOT = Path(__file__).resolve().parent.parent
SESSION = "alice/digits/7"
SDK = ("__init__.py", "constants.py", "encoder.py", "decoder.py", "sdk")


class Node:
    """Follows the outboxes in a spool while it is open, as the executor does."""

    def __init__(self, folder: Path, answers: bool = True) -> None:
        self.spool = folder / "spool"
        self.kept: dict[tuple[str, str], Path] = {}
        self.asked: list[outbox.Load] = []
        self._store = folder / "kept"
        self._read: dict[str, tuple[int, Mapping[int, tuple[str, ...]]]] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._answers = answers

    def __enter__(self) -> Node:
        (self.spool / "inbox").mkdir(parents=True)
        if self._answers:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        if self._answers:
            self._thread.join()

    def checkpoints(self, session: str = SESSION) -> dict[str, list[str]]:
        """The files of each checkpoint of *session*."""
        return {
            name: sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
            for (owner, name), path in self.kept.items()
            if owner == session
        }

    def put(self, session: str, checkpoint: str, **files: str) -> None:
        """Have a checkpoint of another session to give."""
        path = self._store / f"put-{len(self.kept)}"
        path.mkdir(parents=True)
        for name, text in files.items():
            (path / name).write_text(text)
        self.kept[session, checkpoint] = path

    def records(self) -> list[outbox.Record]:
        """All that is in the outboxes, the main one first."""
        return [
            r for file in sorted(self.spool.glob("outbox*")) for r in outbox.read(file.read_bytes(), {})[0]
        ]

    def reports(self) -> list[outbox.Report]:
        return [record for record in self.records() if isinstance(record, outbox.Report)]

    def env(self, **more: str) -> dict[str, str]:
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("NSML_")},
            **{"NSML_SESSION": SESSION, "NSML_SPOOL": str(self.spool), "PYTHONPATH": str(ROOT), **more},
        }

    def run(self, script: str, *args: str, code: int = 0, **env: str) -> str:
        """Run *script* as a session here; what it printed, once it ended with *code*."""
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), *args],
            env=self.env(**env),
            cwd=self.spool.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        if self._answers:
            self._scan()
        assert done.returncode == code, done.stdout
        return done.stdout

    def _follow(self) -> None:
        while not self._closed.wait(0.005):
            self._scan()

    def _scan(self) -> None:
        with _LOCK:
            for file in sorted(self.spool.glob("outbox*")):
                at, names = self._read.get(file.name, (0, {}))
                records, size, names = outbox.read(file.read_bytes()[at:], names)
                self._read[file.name] = at + size, names
                for record in records:
                    if isinstance(record, outbox.Save):
                        self._keep(record)
                    elif isinstance(record, outbox.Load):
                        self._answer(record)

    def _keep(self, save: outbox.Save) -> None:
        target = self._store / save.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.spool / save.path, target)
        self.kept[SESSION, save.checkpoint] = target

    def _answer(self, load: outbox.Load) -> None:
        self.asked.append(load)
        wanted = load.checkpoint
        if wanted is None:  # the latest
            wanted = [name for session, name in self.kept if session == load.session][-1]
        found = self.kept.get((load.session, wanted))
        answer = {"error": "not-found", "message": "there is none"}
        if found:
            shutil.copytree(found, self.spool / "loads" / load.request)
            answer = {"path": f"loads/{load.request}"}
        file = self.spool / "inbox" / f"{load.request}.tmp"
        file.write_text(json.dumps(answer))
        file.rename(file.with_suffix(".json"))


_LOCK = threading.Lock()


def bundle(folder: Path) -> Path:
    """The SDK alone in *folder*, as a session finds it on its PYTHONPATH."""
    for name in SDK:
        source, target = ROOT / "nsml" / name, folder / "nsml" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder
