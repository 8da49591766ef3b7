"""I/O: places in a node at which a test has an exception raised. The product knows nothing of it.

    python -m tests.support.failpoints node ARG...         the command line, with supervisors and workers that can fail
    python -m tests.support.failpoints FD PAGE             a data worker that can (the supervisor starts it so)

FAILPOINTS names a directory. `PID.json` in it, {place: error}, is read at SIGUSR2; each place fails once, and says so
in `fired`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

ERRORS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("a failpoint"),
    "MemoryError": lambda: MemoryError("a failpoint"),
    "Cancelled": lambda: trio.Cancelled._create(source="unknown"),  # type: ignore[attr-defined]
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("a failpoint"), MemoryError()]),
}

# One line per place: the module, and the attribute path in it.
STREAM_PLACES = {
    "local ready": ("bridge.relay.local", "LocalSocket.ready"),
    "local data": ("bridge.relay.local", "LocalSocket.on_data"),
    "local fin": ("bridge.relay.local", "LocalSocket.on_fin"),
    "streams ended": ("agents.workers.streams", "Streams._ended"),
    "streams judge": ("agents.workers.streams", "Streams.judge"),
}
SERVER_PLACES = {
    "connect done": ("bridge.relay.local", "LocalSocket._connect_done"),
    "inbound open": ("agents.workers.inbound", "Inbound.open"),
    "local connected": ("agents.workers.streams", "Streams.local_connected"),
}
CLIENT_PLACES = {
    "outbound": ("agents.workers.outbound", "Outbound.connection"),
    "choose": ("agents.workers.outbound", "Outbound._choose"),
    "local accepted": ("agents.workers.streams", "Streams.local_accepted"),
    "on accept": ("bridge.relay.local", "LocalSocket.on_accept"),
    "listener": ("bridge.relay.listener", "Listener.ready"),
}
PERIODIC_PLACES = {
    "pool tick": ("agents.workers.pool", "TunnelPool.tick"),
    "streams tick": ("agents.workers.streams", "Streams.tick"),
    "listener resume": ("bridge.relay.listener", "Listener.resume"),
    "report": ("agents.workers.data_worker", "DataWorker._send_report"),
}
TUNNEL_PLACES = {
    "tunnel tick": ("bridge.relay.tunnel", "Tunnel.tick"),
    "tunnel ready": ("bridge.relay.tunnel", "Tunnel.ready"),
    "tunnel flush": ("bridge.relay.tunnel", "Tunnel.flush"),
    "session frame": ("bridge.tunnels.session", "Session._control"),
}
NODE_PLACES = {
    "status": ("agents.node", "Node._status"),
    "worker said": ("agents.node", "Node.worker_said"),
    "flow log": ("bridge.flow_log", "FlowLog.append"),
}
HOST_PLACES = {
    "publish": ("agents.host_agent", "HostAgent._publish"),
    "link heard": ("agents.control.link_session", "LinkSession._heard"),
    "updated": ("agents.host_agent", "HostAgent.updated"),
    "flowed": ("agents.host_agent", "HostAgent.flowed"),
}
GATEWAY_PLACES = {
    "authority changed": ("agents.gateway_agent", "GatewayAgent._authority_changed"),
    "session heard": ("agents.control.server", "ControlServer._heard"),
    "host flowed": ("agents.gateway_agent", "GatewayAgent.host_flowed"),
    "guest": ("agents.control.enrolment", "EnrolmentServer._serve"),
}
PLACES = {
    **STREAM_PLACES,
    **SERVER_PLACES,
    **CLIENT_PLACES,
    **PERIODIC_PLACES,
    **TUNNEL_PLACES,
    **NODE_PLACES,
    **HOST_PLACES,
    **GATEWAY_PLACES,
}

_armed: dict[str, str] = {}


def _fail_if_armed(place: str) -> None:
    kind = _armed.pop(place, None)
    if kind is not None:
        with (Path(os.environ["FAILPOINTS"]) / "fired").open("a") as file:
            file.write(f"{os.getpid()} {place}\n")
        raise ERRORS[kind]()


def _wrapped(place: str, original: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def later(*args: Any, **named: Any) -> Any:
            _fail_if_armed(place)
            return await original(*args, **named)

        return later

    @functools.wraps(original)
    def now(*args: Any, **named: Any) -> Any:
        _fail_if_armed(place)
        return original(*args, **named)

    return now


def install(places: list[str]) -> None:
    """Wrap the places, and read what is armed at SIGUSR2."""
    for place in places:
        module, path = PLACES[place]
        owner_name, name = path.split(".")
        owner = getattr(importlib.import_module(module), owner_name)
        setattr(owner, name, _wrapped(place, getattr(owner, name)))

    def arm(number: int, frame: object) -> None:
        file = Path(os.environ["FAILPOINTS"]) / f"{os.getpid()}.json"
        _armed.update(json.loads(file.read_text()))

    signal.signal(signal.SIGUSR2, arm)


def main() -> None:
    if sys.argv[1:2] == ["node"]:
        import agents.supervisor
        from cli.main import main as command

        agents.supervisor._WORKER = "tests.support.failpoints"
        install([*NODE_PLACES, *HOST_PLACES, *GATEWAY_PLACES])
        del sys.argv[1]
        sys.exit(command())
    from agents.workers.data_worker import main as worker

    install([*STREAM_PLACES, *SERVER_PLACES, *CLIENT_PLACES, *PERIODIC_PLACES, *TUNNEL_PLACES])
    worker()


if __name__ == "__main__":
    main()
