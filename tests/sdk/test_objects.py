"""Copying and what is worth saving; saving itself is tested through sessions."""

from types import SimpleNamespace

import pytest

from nsml.sdk.objects import copy, worth_saving
from nsml.sdk.visdom import Visdom


def test_dict_entries_and_attributes_are_copied_into_the_target():
    target = {"b": 2}
    copy({"a": 1}, target)
    box = SimpleNamespace(b=2)
    copy(SimpleNamespace(a=1), box)
    copy({"c": 3}, box.__dict__)
    assert target == {"b": 2, "a": 1} and vars(box) == {"b": 2, "a": 1, "c": 3}


@pytest.mark.parametrize(
    ("source", "target"), [([1], [2]), ({}, SimpleNamespace()), (1, 2), (object(), object())]
)
def test_other_types_are_refused(source, target):
    with pytest.raises(TypeError, match=r"nsml\.copy"):
        copy(source, target)


def test_options_are_not_worth_saving():
    assert not any(worth_saving(value) for value in (None, True, 1, 0.1, "x", b"x"))
    assert worth_saving({}) and worth_saving(SimpleNamespace())


def test_visdom_takes_every_call():
    vis = Visdom(visdom=None, use_incoming_socket=False)
    window = vis.line(Y=[1], X=[1])
    assert vis.text("x", win=window) == window and not hasattr(vis, "_private")
