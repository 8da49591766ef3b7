"""I/O: a gateway with agent hosts and clients before it and boxes behind it, each in a network namespace of its own.

vm1 10.77.1.2 ─┐                       ┌── aix1  10.77.2.2 ── aix1   sshd
vm2 10.77.1.3 ─┼─ front ─ 10.77.1.1 gw ┼── aix2  10.77.3.2 ── aix2   sshd with `MaxStartups 2`
lpar7 10.77.1.7┘                       └── old1  10.77.4.2 ── old1   a port, nothing else

A box knows no route but that to the gateway, and the gateway's namespace forwards nothing. vm1 and vm2 run agents that
only dial out, lpar7 is a client that knows nothing of us.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from tests.support.estate import OPERATOR, Estate
from tests.support.network import GATEWAY_PORT, Network, place
from tests.support.pair import status, wait_connected
from tests.support.sshd import Sshd
from tests.support.town import Town
from tests.support.traffic import eventually

AT_GATEWAY = "10.77.1.1"
AGENTS = {"vm1": "10.77.1.2", "vm2": "10.77.1.3"}
CLIENT, AT_CLIENT = "lpar7", "10.77.1.7"
BOXES = {"aix1": "10.77.2.2", "aix2": "10.77.3.2", "old1": "10.77.4.2"}
SSH_PORT = 22
OPTIONS = {"aix2": ("MaxStartups 2",)}


class Behind:
    """Everything of the module's text but the boxes' servers; `with` ends what it starts."""

    def __init__(self, network: Network, estate: Estate, *, agents: Sequence[str] = ("vm1",)) -> None:
        self.network = network
        self.estate = estate
        self.town = Town(estate)
        self.boxes: dict[str, Sshd] = {}
        self._stack = contextlib.ExitStack()
        ways: dict[str, Any] = {name: f"{address.rpartition('.')[0]}.1/30" for name, address in BOXES.items()}
        network.host("gw", front=f"{AT_GATEWAY}/24", **ways)
        network.host(CLIENT, front=f"{AT_CLIENT}/24")
        for name, address in BOXES.items():
            way: dict[str, Any] = {name: f"{address}/30"}
            network.host(name, **way)
        for name in agents:
            network.host(name, front=f"{AGENTS[name]}/24")
        place(estate, network, **{OPERATOR: "gw"}, **{name: name for name in agents})
        estate.init(gateway=f"{AT_GATEWAY}:{GATEWAY_PORT}")
        estate.start_gateway()
        for name in agents:
            estate.add_host(name)  # a process of its own: what this one dials goes by the machine's own network
            estate.start_agent(name, ready=False)
        for name in agents:
            estate.wait_ready(name)
        wait_connected(estate, *agents)

    # --- boxes ----------------------------------------------------------------------------------------------------

    def start_sshd(self, name: str, *options: str) -> Sshd:
        """The box's own sshd, as its administrator set it up: it trusts nobody yet."""
        box = Sshd(
            self.estate.path / name, SSH_PORT, address=BOXES[name], options=(*OPTIONS.get(name, ()), *options),
            prefix=self.network.prefix(name),
        )  # fmt: skip
        self.boxes[name] = self._stack.enter_context(box)
        return box

    def add_box(self, name: str, *more: str) -> Sshd:
        """A box whose sshd trusts the gateway's ssh CA, reached when this returns."""
        box = self.start_sshd(name)
        box.authorize("cert-authority " + self.town.ok(OPERATOR, "gateway", "ssh-ca").strip())
        self.add(name, *more)
        self.wait(name, "online")
        return box

    def add(self, name: str, *more: str, url: str | None = None) -> None:
        """`host add` of a box with an sshd, as the operator does it."""
        box = self.boxes[name]
        key = self.estate.path / f"{name}.pub"
        key.write_text(box.host_key_line + "\n")
        reach = ["--reach", url or box.url, "--via", "gw1", "--host-key", str(key)]
        self.town.ok(OPERATOR, "host", "add", name, *reach, *more)

    def add_port(self, name: str) -> None:
        """`host add` of a box without an sshd."""
        self.town.ok(OPERATOR, "host", "add", name, "--reach", f"tcp://{BOXES[name]}", "--via", "gw1")

    # --- looking --------------------------------------------------------------------------------------------------

    def json(self, *args: str, home: str = OPERATOR) -> Any:
        return json.loads(self.town.ok(home, "-o", "json", *args))

    def reached(self, name: str) -> dict[str, Any]:
        """The gateway's row about how it reaches a box."""
        rows: dict[str, dict[str, Any]] = {row["host"]: row for row in status(self.estate, OPERATOR).get("reached", ())}
        return rows.get(name, {})

    def state(self, name: str) -> str:
        rows = {row["name"]: row["state"] for row in status(self.estate, OPERATOR).get("hosts", ())}
        return str(rows.get(name, ""))

    def wait(self, name: str, state: str, *, timeout: float = 20.0) -> None:
        eventually(lambda: self.state(name) == state, what=f"{name} is {state}", timeout=timeout)

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
