"""Which platform a command talks to: `--server`, `$NSML_SERVER`, the profile file, else this home's own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from nsml.core.errors import BadInput


@dataclass(frozen=True, slots=True)
class Where:
    """A platform's address and the token that it wants."""

    base: str
    token: str


def home() -> Path:
    """The folder of the local platform: `$NSML_HOME`, else `~/.nsml`."""
    given = os.environ.get("NSML_HOME")
    return (Path(given).expanduser() if given else Path.home() / ".nsml").resolve()


def remote(server: str | None) -> Where | None:
    """The platform that was configured; None when it is to be the local one. Raises `BadInput`."""
    profile = _profile()
    base = server or os.environ.get("NSML_SERVER") or profile.get("server")
    if not base:
        return None
    if "://" not in base:
        base = f"http://{base}"
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(f"{base!r} is not the address of a platform.", hint="Write it like http://HOST:PORT.")
    token = os.environ.get("NSML_TOKEN") or profile.get("token") or home_token() or ""
    return Where(base.rstrip("/"), token)


def home_token() -> str | None:
    """The token of the local platform, once it has one."""
    try:
        return (home() / "token").read_text().strip()
    except OSError:
        return None


def profile_path() -> Path:
    """Where `server` and `token` may be written down for good."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "nsml" / "profile.toml"


def _profile() -> dict[str, str]:
    path = profile_path()
    if not path.exists():
        return {}
    import tomllib

    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error
    return {key: str(values[key]) for key in ("server", "token") if key in values}
