"""I/O: `doctor`: looks at a home and its node from outside, and says of each thing whether it is well and what to do.

Every check is a function that never raises for what it finds. Nothing is changed; gateways are dialled and no more.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, Literal

import msgspec
import trio

from agents import clock
from agents.admin.client import call
from agents.estate import Home, HomeConfig, load_config
from agents.operating.home_snapshot import load_snapshot
from agents.operating.on_disk import own_budget
from agents.outage_budget import span
from bridge import limits
from bridge.errors import clock as clock_words
from bridge.identity.identity_file import load_identity
from inventory.endpoints import parse_endpoint
from inventory.errors import MeshError
from inventory.home import check_secret

State = Literal["ok", "warn", "fail"]

_SECRETS = (
    "operator.key", "root.key", "issuer.pem", "identity.pem", "seal.key", "ssh_ca.key", "registry.db", "kept.db",
    "enrolment.pending",
)  # fmt: skip


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    check: str
    state: State
    text: str
    hint: str = ""


def _of(check: str, exc: MeshError) -> Finding:
    return Finding(check=check, state="fail", text=str(exc), hint=exc.hint)


async def examine(home: Path) -> list[Finding]:
    """Everything found, well or not.

    Raises:
        MeshError: there is no estate in this home, so there is nothing to look at.
    """
    config = load_config(home)
    found = [*_permissions(home), *_identity(home), *await _knowledge(home)]
    node = await _node(home)
    found += node[0]
    if node[1] is not None:
        found += _from_status(node[1])
    else:
        found += _budget_of_nobody(home, config)
    return [*found, *await _reach_all(await _gateways(home, config))]


def _permissions(home: Path) -> list[Finding]:
    """F28: secrets are their owner's alone, and nobody else can put files into the home."""
    found = []
    try:
        if home.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            text = f"{home}: other users can write to this directory"
            found.append(Finding(check="permissions", state="fail", text=text, hint=f"chmod go-w {home}"))
        for path in (home / name for name in _SECRETS):
            if path.exists():
                check_secret(path, path.lstat())
    except MeshError as exc:
        found.append(_of("permissions", exc))
    except OSError as exc:
        found.append(Finding(check="permissions", state="fail", text=f"{home}: {exc.strerror}"))
    return found or [Finding(check="permissions", state="ok", text="secrets are readable by their owner only")]


def _identity(home: Path) -> list[Finding]:
    try:
        leaf = load_identity(Home(home).identity).leaf
    except MeshError as exc:
        return [_of("identity", exc)]
    now, ends = clock.now(), clock_words(leaf.not_after)
    if now > leaf.not_after:
        hint = "start the node if it has not run; a certificate that has ended needs `host token` and `agent join`"
        return [
            Finding(check="identity", state="fail", text=f"the certificate of {leaf.spiffe} ended {ends}", hint=hint)
        ]
    if now < leaf.not_before - limits.CLOCK_TOLERANCE:
        text = f"this machine's clock says {clock_words(now)}, its certificate begins {clock_words(leaf.not_before)}"
        return [Finding(check="clock", state="fail", text=text, hint="set the clock")]
    left = (leaf.not_after - now) / (leaf.not_after - leaf.not_before)
    text = f"{leaf.spiffe}, until {ends}"
    if left < limits.RENEWAL_OVERDUE:
        hint = "it should have been renewed: is a gateway reachable?"
        return [Finding(check="identity", state="warn", text=text, hint=hint)]
    return [Finding(check="identity", state="ok", text=text)]


def _budget_of_nobody(home: Path, config: HomeConfig) -> list[Finding]:
    """While the node is down, nothing renews its certificate."""
    try:
        identity = load_identity(Home(home).identity)
    except MeshError:
        return []  # said already
    now, leaf = clock.now(), identity.leaf
    budget = own_budget(config, identity)
    text = "; ".join(budget.worries(now=now, life=leaf.not_after - leaf.not_before, renews=False))
    if text:
        return [Finding(check="outage-budget", state="warn", text=text, hint="start the node")]
    return [Finding(check="outage-budget", state="ok", text=f"{span(budget.first.at - now)} if nothing comes back")]


