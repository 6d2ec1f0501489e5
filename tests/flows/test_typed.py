"""What users type, on a whole platform that runs as another process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from homes import Home

MAKES = """
import time
open("made.txt", "w").write("so far")
print("up", flush=True)
time.sleep(60)
"""
SAVES = """
import nsml, os, sys
def save(path): open(os.path.join(path, "w"), "w").write(value)
def load(path): return open(os.path.join(path, "w")).read()
nsml.bind(save=save, load=load)
value = "one"; nsml.save(1); value = "two"; nsml.save()
nsml.report(summary=True, step=1, epoch=1, loss=0.5)
print("GOT", nsml.load(), flush=True)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"), NSML_GPU="static:2")
    assert home("up", "--detach").code == 0
    yield home
    assert home("down", "--all").code == 0


def test_the_files_of_a_running_session_are_downloaded(home: Home) -> None:
    session = home.start(MAKES, "-g", "0")
    home.until(lambda: home("logs", session).text.startswith("up"))
    done = home("download", session, "got")
    assert done.code == 0, done.everything
    assert (home.path / "got" / "made.txt").read_text() == "so far"
    assert home("stop", "--now", session).code == 0


def test_a_checkpoint_needs_no_name_and_its_size_is_listed(home: Home) -> None:
    session, row, log = home.run(SAVES)
    assert row["status"] == "completed" and "GOT two" in log
    names = [one["checkpoint"] for one in home("model", "ls", session, "--json").json]
    assert names[0] == "1" and len(names) == 2
    (listed,) = home("ps", "-a", "-s", session.partition("/")[2], "--json").json
    assert listed["session"] == session and (listed["models"], listed["bytes"]) == (2, 6)
    assert home("plot", session).text.startswith("loss  last 0.5")


def test_what_waits_says_why_and_what_would_start_it(home: Home) -> None:
    holder = home.start(MAKES, "-g", "1")
    folder = home.code("waits", MAKES)
    session = home("run", "--detach", "--json", "-g", "2", cwd=folder).json["session"]
    home.until(lambda: "GPU" in home("why", session).text)
    said = home("why", session).text.splitlines()
    assert said[0].startswith("It waits: 2 GPUs wanted") and said[0].endswith(".")
    assert said[1] == "It would start now with 1 GPU instead of 2."
    assert home("logs", session).text == "" and "Waiting" in home("logs", session).err
    assert home("stop", "--now", session, holder).code == 0
