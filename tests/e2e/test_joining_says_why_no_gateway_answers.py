"""I/O: whoever joins and finds no gateway is told whether nothing listens there or the name is wrong."""

from __future__ import annotations

import socket

import pytest

from agents.control.joining import dial_tcp
from inventory.errors import Unavailable


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_nothing_listens_there(host: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused for as long as this test lasts
        with pytest.raises(Unavailable, match=r"^connection refused$"):
            await dial_tcp(host, taken.getsockname()[1])


async def test_the_name_is_wrong() -> None:
    with pytest.raises(Unavailable, match=r"^its name cannot be resolved$"):
        await dial_tcp("no-such-host.invalid", 7443)
