"""The example, by hand and as a session that goes on from a checkpoint."""

import re
import subprocess
import sys

import pytest
from spools import ROOT, Node

from nsml.core.outbox import series

pytest.importorskip("sklearn")
FOLDER = ROOT / "examples" / "digits"


def run(file, *args, env):
    done = subprocess.run(
        [sys.executable, str(FOLDER / file), *args],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_by_hand_it_trains_on_scikit_learns_own_digits(tmp_path):
    said = run("main.py", "--epochs", "1", env={"PYTHONPATH": str(ROOT)})
    assert "1437 digits to learn from, 360 held out" in said and "epoch 1/1" in said


def test_as_a_session_it_learns_reports_saves_and_goes_on(tmp_path):
    data = tmp_path / "digits"
    with Node(tmp_path) as node:
        env = node.env(NSML_DATASET_PATH=str(data), NSML_DATASET_NAME="digits")
        assert "1797 digits" in run("make_dataset.py", str(data / "train"), env=env)
        said = run("main.py", "--epochs", "20", "--lr", "0.1", env=env)
        assert float(re.findall(r"accuracy (\S+)", said)[-1]) >= 0.95
        curves = {curve["name"]: curve for curve in series(node.records())}
        assert curves["train/loss"]["steps"] == list(range(1, 21))
        assert curves["test/accuracy"]["values"][-1] >= 0.95
        assert all(report.summary for report in node.reports())
        more = run("main.py", "--epochs", "22", "--pause", "1", "--iteration", "20", env=env)
        assert "loaded the network of epoch 20" in more and "epoch 22/22" in more and "epoch 20/" not in more
    assert set(node.checkpoints()) == {"5", "10", "15", "20", "22"}
