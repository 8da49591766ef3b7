"""I/O: an estate that Ansible installed on machines of its own, for tests of what is done to it afterwards.

    with AnsibleEstate(tmp_path) as estate:
        with estate.load("vm2") as load:                         # a program on vm2 calls `web` through the bridge
            played = estate.controller.play("upgrade", meshbridge_version=estate.release())
        assert not load.failures

A gateway and three agents: systemd 252, systemd 247, and a machine that never heard of systemd. `web` is served on the
first and the last of them, so that one may be away; the other one only reaches the first through the gateway.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.ansible_controller import Controller
from tests.support.archives import Change, make_archive, with_version
from tests.support.machines import SSHD_ONLY, Machine, Machines
from tests.support.traffic import Backend, Load, ask, eventually, work

PREFIX = "/opt/meshbridge"
HOMES = "/var/lib/meshbridge"
GATEWAY = "gw1"
CANARY, CALLER, NO_SYSTEMD = AGENTS = ("vm1", "vm2", "vm3")
SERVING = (CANARY, NO_SYSTEMD)
PORT = 8080
LISTENING = "10.79.0.13:7500"
POLICY = '[[allow]]\nname = "all"\nfrom = ["host:*"]\nto = ["web"]\n'
READY_SECONDS = 30
WATCHDOG_SECONDS = 10
READY_TIMEOUT = 60.0
REQUESTS_PER_SECOND = 20.0


class AnsibleEstate:
    """Installed by `site` when it is entered."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._open = contextlib.ExitStack()
        self._versions = 0
        self.archives = place / "archives"
        self.archives.mkdir()
        self.policy = place / "policy.toml"
        self.policy.write_text(POLICY)

    def __enter__(self) -> AnsibleEstate:
        with contextlib.ExitStack() as building:
            self.machines = building.enter_context(Machines(self._place))
            self.controller = Controller(self.machines, self._place)
            # As people with more than a few machines have it; `test_site` does without.
            self.controller.pipelining = True
            gateway = self.machines.boot(GATEWAY, "bookworm", "10.79.0.10")
            self.controller.add("meshbridge_gateways", gateway)
            self._add_agent(CANARY, "bookworm", "10.79.0.11")
            self._add_agent(CALLER, "bullseye", "10.79.0.12")
            self._add_agent(NO_SYSTEMD, "bookworm", "10.79.0.13", init=SSHD_ONLY, agent_listen=LISTENING)
            for host in SERVING:
                with self.machines.network.inside(host):
                    building.enter_context(Backend(host, work, port=9000))
            for brought in make_archive().parent.glob("*.tar.gz*"):
                shutil.copy(brought, self.archives)
            self.controller.variables = {
                "meshbridge_domain": "corp.internal",
                "meshbridge_archive_directory": str(self.archives),
                "meshbridge_services": [
                    {"name": "web", "host": host, "target": "127.0.0.1:9000", "port": PORT} for host in SERVING
                ],
                "meshbridge_policy_file": str(self.policy),
                "common_ready_seconds": READY_SECONDS,
                "common_watchdog_seconds": WATCHDOG_SECONDS,
            }
            self.controller.play("site").ok()
            self._open = building.pop_all()
        return self

    def _add_agent(self, name: str, debian: str, address: str, *, init: tuple[str, ...] = (), **said: Any) -> None:
        options = {"init": init} if init else {}
        machine = self.machines.boot(name, debian, address, **options)
        self.controller.add("meshbridge_agents", machine, **said)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    # --- what is there --------------------------------------------------------------------------------------------

    def machine(self, name: str) -> Machine:
        return self.machines.all[name]

    def say(self, name: str, *words: str, check: bool = True) -> str:
        """The command on a machine, for the node that runs there."""
        home = f"{HOMES}/{'gateway' if name == GATEWAY else 'agent'}"
        return self.machine(name).run(f"{PREFIX}/current/bin/meshbridge", "--home", home, *words, check=check)

    def status(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.say(name, "-o", "json", "status"))
        return answer

    def versions(self) -> dict[str, str]:
        """What runs, by machine."""
        return {name: self.status(name)["version"] for name in self.machines.all}

    def current(self, name: str) -> str:
        return self.machine(name).run("readlink", f"{PREFIX}/current").strip()

    def releases(self, name: str) -> set[str]:
        return set(self.machine(name).run("sh", "-c", f"cd {PREFIX} && ls -d [0-9]*").split())

    def is_drained(self, host: str) -> bool:
        return json.loads(self.say(GATEWAY, "-o", "json", "host", "show", host))["draining"] is not None

    # --- what is done to it ---------------------------------------------------------------------------------------

    def release(self, *changes: Change, version: str = "") -> str:
        """A new version for the controller to have, or another one in its place; what it is called."""
        self._versions += not version
        version = version or f"1.{self._versions}.0"
        with_version(make_archive(), version, self.archives, *changes)
        return version

    def load(self, host: str = CALLER) -> Load:
        """Programs on the host that call `web`, once that can be done."""
        address = eventually(
            lambda: self.say(host, "resolve", "web", check=False).strip(), timeout=READY_TIMEOUT, what="web is known"
        )
        with self.machines.network.inside(host):
            eventually(lambda: ask(address, PORT), timeout=READY_TIMEOUT, what=f"{host} reaches web")
        return LoadInside(self.machines, host, address)


class LoadInside(Load):
    """Its clients are programs on a machine."""

    def __init__(self, machines: Machines, host: str, address: str) -> None:
        super().__init__(address, PORT, clients=10, rate=REQUESTS_PER_SECOND)
        self._network = machines.network
        self._host = host

    def __enter__(self) -> LoadInside:
        with self._network.inside(self._host):
            super().__enter__()
        return self


# --- releases that are broken ---------------------------------------------------------------------------------------


def broken(module: str, before: str, after: str) -> Change:
    """A release in which a module has another piece of code."""

    def change(tree: Path) -> None:
        [path] = tree.rglob(f"site-packages/{module}")
        text = path.read_text()
        assert before in text, f"{module} has changed: {before} is not in it"
        path.write_text(text.replace(before, after, 1))
        # What is compiled is used unchecked.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()

    return change
