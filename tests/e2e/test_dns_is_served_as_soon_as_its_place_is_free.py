"""I/O: a host whose place for DNS somebody holds says so, and serves DNS when it is free, without another start."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from tests.support.estate import Estate
from tests.support.pair import status
from tests.support.traffic import eventually

DNS_PORT = 5300


def codes(estate: Estate) -> set[str]:
    return {warning["code"] for warning in status(estate, "vm1")["warnings"]}


def test_dns_is_served_as_soon_as_its_place_is_free(tmp_path: Path) -> None:
    with Estate(tmp_path) as estate:
        estate.init()
        estate.start_gateway()
        addresses = estate.next_slice()
        place = str(next(ipaddress.ip_network(addresses).hosts()))
        estate.add_host("vm1", addresses=addresses)
        with socket.create_server((place, DNS_PORT)):
            estate.start_agent("vm1")
            assert "dns" in codes(estate)
        eventually(lambda: "dns" not in codes(estate), timeout=20, what="the warning is gone")
        socket.create_connection((place, DNS_PORT), 5).close()
