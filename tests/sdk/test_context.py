"""The constants in a session and outside."""

import subprocess
import sys

import pytest
from spools import ROOT

SHOW = """
import nsml
from nsml.constants import *
print(repr([nsml.IS_ON_NSML, nsml.HAS_DATASET, nsml.DATASET_PATH, nsml.DATASET_NAME, nsml.GPU_NUM, nsml.SESSION_NAME,
            nsml.NSML_NFS_OUTPUT, nsml.PARALLEL_WORLD, nsml.PARALLEL_PORTS, nsml.MY_RANK, nsml.SESSION_ID, nsml.IS_DATASET]))
assert type(nsml.GPU_NUM) is int and type(nsml.MY_RANK) is int
"""


def test_a_session_without_a_dataset(node):
    shown = node.run(SHOW, NSML_GPU_NUM="0").strip()
    expected = [True, False, "", "", 0, "alice/digits/7", "", [], [], 0, "alice/digits/7", False]
    assert shown == repr(expected)


def test_a_session_on_several_nodes_with_several_datasets(node):
    shown = node.run(
        SHOW,
        NSML_DATASET_PATH='["/d/a", "/d/b"]',
        NSML_DATASET_NAME='["a", "b"]',
        NSML_GPU_NUM="4",
        NSML_RANK="1",
        NSML_PARALLEL_WORLD="n1,n2",
        NSML_PARALLEL_PORTS="[2000, 2001]",
    )
    assert "[True, True, ['/d/a', '/d/b'], ['a', 'b'], 4" in shown
    assert "['n1', 'n2'], [2000, 2001], 1" in shown


def test_one_dataset_is_a_plain_path(node):
    assert "True, True, '/d/[x]', 'x'" in node.run(SHOW, NSML_DATASET_PATH="/d/[x]", NSML_DATASET_NAME="x")


def test_values_that_make_no_sense_are_zero(node):
    assert "'', '', 0, " in node.run(SHOW, NSML_GPU_NUM="many", NSML_RANK="-")


@pytest.mark.parametrize("env", [{}, {"NSML_SESSION": "a/b/1"}, {"NSML_SPOOL": "/nonexistent"}])
def test_outside_every_call_is_harmless(env, tmp_path):
    script = """
import nsml
from nsml import *
assert not nsml.IS_ON_NSML and not nsml.HAS_DATASET and nsml.DATASET_PATH == "" and nsml.GPU_NUM == 0
class Box: pass
nsml.bind(lambda p: 1/0, lambda p: 1/0, lambda x: x, 4, 5)
nsml.report(False, step=1, loss=1); nsml.report(True, None, anything=object())
nsml.save(1); nsml.save(); nsml.load(1); nsml.load(checkpoint=1, session="x"); nsml.paused(scope=locals())
nsml.save_folder("a", "/nonexistent")
assert nsml.infer(5) == 5
nsml.copy({"a": 1}, Box().__dict__)
nsml.Visdom(visdom=None, port=1).line(X=1, Y=2)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT), **env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())
