"""Pure: what usually listens at a port: a word for it, and the check that says more than that the port is open."""

from __future__ import annotations

from typing import NamedTuple


class WellKnown(NamedTuple):
    word: str
    check: str = "tcp"


_PORTS: dict[int, WellKnown] = {
    21: WellKnown("ftp", "ftp"),
    22: WellKnown("ssh", "ssh"),
    23: WellKnown("telnet"),
    25: WellKnown("smtp", 'expect:"220"'),
    53: WellKnown("dns"),
    80: WellKnown("http"),
    110: WellKnown("pop3"),
    111: WellKnown("rpcbind"),
    143: WellKnown("imap"),
    389: WellKnown("ldap"),
    443: WellKnown("https", "tls"),
    445: WellKnown("smb"),
    446: WellKnown("drda"),
    448: WellKnown("drda-tls", "tls"),
    515: WellKnown("lpd"),
    631: WellKnown("ipp"),
    636: WellKnown("ldaps", "tls"),
    992: WellKnown("telnets", "tls"),
    1414: WellKnown("mq"),
    1433: WellKnown("mssql"),
    1521: WellKnown("oracle"),
    2049: WellKnown("nfs"),
    3270: WellKnown("tn3270", "tn3270"),
    3306: WellKnown("mysql"),
    5432: WellKnown("postgres"),
    5672: WellKnown("amqp"),
    6379: WellKnown("redis"),
    8080: WellKnown("http-8080"),
    8443: WellKnown("https-8443", "tls"),
    9092: WellKnown("kafka"),
    9100: WellKnown("print"),
    9200: WellKnown("elastic"),
    50000: WellKnown("db2"),
}


def is_known(port: int) -> bool:
    return port in _PORTS


def well_known(port: int) -> WellKnown:
    """For any port: one that nobody knows is called by its number."""
    return _PORTS.get(port) or WellKnown(f"port-{port}")
