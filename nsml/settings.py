"""Every setting: one frozen record, read once from `NSML_*` variables over `$NSML_HOME/nsml.toml`."""

from __future__ import annotations

import difflib
import getpass
import os
import re
import socket
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nsml.core.errors import BadInput

UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
ROLES = ("api", "scheduler", "executor", "monitor", "notifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a platform is put together. A field `x` is `NSML_X` in the environment and `x` in the TOML file;
    the scheme of a URL picks its adapter. Sizes in bytes (`20G` is understood), times in seconds."""

    home: Path = field(default_factory=lambda: Path.home() / ".nsml")
    bus: str = "memory:"
    store: str = "sqlite:nsml.db"
    blobs: str = "file:blobs"
    streams: str = "file:streams"
    executor: str = "process:"
    mail: str = "maildir:mail"
    gpu: str = "none:"
    node: str = field(default_factory=lambda: _name_of(socket.gethostname().partition(".")[0], "node"))
    user: str = field(default_factory=lambda: _name_of(_login(), "user"))
    cluster: str = "default"
    host: str = "127.0.0.1"
    port: int = 0  # 0: the one remembered in the home, or a free one
    python: str = field(default_factory=lambda: _python())
    cpus: float = 0.0  # what the node gives out; 0: what it has
    memory: int = 0
    memory_limit: int = (
        24 << 30
    )  # of a session that names none, as in the original; never above 90 % of the node
    log_limit: int = 1 << 30  # bytes of a session's log kept in full; beyond, its beginning and its end
    disk_limit: int = 10 << 30  # what a session may write, as the original's 5 to 10 GB
    cache_limit: int = 50 << 30  # datasets and environments kept on a node
    processes: int = 4096  # of one session
    open_files: int = 65536
    upload_files: int = 100  # of a `run`, as in the original
    upload_bytes: int = 50 << 20
    beat: float = (
        5.0  # between heartbeats: three missed ones must fit into the 30 s after which a node is lost
    )

    def path(self, url: str) -> Path:
        """The path of a `scheme:path` URL, relative ones below the home."""
        return self.home / Path(url.partition(":")[2]).expanduser()


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of *environ* (default: this process's) over the home's `nsml.toml`.

    Raises `BadInput` for an unknown key (with the nearest known name) or a value of the wrong kind.
    """
    env = os.environ if environ is None else environ
    home = Path(env["NSML_HOME"]).expanduser() if env.get("NSML_HOME") else Settings().home
    given: dict[str, Any] = {}
    file = home / "nsml.toml"
    if file.exists():
        given |= {key: (value, str(file)) for key, value in _toml(file).items()}
    for key, value in env.items():
        name = key.removeprefix("NSML_").lower()
        if key.startswith("NSML_") and name in _TYPES and value != "":
            given[name] = (value, key)
    values = {name: _value(name, value, source) for name, (value, source) in given.items()}
    return replace(Settings(), **{**values, "home": home.resolve()})


_TYPES = {f.name: str(f.type) for f in fields(Settings)}


_WANTED = {"int": "a number or a size such as 24G", "float": "a number"}


def _toml(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is not TOML: {error}.") from error
    for name in values:
        if name not in _TYPES:
            near = difflib.get_close_matches(name, _TYPES, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known are: {', '.join(sorted(_TYPES))}."
            raise BadInput(f"{file} sets '{name}', which is no setting.", hint=hint)
    return values


def _value(name: str, value: Any, source: str) -> Any:
    kind = _TYPES[name]
    try:
        if kind == "Path":
            return Path(str(value)).expanduser()
        if kind == "int":
            number = parse_size(value) if isinstance(value, str) else int(value)
            if name == "port" and not 0 <= number < 1 << 16:
                raise BadInput("no port")
            return number
        return float(value) if kind == "float" else str(value)
    except (ValueError, TypeError, BadInput) as error:
        wanted = "a number from 0 to 65535" if name == "port" else _WANTED.get(kind, kind)
        raise BadInput(f"{source} is {value!r}: {wanted} is wanted.") from error


_PASSED_ON = re.compile(
    "PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|LD_LIBRARY_PATH|(https?|no|all)_proxy"
    "|SSL_CERT_(FILE|DIR)|(REQUESTS_CA|CURL_CA)_BUNDLE|CUDA_(HOME|PATH)|XDG_CACHE_HOME|(HF|TORCH)_HOME",
    re.IGNORECASE,
)


def passed_on(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of *environ* (default: this process's) that sessions see, too: where programs and
    caches are, which language; never a secret of whoever started the platform."""
    env = os.environ if environ is None else environ
    return {key: value for key, value in env.items() if _PASSED_ON.fullmatch(key)}


def parse_size(text: str) -> int:
    """Bytes of `24G`, `50GB`, `1.5 GiB` or `24000000000`. Raises `BadInput`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not found:
        raise BadInput(f"{text!r} is not a size.", hint="Write it like 24G, 512M or 24000000000.")
    return int(float(found[1]) * UNITS[found[2].upper()])


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user{os.getuid()}"


def _name_of(text: str, otherwise: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-")[:64] or otherwise


def _python() -> str:
    """The interpreter that sessions use: the active environment's, else the platform's own."""
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        candidate = Path(os.environ.get(variable, "/nonexistent")) / "bin" / "python"
        if candidate.exists():
            return str(candidate)
    return sys.executable
