"""What a session's code asks to be installed: its setup.py, its requirements.txt, its `#nsml:` line. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

IMAGE = re.compile(r"#\s*nsml\s*:\s*(\S+)")
INCLUDE = re.compile(r"(?:-r|--requirement)[ =]\s*(\S+)")
CONSTRAINT = re.compile(r"(?:-c|--constraint)[ =]\s*(\S+)")
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a requirement that any version satisfies
DEEPEST = 10  # of requirements files that include each other


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`setup` is the text of setup.py; `requirements` are one each, `options` what stands for all of them
    (`--index-url …`); `packages` are Debian packages of nsml_package.txt."""

    image: str = ""
    setup: str = ""
    requirements: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.setup or self.requirements)

    def digest(self, interpreter: str) -> str:
        """Names the environment: whoever wants the same of the same *interpreter* shares it."""
        parts = (interpreter, self.setup, *self.requirements, "", *self.options)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def wanted(files: Mapping[str, str], image: str = "") -> Wanted:
    """What the code whose text *files* these are asks for; *image* was asked for on the command line."""
    setup, requirements = files.get("setup.py", ""), files.get("requirements.txt", "")
    does_something = any(line.strip() and not line.lstrip().startswith("#") for line in setup.splitlines())
    lines = _lines("requirements.txt", files, ())
    return Wanted(
        image=image or image_line(setup) or image_line(requirements),
        setup=setup if does_something else "",
        requirements=tuple(line for line in lines if not line.startswith("-") or _is_editable(line)),
        options=tuple(line for line in lines if line.startswith("-") and not _is_editable(line)),
        packages=tuple(_clean(files.get("nsml_package.txt", ""))),
    )


def image_line(text: str) -> str:
    """The image named by the comments at the top of *text*, `#nsml: IMAGE` or `# nsml: IMAGE`."""
    head = takewhile(lambda line: not line or line.startswith("#"), map(str.strip, text.splitlines()))
    return next((found[1] for line in head if (found := IMAGE.match(line))), "")


def satisfied(requirements: Sequence[str], installed: Mapping[str, str]) -> tuple[str, ...]:
    """Those of *requirements* that any version satisfies and that are *installed* already."""
    return tuple(r for r in requirements if PLAIN.fullmatch(r) and normal(r) in installed)


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _lines(name: str, files: Mapping[str, str], inside: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for line in _clean(files.get(name, "")):
        include = INCLUDE.match(line)
        if include and include[1] in files and include[1] not in inside and len(inside) < DEEPEST:
            found += _lines(include[1], files, (*inside, name))
        else:
            found.append(line)
    return found


def _clean(text: str) -> list[str]:
    """The lines of *text* that say something, continued ones joined."""
    joined = text.replace("\r\n", "\n").replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.split("\n"))
    return [line for line in lines if line]


def _is_editable(line: str) -> bool:
    return line.startswith(("-e ", "--editable"))
