"""I/O: names from what a host knew last, with its agent down: the same addresses, which nothing serves just now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agents.estate import Home, HomeConfig
from agents.knowledge.known import Known
from agents.namespace import visible_names
from bridge.dns import addresses
from inventory.errors import AnswerIsNo
from inventory.home import read_file
from inventory.names import parse_service_name


def resolve_offline(home: Path, config: HomeConfig, text: str) -> dict[str, Any] | None:
    """`name`, `address` and `port` as the running agent would say them; None when no agent ever ran here.

    Raises:
        AnswerIsNo: there was no such name.
        InputError: not a service name, or what is on disk does not verify.
    """
    path = Home(home).addresses
    if not path.exists():
        return None
    snapshot = Known.load(home, config.genesis).snapshot
    wanted = parse_service_name(text, snapshot.authority.namespace)
    name = f"{wanted.service}.{wanted.site}" if wanted.site else wanted.service
    book = addresses.decode(read_file(path), where=str(path))
    visible = visible_names(snapshot).get(name)
    address = book.assigned.get(name)
    if visible is None or address is None:
        raise AnswerIsNo(
            f"{name} was not known here when the agent last ran",
            hint=f"meshbridge policy explain host:{config.name} {wanted.service}",
        )
    return {"name": name, "address": address, "port": visible[1]}
