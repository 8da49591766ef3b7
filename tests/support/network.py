"""I/O: several hosts on one machine: network namespaces joined by segments, links that are cut or
bad, ways that lose packets.

    with Network() as network:
        network.host("gw", lan="10.77.0.1/24")
        network.host("vm1", lan="10.77.0.2/24")
        network.cut("vm1", "lan")                    # no FIN, no RST: the cable is out
        with network.inside("vm1"):
            socket.create_connection(...)            # this thread's sockets, and those of threads it starts

Everything hangs on one more namespace that holds the segments, so the machine's own network is not touched. The names
carry the test's process id; leaving the `with` block takes everything away. Needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from types import TracebackType

from tests.support.estate import OPERATOR, Estate, allow
from tests.support.pair import locate, status, wait_connected
from tests.support.rough_link import Roughness
from tests.support.traffic import eventually

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_ROOT = Path(__file__).parents[2]
_numbers = count(1)
_NOBODY = "02:00:00:00:00:01"
"""A hardware address that no interface has."""
GATEWAY_PORT = 7443
TUNNEL_PORT = 7500


def ip(*args: str) -> str:
    """One `ip` command that has to succeed; its output."""
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(args)}: {done.stderr.strip()}"
    return done.stdout


class Network:
    """Hosts, and the segments that join them."""

    def __init__(self) -> None:
        self._prefix = f"mb{os.getpid()}-{next(_numbers)}"
        self._spaces: list[str] = []
        self._segments: set[str] = set()
        self._ports: dict[tuple[str, str], str] = {}
        self._addresses: dict[tuple[str, str], str] = {}
        self._links: list[subprocess.Popen[str]] = []
        self._wires = self._add("wires")

    def space(self, name: str) -> str:
        """The name of the host's namespace, as `ip netns` knows it."""
        return f"{self._prefix}-{name}"

    def _add(self, name: str) -> str:
        space = self.space(name)
        ip("netns", "add", space)
        self._spaces.append(space)
        ip("-n", space, "link", "set", "dev", "lo", "up")
        return space

    # --- building -------------------------------------------------------------------------------------------------

    def host(self, name: str, *, forwards: bool = False, **addresses: str) -> None:
        """A namespace with an interface on each of the named segments: `lan="10.77.0.2/24"`."""
        space = self._add(name)
        with self.inside(name):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1" if forwards else "0")
        for segment, address in addresses.items():
            if segment not in self._segments:
                ip("-n", self._wires, "link", "add", "name", segment, "type", "bridge")
                ip("-n", self._wires, "link", "set", "dev", segment, "up")
                self._segments.add(segment)
            port = f"p{len(self._ports)}"
            self._ports[name, segment] = port
            self._addresses[name, segment] = address.partition("/")[0]
            peer = ["type", "veth", "peer", "name", segment, "netns", space]
            ip("-n", self._wires, "link", "add", "name", port, *peer)
            ip("-n", self._wires, "link", "set", "dev", port, "master", segment, "up")
            ip("-n", space, "address", "add", address, "dev", segment)
            ip("-n", space, "link", "set", "dev", segment, "up")

    def rough(self, link: Roughness, seed: int, *, later: bool = False, **addresses: str) -> None:
        """Hosts that exist get one more interface each, `rough`; all are joined by a link that does to packets what
        `link` says, from the start or (`later`) from `roughen` on. What it did is printed at the end.
        `vm1="10.78.0.2/24"`."""
        devices = {}
        for host, address in addresses.items():
            with self.inside(host):
                device = os.open("/dev/net/tun", os.O_RDWR)
                fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"rough", _IFF_TUN | _IFF_NO_PI))
            ip("-n", self.space(host), "address", "add", address, "dev", "rough")
            ip("-n", self.space(host), "link", "set", "dev", "rough", "up")
            devices[device] = address.partition("/")[0]
        options = [word for name, value in asdict(link).items() for word in (f"--{name}", str(value))]
        joined = [f"{device}={address}" for device, address in devices.items()]
        argv = [
            sys.executable,
            "-m",
            "tests.support.rough_link",
            "--seed",
            str(seed),
            *options,
            *later * ["--later"],
            *joined,
        ]
        self._links.append(subprocess.Popen(argv, pass_fds=list(devices), cwd=_ROOT, stdout=subprocess.PIPE, text=True))
        for device in devices:
            os.close(device)

    def roughen(self) -> None:
        """From here on the links are as rough as they were said to be."""
        for link in self._links:
            link.send_signal(signal.SIGUSR1)

    def route(self, host: str, to: str, via: str) -> None:
        ip("-n", self.space(host), "route", "add", to, "via", via)

    # --- faults ---------------------------------------------------------------------------------------------------

    def cut(self, host: str, segment: str) -> None:
        """The cable is out: nobody is told anything."""
        ip("-n", self._wires, "link", "set", "dev", self._ports[host, segment], "down")

    def join(self, host: str, segment: str) -> None:
        """The cable is in again."""
        ip("-n", self._wires, "link", "set", "dev", self._ports[host, segment], "up")

    def part(self, one: str, other: str, segment: str) -> None:
        """These two lose each other, and nobody else."""
        for host, to in ((one, other), (other, one)):
            there = self._addresses[to, segment]
            ip(
                "-n",
                self.space(host),
                "neigh",
                "replace",
                there,
                "lladdr",
                _NOBODY,
                "nud",
                "permanent",
                "dev",
                segment,
            )

    def meet(self, one: str, other: str, segment: str) -> None:
        """And find each other again."""
        for host, to in ((one, other), (other, one)):
            ip("-n", self.space(host), "neigh", "delete", self._addresses[to, segment], "dev", segment)

    def blackhole(self, router: str, to: str) -> None:
        """What the router should pass on to this address is lost; the other direction is not."""
        ip("-n", self.space(router), "route", "add", "blackhole", f"{to}/32")

    def move(self, host: str, segment: str, old: str, new: str) -> None:
        """The host gets another address there."""
        ip("-n", self.space(host), "address", "delete", old, "dev", segment)
        ip("-n", self.space(host), "address", "add", new, "dev", segment)

    # --- being there ----------------------------------------------------------------------------------------------

    def prefix(self, name: str) -> tuple[str, ...]:
        """What makes a command run on the host; `ip` is replaced by it, so the process id is its own."""
        return ("ip", "netns", "exec", self.space(name))

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread, and the threads it starts, open their sockets on the host. Sockets stay where they were made."""
        with Path("/proc/thread-self/ns/net").open("rb") as before:
            with Path(f"/run/netns/{self.space(name)}").open("rb") as there:
                _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self._links:
            link.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                print("the link:", link.communicate(timeout=10)[0].strip())
            link.kill()
        for space in reversed(self._spaces):
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


# --- an estate on it ----------------------------------------------------------------------------------------------


def place(estate: Estate, network: Network, **homes: str) -> None:
    """Commands and nodes of a home run on a host of the network: `op="gw"`."""
    for home, host in homes.items():
        estate.prefixes[home] = network.prefix(host)


def start_estate(
    estate: Estate, network: Network, *, gateway: str, targets: Mapping[str, str], listen: Mapping[str, str]
) -> None:
    """A gateway on `gw`, agents on `vm1` and `vm2`, and services that either may call. All are connected when it
    returns, and every service can be called.

    Args:
        gateway: the gateway's address.
        targets: where each service listens, by service; `on-vm1` is served by vm1.
        listen: addresses at which hosts take tunnels; those not named can only dial out.
    """
    place(estate, network, **{OPERATOR: "gw", "vm1": "vm1", "vm2": "vm2"})
    estate.init(gateway=f"{gateway}:{GATEWAY_PORT}")
    estate.start_gateway()
    for host in ("vm1", "vm2"):
        served = [service for service in targets if service == f"on-{host}"]
        at = listen.get(host)
        estate.add_host(host, serve=served, listen=f"{at}:{TUNNEL_PORT}" if at else None)
        estate.start_agent(host, ready=False)
    for service, target in targets.items():
        estate.service_add(service, host=service.removeprefix("on-"), target=target, port=8080)
    rules = [allow(f"host:{host}", service, name=f"{host} {service}") for host in ("vm1", "vm2") for service in targets]
    estate.apply_policy("".join(rules))
    for host in ("vm1", "vm2"):
        estate.wait_ready(host)
    wait_connected(estate, "vm1", "vm2")
    for host in ("vm1", "vm2"):
        for service in targets:
            locate(estate, host, service)


def paths(estate: Estate, host: str, peer: str) -> set[str]:
    """How the tunnels of a host to another go just now, by what it says itself: `direct`, `through gw1`."""
    return {tunnel["path"] for tunnel in status(estate, host)["tunnels"] if tunnel["peer"] == f"host:{peer}"}


def wait_paths(estate: Estate, host: str, peer: str, expected: set[str], *, timeout: float = 10.0) -> None:
    """Until the tunnels of a host to another go just so."""
    eventually(lambda: paths(estate, host, peer) == expected, timeout=timeout, what=f"{host} to {peer}: {expected}")
