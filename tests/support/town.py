"""I/O: one running estate that many tests share, because starting nodes is what takes long.

    db1   site dc1, label tier=db, can be dialled       the tunnel to it is direct
    db2   site dc2, label tier=db, only dials out       the tunnel to it goes through the gateway
    app   site dc2, label role=web, may serve `front`, only dials out: where the tests' clients are

Each test brings its own services and its own policy; the policy is the whole estate's, so tests that share a town run
one after the other. A test that ends or breaks a node has an estate of its own instead.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import trio

from agents.admin.client import call
from cli.main import run
from inventory.errors import MeshError
from tests.support.estate import OPERATOR, Estate
from tests.support.traffic import eventually

GATEWAY = OPERATOR


def node_status(home: Path) -> dict[str, Any]:
    """What `status` shows, without a process. Fails as an assertion while the node does not answer."""
    try:
        answer: dict[str, Any] = trio.run(partial(call, home, "status"))
    except MeshError as exc:
        raise AssertionError(str(exc)) from None
    return answer


class Town:
    """The estate of the module's text, or any other estate with a gateway and agents."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self._names = 0

    def build(self) -> None:
        estate = self.estate
        estate.init()
        estate.start_gateway()
        database = {"tier": "db"}
        estate.add_host("db1", site="dc1", labels=database, listen=estate.free_endpoint())
        estate.add_host("db2", site="dc2", labels=database)
        estate.add_host("app", site="dc2", labels={"role": "web"}, serve=["front"])
        for name in ("db1", "db2", "app"):
            estate.start_agent(name, ready=False)
        for name in ("db1", "db2", "app"):
            estate.wait_ready(name)
            self.wait_online(name)

    # --- commands -------------------------------------------------------------------------------------------------

    def command(self, home: str, *args: str) -> tuple[int, str, str]:
        """A command's exit code, output and words. It runs in this very process: a test makes dozens of them."""
        out, words = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(words), _same_umask():
            code = run(["--home", str(self.estate.home(home)), *args])
        return code, out.getvalue(), words.getvalue()

    def ok(self, home: str, *args: str) -> str:
        """A command that has to succeed; its output."""
        code, out, words = self.command(home, *args)
        assert code == 0, f"meshbridge --home {home} {' '.join(args)}: exit {code}\n{out}{words}"
        return out

    # --- changes --------------------------------------------------------------------------------------------------

    def name(self, word: str) -> str:
        """A service name that no other test uses."""
        self._names += 1
        return f"{word}-{self._names}"

    def place(self, service: str, host: str, target: str, *args: str, port: int = 8080) -> None:
        where = ["--host", host, "--target", target, "--port", str(port)]
        self.ok(GATEWAY, "service", "add", service, *where, *args)

    def policy(self, text: str, *hosts: str) -> None:
        """Applies it; returns when the hosts (all that run) have it."""
        file = self.estate.path / "policy.toml"
        file.write_text(text, encoding="utf-8")
        self.ok(GATEWAY, "policy", "apply", str(file), "-m", "test")
        number = self.status(GATEWAY)["policy_number"]
        for host in hosts or [name for name in self.agents if self.estate.nodes[name].running]:
            eventually(partial(self._has_policy, host, number), what=f"policy {number} at {host}")

    def _has_policy(self, host: str, number: int) -> bool:
        return int(self.status(host)["policy_number"] or 0) >= number

    # --- looking --------------------------------------------------------------------------------------------------

    @property
    def agents(self) -> list[str]:
        nodes = self.estate.nodes
        return [name for name in nodes if name != GATEWAY and (self.estate.home(name) / "domain.json").exists()]

    def status(self, node: str) -> dict[str, Any]:
        return node_status(self.estate.home(node))

    def warnings(self, node: str) -> dict[str, str]:
        """Code -> text."""
        return {warning["code"]: warning["text"] for warning in self.status(node)["warnings"]}

    def health(self, node: str) -> dict[str, tuple[str, str]]:
        """Instance id -> state and reason, of the instances on the node itself."""
        return {i["id"]: (i["state"], i["reason"]) for i in self.status(node)["instances_here"]}

    def wait_online(self, host: str, state: str = "online") -> None:
        def is_so() -> bool:
            hosts = {h["name"]: h["state"] for h in self.status(GATEWAY)["hosts"]}
            return bool(hosts.get(host) == state)

        eventually(is_so, what=f"{host} {state}", timeout=20)

    def address(self, host: str, service: str) -> tuple[str, int]:
        """Where the service is on the host, as soon as it is there and listens."""

        def resolved() -> tuple[str, int]:
            try:
                found = trio.run(partial(call, self.estate.home(host), "resolve", name=service))
            except MeshError as exc:
                raise AssertionError(str(exc)) from None
            return (found["address"], found["port"])

        return eventually(resolved, what=f"{service} on {host}")

    def knows(self, host: str, service: str) -> bool:
        try:
            trio.run(partial(call, self.estate.home(host), "resolve", name=service))
        except MeshError:
            return False
        return True

    def explain(self, subject: str, service: str, *args: str) -> tuple[int, str]:
        """Exit code and words of `policy explain`, asked of the operator's home."""
        code, out, words = self.command(GATEWAY, "policy", "explain", subject, service, *args)
        assert code in (0, 1), words
        return code, out

    def allowed(self, subject: str, service: str, *args: str) -> bool:
        return self.explain(subject, service, *args)[0] == 0

    def flows(self, node: str, service: str) -> list[dict[str, Any]]:
        """The node's flow records of a service, oldest first."""
        lines = self.ok(node, "-o", "json", "flows", "--limit", "10000").splitlines()
        return [flow for flow in map(json.loads, lines) if flow["service"] == service]

    def flow(self, node: str, service: str, result: str) -> dict[str, Any]:
        """The last record with this result, as soon as there is one."""

        def found() -> dict[str, Any] | None:
            return next((f for f in reversed(self.flows(node, service)) if f["result"] == result), None)

        record = eventually(found, what=f"a flow to {service} with result {result} at {node}")
        assert record is not None
        return record


def allow(name: str, sources: str, to: str, *more: str, effect: str = "allow") -> str:
    """One rule: `sources` and `to` are written as in the file, without brackets; `more` are whole lines."""
    return "\n".join([f"[[{effect}]]", f'name = "{name}"', f"from = [{sources}]", f"to = [{to}]", *more, ""])


def deny(name: str, sources: str, to: str, *more: str) -> str:
    return allow(name, sources, to, *more, effect="deny")


@contextlib.contextmanager
def _same_umask() -> Iterator[None]:
    """Commands that write secrets set the process's own."""
    before = os.umask(0o077)
    os.umask(before)
    try:
        yield
    finally:
        os.umask(before)
