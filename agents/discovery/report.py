"""Pure: a proposal as text, which is a policy that `policy check` accepts, and as data.

Everything but the rules is in comments. What can be run as it stands begins with `#$ `, what somebody has to decide
first with `#? `. Foreign text (the names of programs) is escaped and never outside a comment.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from agents.discovery.proposal import Caller, Proposal, Rule, Service
from agents.discovery.seen import Peer, Seen
from agents.discovery.whose import Box
from bridge.errors import clock
from inventory.names import shown

RUN, DECIDE = "#$ ", "#? "


def as_text(proposal: Proposal, seen: Seen, box: Box) -> str:
    return "\n".join(_lines(proposal, seen, box)) + "\n"


def _lines(proposal: Proposal, seen: Seen, box: Box) -> Iterator[str]:
    yield from _head(seen, box)
    strangers = [*proposal.hosts.values(), *proposal.clients.values()]
    if not box.is_host:
        strangers.insert(0, ["meshbridge", "host", "add", box.name])
    if strangers:
        yield "\n# --- who is not in the estate: hosts and clients to record first, or to leave out ---"
        yield from (DECIDE + shlex.join(command) for command in strangers)
    yield from _section(f"what {box.name} offers", [s for s in proposal.services if s.is_here])
    yield from _section(f"what {box.name} uses", [s for s in proposal.services if not s.is_here])
    yield from _remarks(proposal, seen)
    if proposal.rules:
        yield '\n# --- who would need what; mode = "observe" records and allows nothing ---'
    for rule in proposal.rules:
        yield from _rule(rule)


def _head(seen: Seen, box: Box) -> Iterator[str]:
    looks = "one look" if seen.looks == 1 else f"{seen.looks} looks"
    span = clock(seen.first) + (f" to {clock(seen.last)}" if seen.last > seen.first else "")
    yield f"# What {box.name} talks to: {looks}, {span}."
    yield "# A proposal, and nothing else: nothing was changed. Read it, and change names where you know better."
    yield "# Lines with #$ can be run as they stand, those with #? need a decision first:"
    yield "#   sed -n 's/^#[$] //p' FILE | sh -e"
    yield "# `policy apply` replaces the policy in force, so add the rules to yours: meshbridge policy show"
    if seen.is_cut:
        yield "# There was more than is read at once: this is not all."
    if seen.left_out:
        yield f"# Sightings left out because there were too many different ones: {seen.left_out}."


def _section(title: str, services: list[Service]) -> Iterator[str]:
    if not services:
        return
    yield f"\n# --- {title} ---"
    for service in services:
        yield from _service(service)


def _service(service: Service) -> Iterator[str]:
    known = "through the bridge already" if service.is_bridged else "placed already"
    if service.is_bridged or service.is_known:
        yield f"# {service.name} at {service.end}: {known}"
    elif service.is_here and not service.callers:
        yield f"# nobody was seen at it: {shlex.join(service.command)}"
    else:
        yield (RUN if service.is_host_known else DECIDE) + shlex.join(service.command)
    if service.listener is not None:
        yield f"#    {_programs(service.listener)}listens on {service.end}"
    yield from (f"#    {_caller(caller)}" for caller in service.callers)


def _remarks(proposal: Proposal, seen: Seen) -> Iterator[str]:
    remarks = [f"{subject} -> {service}: allowed by {rule!a}" for (subject, service), rule in proposal.allowed.items()]
    if proposal.ftp_data:
        remarks.append(
            f"connections over which FTP sends files: {proposal.ftp_data}; see docs/legacy/ftp.md for what to do"
        )
    if seen.within:
        remarks.append(f"connections within the box, left out: {seen.within}")
    if proposal.own_nodes:
        remarks.append(f"connections between nodes of the estate, left out: {proposal.own_nodes}")
    if remarks:
        yield "\n# --- remarks ---"
        yield from (f"# {remark}" for remark in remarks)


def _rule(rule: Rule) -> Iterator[str]:
    yield ""
    yield from (f"# {_caller(caller)}" for caller in rule.callers)
    yield "[[allow]]"
    yield f"name = {json.dumps(rule.name)}"
    yield f"from = {json.dumps(rule.subjects)}"
    yield f"to = {json.dumps([rule.service])}"
    yield 'mode = "observe"'


def _caller(caller: Caller) -> str:
    who = f"{caller.subject} ({caller.address})" if caller.address else caller.subject
    peer = caller.peer
    count = "1 connection" if peer.connections == 1 else f"{peer.connections} connections"
    unanswered = f", {peer.unanswered} not answered" if peer.unanswered else ""
    by = _programs(peer)
    return f"{who}: {by and by + 'in '}{count}{unanswered}, first {clock(peer.first)}, last {clock(peer.last)}"


def _programs(peer: Peer) -> str:
    return ", ".join(map(shown, peer.programs)) + " " if peer.programs else ""


def as_data(proposal: Proposal, seen: Seen, box: Box) -> dict[str, Any]:
    """All of it, for programs; `policy` is the text."""
    return {
        "host": box.name,
        "looks": seen.looks,
        "from": seen.first,
        "to": seen.last,
        "is_cut": seen.is_cut,
        "left_out": seen.left_out,
        "within": seen.within,
        "ftp_data": proposal.ftp_data,
        "own_nodes": proposal.own_nodes,
        "services": [_service_data(service) for service in proposal.services],
        "hosts": list(proposal.hosts.values()),
        "clients": list(proposal.clients.values()),
        "rules": [{"name": r.name, "from": r.subjects, "to": [r.service], "mode": "observe"} for r in proposal.rules],
        "allowed": [{"subject": s, "service": name, "rule": rule} for (s, name), rule in proposal.allowed.items()],
        "policy": as_text(proposal, seen, box),
    }


def _service_data(service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "host": service.host,
        "address": service.end.address,
        "port": service.end.port,
        "offered": service.is_here,
        "known": service.is_known,
        "bridged": service.is_bridged,
        "programs": service.listener.programs if service.listener is not None else [],
        "command": None if service.is_known else service.command,
        "callers": [
            {
                "subject": caller.subject,
                "address": caller.address,
                "connections": caller.peer.connections,
                "unanswered": caller.peer.unanswered,
                "first": caller.peer.first,
                "last": caller.peer.last,
                "programs": caller.peer.programs,
            }
            for caller in service.callers
        ],
    }
