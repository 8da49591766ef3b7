"""I/O: (socketpairs) an end of stream on a unix socket counts only if its witness says so."""

from __future__ import annotations

import socket

from bridge.relay.witnessed import WitnessedSocket, ended_well


def witnessed() -> tuple[WitnessedSocket, socket.socket, socket.socket]:
    """Ours, the other end, and the other end of the witness."""
    ours, theirs = socket.socketpair()
    sock = WitnessedSocket(fileno=ours.detach())
    sock.witness, other = socket.socketpair()
    return sock, theirs, other


def test_an_end_that_is_one_was_said_to_be() -> None:
    sock, theirs, other = witnessed()
    with sock, theirs, other:
        other.send(b"F")
        theirs.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"" and ended_well(sock)


def test_what_a_killed_process_leaves_is_no_end() -> None:
    sock, theirs, other = witnessed()
    with sock:
        theirs.close()
        other.close()
        assert sock.recv(1) == b"" and not ended_well(sock)
    sock, theirs, other = witnessed()
    with sock, theirs, other:
        assert not ended_well(sock), "nothing was said yet"


def test_its_witness_is_closed_with_it_and_others_need_none() -> None:
    sock, theirs, other = witnessed()
    with theirs, other:
        sock.close()
        assert other.recv(1) == b""
        assert ended_well(theirs)
    alone = WitnessedSocket()
    with alone:
        assert ended_well(alone)
