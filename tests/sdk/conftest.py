"""A node for each test of the SDK."""

import pytest
from spools import Node


@pytest.fixture
def node(tmp_path):
    with Node(tmp_path) as opened:
        yield opened
