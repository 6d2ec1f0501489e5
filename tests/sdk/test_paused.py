"""What `paused` does, by what the platform appended to the arguments."""

import pytest

from nsml.core.outbox import Other
from nsml.sdk.paused import argument

SCRIPT = """
import nsml, sys
nsml.bind(load=lambda path: print('LOADED', open(path + '/f').read()))
nsml.paused(scope=locals())
print('TRAINS')
"""
PARENT = "alice/digits/3"


def test_resumed_it_loads_its_own_checkpoint_and_returns(node):
    node.put("alice/digits/7", "5", f="five")
    said = node.run(SCRIPT, "--pause", "1", "--iteration", "5")
    assert said.split() == ["Paused.", "LOADED", "five", "TRAINS"]
    assert [r.op for r in node.records() if isinstance(r, Other)] == ["paused", "resumed"]


def test_forked_it_loads_its_parents_checkpoint_and_returns(node):
    node.put(PARENT, "5", f="parent")
    said = node.run(SCRIPT, "--pause", "1", "--iteration", "4", NSML_PARENT=PARENT, NSML_ITERATION="5")
    assert said.split() == ["Paused.", "LOADED", "parent", "TRAINS"]


def test_without_a_checkpoint_it_returns(node):
    assert node.run(SCRIPT, "--pause", "1").split() == ["Paused.", "TRAINS"]


@pytest.mark.parametrize("mode", ["test", "infer", "nonsense"])
def test_in_another_mode_it_never_returns(mode, node):
    node.put(PARENT, "5", f="parent")
    said = node.run(SCRIPT, "--pause", "1", "--mode", mode, NSML_PARENT=PARENT, NSML_ITERATION="5")
    assert "LOADED parent" in said and f"'{mode}'" in said and "TRAINS" not in said


def test_the_last_of_an_argument_counts():
    argv = ["main.py", "--iteration", "1", "--mode=train", "--iteration=2", "--iteration", "3"]
    assert argument("iteration", argv) == "3" and argument("mode", argv) == "train"
    assert argument("pause", [*argv, "--pause"]) == ""