async def _knowledge(home: Path) -> list[Finding]:
    try:
        authority = (await load_snapshot(home)).authority
    except MeshError as exc:
        return [_of("authority", exc)]
    text = f"verified up to entry {authority.number}, policy {authority.policy_number or 'none'}"
    if not authority.policy_number:
        hint = "apply a policy in the operator's home: meshbridge policy apply FILE"
        return [Finding(check="authority", state="warn", text=text + ": nothing is allowed", hint=hint)]
    return [Finding(check="authority", state="ok", text=text)]


async def _node(home: Path) -> tuple[list[Finding], dict[str, Any] | None]:
    try:
        answer: dict[str, Any] = await call(home, "status")
    except MeshError as exc:
        return [_of("node", exc)], None
    text = f"{answer.get('role')} {answer.get('node')} answers (process {answer.get('pid')})"
    return [Finding(check="node", state="ok", text=text)], answer


def _from_status(answer: dict[str, Any]) -> list[Finding]:
    """What the node itself is worried about, its ports included."""
    found = []
    for warning in answer.get("warnings", ()):
        state: State = "fail" if warning.get("severity") == "error" else "warn"
        found.append(Finding(check=str(warning.get("code")), state=state, text=str(warning.get("text"))))
    if not any(f.check == "cannot-bind" for f in found) and "instances_here" in answer:
        count = len(answer.get("services", ()))
        found.append(Finding(check="ports", state="ok", text=f"every service has its port here ({count} services)"))
    if not any(f.check == "outage-budget" for f in found) and "outage_budget" in answer:
        text = f"{answer['outage_budget']} if nothing comes back"
        found.append(Finding(check="outage-budget", state="ok", text=text))
    for gateway in answer.get("gateways", ()):
        found += _clock_against(gateway)
    return found


def _clock_against(gateway: dict[str, Any]) -> list[Finding]:
    offset = gateway.get("clock_ahead_seconds")
    if not isinstance(offset, (int, float)):
        return []
    text = f"{abs(offset):.1f} s {'behind' if offset > 0 else 'ahead of'} gateway {gateway.get('name')}"
    if abs(offset) <= limits.CLOCK_TOLERANCE / 10:
        return [Finding(check="clock", state="ok", text=text)]
    state: State = "fail" if abs(offset) > limits.CLOCK_TOLERANCE else "warn"
    return [Finding(check="clock", state=state, text=text, hint="synchronise the clocks (chrony, systemd-timesyncd)")]


async def _gateways(home: Path, config: HomeConfig) -> list[tuple[str, str]]:
    """By what the log says now, or else by what the token said."""
    try:
        known = tuple((await load_snapshot(home)).authority.gateways.values())
    except MeshError:
        known = ()
    return [(gateway.name, gateway.address) for gateway in known or config.gateways]


async def _reach_all(gateways: list[tuple[str, str]]) -> list[Finding]:
    """All at once. One that answers is enough: the others are then no more than a warning."""
    found: list[Finding] = []

    async def reach(name: str, address: str) -> None:
        found.append(await _reach(name, address))

    async with trio.open_nursery() as nursery:
        for name, address in gateways:
            nursery.start_soon(reach, name, address)
    found.sort(key=lambda finding: finding.check)
    if any(finding.state == "ok" for finding in found):
        return [msgspec.structs.replace(f, state="warn" if f.state == "fail" else f.state) for f in found]
    return found


async def _reach(name: str, address: str) -> Finding:
    endpoint = parse_endpoint(address)
    check = f"gateway {name}"
    try:
        with trio.fail_after(limits.DIAL_TIMEOUT):
            async with await trio.open_tcp_stream(endpoint.host, endpoint.port):
                return Finding(check=check, state="ok", text=f"{address} answers")
    except (OSError, trio.TooSlowError):
        hint = "is it running, and does a firewall let this machine reach it?"
        return Finding(check=check, state="fail", text=f"{address} does not answer", hint=hint)
