"""Starting a platform: what is not as it should be is said in words, and nothing is begun anew in silence."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import stores

from nsml import app, journal, settings
from nsml.clock import SystemClock
from nsml.core.errors import BadInput, Damaged, Unavailable


def a_home(path: Path) -> settings.Settings:
    return settings.load({"NSML_HOME": str(path)})


async def opened(s: settings.Settings) -> None:
    async with app.open_ports(s, [], SystemClock()):
        pass


@pytest.mark.parametrize("folder", ["blobs", "streams"])
async def test_a_home_that_lost_its_files_is_not_taken_for_a_new_one(tmp_path: Path, folder: str) -> None:
    home = a_home(tmp_path)
    await opened(home)
    shutil.rmtree(tmp_path / folder)
    with pytest.raises(Damaged, match=f"{folder} is gone"):
        await opened(home)
    (tmp_path / folder).mkdir()
    await opened(home)


async def test_a_database_that_is_a_folder_is_said_to_be_unusable(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "streams").mkdir()
    (tmp_path / "nsml.db").mkdir()
    with pytest.raises(Unavailable, match=r"nsml\.db cannot be used"):
        await opened(a_home(tmp_path))


def test_an_empty_token_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    made = app.token(a_home(tmp_path))
    assert made.startswith("nsml_") and app.token(a_home(tmp_path)) == made


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("PORT", "99999", "65535"),
        ("PORT", "-1", "65535"),
        ("MEMORY", "12X", "24G"),
        ("CPUS", "two", "number"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named_with_what_is_wanted(name: str, value: str, wanted: str) -> None:
    with pytest.raises(BadInput, match=f"NSML_{name} .*{wanted}"):
        settings.load({f"NSML_{name}": value})


def test_what_nobody_foresaw_ends_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fails(*_: Any) -> None:
        raise ExceptionGroup("tasks", [ExceptionGroup("more", [OverflowError("too far")])])

    monkeypatch.setattr(app, "_main", fails)
    monkeypatch.setenv("NSML_HOME", str(tmp_path))
    assert app.main([]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "Error: The platform failed: OverflowError: too far."


async def test_documents_streams_and_blobs_may_lie_on_servers(tmp_path: Path) -> None:
    place = stores.cluster(tmp_path, stores.mongo_url()), stores.cluster(tmp_path, stores.s3_url())
    s = settings.load(
        {
            "NSML_HOME": str(tmp_path),
            "NSML_CLUSTER": place[0],
            "NSML_STORE": stores.mongo_url(),
            "NSML_STREAMS": stores.mongo_url(),
            "NSML_BLOBS": stores.s3_url(),
        }
    )
    async with app.open_ports(s, [], SystemClock()) as ports:
        for port in (ports.store, ports.streams, ports.blobs):
            await port.ping()
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.parametrize("url", ["mongodb://h:x/", "mongodb+srv://", "mysql://h"])
async def test_a_store_that_cannot_be_is_refused(tmp_path: Path, url: str) -> None:
    pytest.importorskip("motor")
    s = settings.load({"NSML_HOME": str(tmp_path), "NSML_STORE": url})
    with pytest.raises(BadInput):
        await opened(s)


async def test_a_driver_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("nsml.store.mongo")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "motor.motor_asyncio", None)
    s = settings.load({"NSML_HOME": str(tmp_path), "NSML_STORE": "mongodb://h"})
    with pytest.raises(BadInput, match="not installed"):
        await opened(s)


def test_a_line_of_the_log_has_its_facts(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.makeLogRecord({"msg": "handling waits", "name": "nsml.bus", "levelname": "WARNING"})
    record.__dict__ |= {"route": "evt.x", "why": "the disk\x1b is\nfull"}
    shown = journal.Facts("%(levelname)s %(name)s: %(message)s").format(record)
    assert shown == "WARNING nsml.bus: handling waits route=evt.x why='the disk� is full'"


async def test_a_password_in_a_setting_is_not_repeated(tmp_path: Path) -> None:
    s = settings.load({"NSML_HOME": str(tmp_path), "NSML_STORE": "mysql://alice:secret@host"})
    with pytest.raises(BadInput) as refused:
        await opened(s)
    assert "NSML_STORE" in refused.value.message and "secret" not in refused.value.message
