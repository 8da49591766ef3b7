"""I/O: what a home says about its node while the node is down: whose it is, how long it is good, what it knew last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agents import clock
from agents.estate import Home, HomeConfig, load_config
from agents.operating.home_snapshot import load_placement, load_snapshot
from agents.outage_budget import OutageBudget, end_of
from bridge.errors import clock as clock_words
from bridge.identity.identity_file import Identity, load_identity
from inventory.errors import MeshError


async def on_disk(home: Path) -> dict[str, Any]:
    """The same keys as the running node's status, as far as they are known. Damage is listed, not raised.

    Raises:
        MeshError: there is no estate in this home.
    """
    config = load_config(home)
    warnings = []
    found: dict[str, Any] = {
        "running": False,
        "node": config.name,
        "role": config.role,
        "trust_domain": config.trust_domain,
    }
    try:
        identity = load_identity(Home(home).identity)
        leaf = identity.leaf
        found["certificate_ends"] = clock_words(leaf.not_after)
        found |= own_budget(config, identity).status(clock.now())
        if leaf.not_after < clock.now():
            warnings.append(_warning("certificate-ends", f"the certificate ended at {clock_words(leaf.not_after)}"))
    except MeshError as exc:
        warnings.append(_warning("identity", exc.with_hint))
    try:
        snapshot = await load_snapshot(home)
        authority = snapshot.authority
        as_of = load_placement(home).at
        found["authority_number"] = authority.number
        found["policy_number"] = authority.policy_number
        found["known_since"] = clock_words(as_of) if as_of else "never"
        found["gateways"] = [{"name": g.name, "address": g.address} for _, g in sorted(authority.gateways.items())]
        found["services"] = [
            {"name": service.name, "port": service.port, "instances": len(service.instances)}
            for _, service in sorted(snapshot.services.items())
        ]
    except MeshError as exc:
        warnings.append(_warning("knowledge", exc.with_hint))
    return {**found, "warnings": warnings}


def own_budget(config: HomeConfig, identity: Identity) -> OutageBudget:
    """As far as a node that is down knows it: its own certificate's end, and its issuer's."""
    own = {f"{config.role} {config.name}": identity.leaf.not_after}
    return OutageBudget(own, issuer=end_of(identity.chain_pem, 1), root=None)


def _warning(code: str, text: str) -> dict[str, str]:
    return {"code": code, "severity": "error", "text": text}
