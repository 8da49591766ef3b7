"""I/O: a host that was not told to listen can be reached by nobody: every socket of its processes is on loopback."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, SERVER, pids, start_pair
from tests.support.proc import listens_on


def test_neither_host_listens_on_anything_but_loopback(estate: Estate) -> None:
    pair = start_pair(estate, {"web": f"127.0.0.1:{estate.start_server('http')}"})
    service, port = pair.place("web")
    slices = ip_network("127.0.0.0/8")
    for host in (SERVER, CLIENT):
        bound = {socket for pid in pids(estate, host) for socket in listens_on(pid)}
        assert bound, f"{host} has no socket at all: nothing was looked at"
        assert all(socket.is_loopback for socket in bound), bound
        # Not even 127.0.0.1, where everybody looks: only its own slice, for names and for services.
        assert all(ip_address(socket.address) in slices and socket.address != "127.0.0.1" for socket in bound)
        print(host, *sorted(bound), sep="\n  ")
    here = {(s.address, s.port) for pid in pids(estate, CLIENT) for s in listens_on(pid) if s.protocol == "tcp"}
    assert (service, port) in here
    gateway = {f"{s.address}:{s.port}" for pid in pids(estate, OPERATOR) for s in listens_on(pid)}
    assert gateway == {estate.gateway_address}  # one port, the one it was given
