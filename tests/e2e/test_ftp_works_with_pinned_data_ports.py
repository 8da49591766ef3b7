"""I/O: docs/legacy/ftp.md with a real FTP server: passive transfers through published ports, and active ones not."""

from __future__ import annotations

import ftplib
import json
import socket
from pathlib import Path

import pytest

from tests.support.debian_programs import Program
from tests.support.estate import OPERATOR, Estate
from tests.support.old_servers import Vsftpd
from tests.support.traffic import eventually

PUBLISHED, EDI = "127.0.0.5", "127.0.0.7"
"""The gateway's address for clients, and the client's own."""
ALLOWED = '[[allow]]\nname = "files"\nfrom = ["client:edi1"]\nto = ["ftp", "ftp-d?"]\n'


def connect(port: int) -> ftplib.FTP:
    ftp = ftplib.FTP(timeout=10, source_address=(EDI, 0))
    ftp.connect(PUBLISHED, port)
    ftp.login()
    return ftp


def fetched(ftp: ftplib.FTP, name: str) -> bytes:
    pieces: list[bytes] = []
    ftp.retrbinary(f"RETR {name}", pieces.append)
    return b"".join(pieces)


def test_files_go_through_the_bridge_in_passive_mode(estate: Estate, tmp_path: Path, vsftpd: Program) -> None:
    control, first = estate.free_port(), estate.free_port()
    data = (first, first + 1)
    pinned = {"pasv_min_port": str(data[0]), "pasv_max_port": str(data[1]), "run_as_launching_user": "YES"}
    estate.init()
    estate.start_gateway()
    estate.ok(OPERATOR, "host", "add", "zos1", "--reach", "tcp://127.0.0.1", "--via", "gw1", "--allow-loopback")
    estate.ok(OPERATOR, "client", "add", "edi1", "--via", "gw1", "--source", EDI)
    estate.apply_policy(ALLOWED)
    with Vsftpd(tmp_path, control, **pinned) as server:
        assert isinstance(server, Vsftpd)
        (server.files / "report").write_bytes(bytes(range(256)) * 4000)
        checks = {"ftp": "ftp", "ftp-d0": "tcp;interval=60m", "ftp-d1": "tcp;interval=60m"}
        for (name, check), port in zip(checks.items(), (control, *data), strict=True):
            estate.service_add(name, "--check", check, host="zos1", target=f"127.0.0.1:{port}", port=port)
            estate.ok(OPERATOR, "service", "publish", name, "--via", "gw1", "--listen", f"{PUBLISHED}:{port}")
        ftp = eventually(lambda: connect(control), what="a login", timeout=20)
        with ftp:
            for _ in range(6):  # more than there are data ports
                assert fetched(ftp, "report") == bytes(range(256)) * 4000
            assert ftp.nlst() == ["report"]
            ftp.af = socket.AF_INET6  # with which ftplib says EPSV
            assert fetched(ftp, "report") == bytes(range(256)) * 4000
            with pytest.raises(ftplib.Error, match="Illegal PORT"):
                ftp.sendport(EDI, control)  # the server knows the client by another address
    eventually(lambda: carried(estate) >= 7 * 256 * 4000, what="the records of all transfers")


def carried(estate: Estate) -> int:
    """Bytes of the data connections, by the flow records so far, all of which are the client's."""
    flows = [json.loads(line) for line in estate.ok(OPERATOR, "-o", "json", "flows").splitlines()]
    assert {flow["subject"] for flow in flows} <= {"client:edi1"}
    return sum(flow["bytes_out"] + flow["bytes_in"] for flow in flows if flow["service"] in ("ftp-d0", "ftp-d1"))
