"""Environments: built once, shared, in front of the base; what cannot be installed is left out and told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fakes import ManualClock

from nsml.core.errors import BadInput
from nsml.executor.environment import Environment, Environments, read_wanted
from nsml.executor.installer import examine
from nsml.executor.shelf import Shelf

GIB = 1 << 30


def a_wheel(folder: Path, name: str, version: str) -> None:
    """The smallest package there can be."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        files = (f"{name}.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD")
        wheel.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in files))


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A code folder whose requirements come from a folder of wheels: tiny 1.0, small 2.0."""
    a_wheel(tmp_path / "wheels", "tiny", "1.0")
    a_wheel(tmp_path / "wheels", "small", "2.0")
    folder = tmp_path / "app"
    folder.mkdir()
    return folder


def require(app: Path, *lines: str) -> None:
    wheels = app.parent / "wheels"
    (app / "requirements.txt").write_text("\n".join(["--no-index", f"--find-links {wheels}", *lines]))


class Heard:
    """What the build said."""

    def __init__(self) -> None:
        self.data = b""

    def __call__(self, data: bytes) -> None:
        self.data += data


async def hold(
    environments: Environments, app: Path, heard: Heard | None = None, asked: str = "asked"
) -> Environment:
    return await environments.hold(read_wanted(app, ""), app, asked, heard or Heard())


def on(folder: Path, clock: ManualClock | None = None, limit: int = GIB) -> Environments:
    return Environments(sys.executable, Shelf(folder / "node", limit), clock or ManualClock())


def answer(environment: Environment, question: str) -> str:
    done = subprocess.run([environment.python, "-c", question], capture_output=True, text=True, check=True)
    return done.stdout.strip()


async def test_what_is_required_is_there_and_its_build_is_heard(app: Path, tmp_path: Path) -> None:
    require(app, "tiny==1.0")
    heard = Heard()
    built = await hold(on(tmp_path), app, heard)
    assert not built.failed
    assert answer(built, "import tiny; print(tiny.VERSION)") == "1.0"
    assert b"tiny" in heard.data


async def test_the_packages_of_the_base_are_seen_behind_it(app: Path, tmp_path: Path) -> None:
    require(app, "tiny")
    built = await hold(on(tmp_path), app)
    assert answer(built, "import numpy, tiny; print('both')") == "both"


async def test_a_required_version_wins_over_the_one_of_the_base(app: Path, tmp_path: Path) -> None:
    a_wheel(tmp_path / "wheels", "iniconfig", "0.0.1")
    require(app, "iniconfig==0.0.1")
    built = await hold(on(tmp_path), app)
    assert answer(built, "import iniconfig; print(iniconfig.VERSION)") == "0.0.1"


async def test_sessions_that_want_the_same_at_once_wait_for_one_build(app: Path, tmp_path: Path) -> None:
    require(app, "tiny")
    environments, heard = on(tmp_path), [Heard() for _ in range(4)]
    built = await asyncio.gather(*(hold(environments, app, ear) for ear in heard))
    assert len({environment.python for environment in built}) == 1
    assert all(ear.data == heard[0].data for ear in heard)
    assert heard[0].data.count(b"Environment is ready") == 1


async def test_it_is_not_built_again_after_a_restart(app: Path, tmp_path: Path) -> None:
    require(app, "tiny")
    first = on(tmp_path)
    first.release(await hold(first, app))
    shelf = Shelf(tmp_path / "node", GIB)
    await shelf.look()
    second, heard = Environments(sys.executable, shelf, ManualClock()), Heard()
    assert second.names() == ["asked"]
    await hold(second, app, heard)
    assert heard.data == b""


async def test_what_cannot_be_installed_is_named_and_the_rest_is_there(app: Path, tmp_path: Path) -> None:
    require(app, "tiny", "absent==9", "small")
    built = await hold(on(tmp_path), app)
    assert built.failed == ("absent==9",)
    assert "absent" in built.tail and len(built.tail.splitlines()) <= 20
    assert answer(built, "import tiny, small; print('both')") == "both"


async def test_what_failed_is_tried_again_after_a_while_and_not_before(app: Path, tmp_path: Path) -> None:
    require(app, "later==1.0")
    clock = ManualClock()
    environments = on(tmp_path, clock)
    for expected in (("later==1.0",), ("later==1.0",), ()):
        built = await hold(environments, app)
        assert built.failed == expected
        environments.release(built)
        a_wheel(tmp_path / "wheels", "later", "1.0")
        clock.advance(200)


async def test_setup_py_is_asked_what_it_wants_and_not_installed(app: Path, tmp_path: Path) -> None:
    (app / "setup.py").write_text(
        "#nsml: image\nfrom distutils.core import setup\n"
        "setup(name='mine', version='1.0', install_requires=['tiny==1.0'])\n"
    )
    require(app, "small")
    built = await hold(on(tmp_path), app)
    assert answer(built, "import tiny, small; print('both')") == "both"


async def test_a_setup_py_that_fails_is_told_and_costs_nothing_else(app: Path, tmp_path: Path) -> None:
    (app / "setup.py").write_text("import setuptools\n1 / 0\n")
    require(app, "small")
    heard = Heard()
    built = await hold(on(tmp_path), app, heard)
    assert b"ZeroDivisionError" in heard.data
    assert answer(built, "import small; print('there')") == "there"


async def test_one_in_use_is_never_given_up(app: Path, tmp_path: Path) -> None:
    environments = on(tmp_path, limit=1)
    require(app, "tiny")
    used = await hold(environments, app, asked="used")
    require(app, "small")
    idle = await hold(environments, app, asked="idle")
    assert answer(used, "import tiny; print('there')") == "there"
    environments.release(used)
    environments.release(idle)
    require(app, "tiny", "small")
    await hold(environments, app, asked="both")
    assert environments.names() == ["both"]
    assert not Path(used.python).exists()


async def test_an_interpreter_that_is_none_is_bad_input() -> None:
    with pytest.raises(BadInput, match="/bin/false"):
        await examine("/bin/false")
