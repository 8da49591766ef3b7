"""I/O: a network for one test. Ask for it before the estate, so that the nodes end before their network does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.network import Network


@pytest.fixture
def network() -> Iterator[Network]:
    """An empty network; whatever the test puts into it is taken away with the test."""
    with Network() as made:
        yield made
