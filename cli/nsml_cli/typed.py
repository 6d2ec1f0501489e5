"""What people type, read: quoted arguments, durations, variables, the environment their code asks for."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from nsml.core.errors import BadInput

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
LONGEST = 10 * 365 * 86_400.0
ASKING = ("setup.py", "requirements.txt", "nsml_package.txt")  # what tells what a session wants installed
IMAGE = re.compile(r"#\s*nsml\s*:\s*(\S+)")
IMAGE_LINES = 10  # it stands in one of the first
QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\\r?\n""", re.DOTALL)


def arguments(text: str) -> list[str]:
    """*text* split as a shell does, newlines and their continuations included. Raises `BadInput`."""
    try:
        return shlex.split(QUOTED.sub(_without_continuation, text))
    except ValueError as error:
        raise BadInput(f"-a {text!r}: {str(error).lower()}.", hint="Check its quotes.") from error


def _without_continuation(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("'") else re.sub(r"\\\r?\n", "", found[0])


def duration(text: str) -> float:
    """Seconds of `90`, `2s`, `10m`, `1h30m`. Raises `BadInput`."""
    pieces = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhdw]?)\s*", text.strip())
    if not pieces or "".join(f"{n}{u}" for n, u in pieces) != re.sub(r"\s", "", text):
        raise BadInput(f"{text!r} is not a duration.", hint="Write it like 90s, 10m or 2h.")
    seconds = sum(float(number) * UNITS[unit] for number, unit in pieces)
    if seconds > LONGEST:
        raise BadInput(f"{text!r} is longer than ten years.", hint="Write it like 90s, 10m or 2h.")
    return seconds


def variables(pairs: Iterable[str]) -> dict[str, str]:
    """The variables of `K=V` words. Raises `BadInput`."""
    made: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise BadInput(f"--env {pair!r} is not a variable.", hint="Write it like --env NAME=VALUE.")
        made[name] = value
    return made


def entry_of(path: str) -> tuple[Path, str]:
    """The folder that is uploaded and the entry file in it. Raises `BadInput` when it is not there."""
    file = Path(path)
    if not path or not file.is_file():
        raise BadInput(
            f"There is no file {path or '(empty)'} to run.",
            hint="Name the entry file: nsml run -e FILE. Its folder is what is uploaded.",
        )
    return file.parent.absolute(), file.name


def image_of(folder: Path) -> str:
    """The image that a line `#nsml: IMAGE` at the top of setup.py or requirements.txt names."""
    for name in ASKING[:2]:
        for line in _lines(folder / name)[:IMAGE_LINES]:
            if found := IMAGE.match(line.strip()):
                return found[1]
    return ""


def environment(folder: Path, paths: Iterable[str], image: str) -> str:
    """The digest of what the code asks to be installed; empty when it asks for nothing."""
    sent = set(paths)
    made = hashlib.sha256()
    asks = bool(image)
    for name in ASKING:
        if name in sent:
            asks = True
            content = (folder / name).read_bytes()
            made.update(f"{name}\0{len(content)}\0".encode() + content)
    made.update(f"image\0{image}".encode())
    return made.hexdigest() if asks else ""


def command(words: Sequence[str]) -> str:
    """The command as it would be typed again, on one line and readable."""
    return " ".join(["nsml", *(_quoted(word) for word in words)])


def _quoted(word: str) -> str:
    if not word.isprintable():
        return f"$'{''.join(map(_escaped, word))}'"  # as bash, zsh and ksh read it
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    return shlex.quote(word)


def _escaped(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return named.get(letter) or "".join(f"\\x{b:02x}" for b in letter.encode("utf-8", "surrogateescape"))


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(20_000).splitlines()
    except OSError:
        return []
