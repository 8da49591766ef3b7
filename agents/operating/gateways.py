"""I/O: what an operator does with gateways: record, invite, remove. Each is one signed change of the log.

Several gateways need a registry that all of them reach: the one in Consul. What a gateway may do follows from its
signed entry; `issuer` in it lets the gateway that enrols it hand over the issuer's key.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from agents import clock
from agents.estate import Operator
from agents.knowledge.key_holders import keys_of
from agents.operating.invitations import Invitation, invite
from bridge import limits
from inventory.authority import AuthorityState, Body, Enrolment, GatewayBody, InviteBody, read_enrolment, revocation
from inventory.errors import AnswerIsNo, InputError
from inventory.model import Gateway
from inventory.names import SpiffeId, shown
from inventory.registries.interface import Registry


def known_gateway(state: AuthorityState, name: str) -> Gateway:
    """Raises AnswerIsNo when there is no such gateway."""
    gateway = state.gateways.get(name)
    if gateway is None:
        raise AnswerIsNo(f"there is no gateway {shown(name)[1:-1]}", hint="see `meshbridge gateway list`")
    return gateway


async def add_gateway(operator: Operator, gateway: Gateway, *, ttl: float = limits.TOKEN_LIFETIME) -> Invitation:
    """Records the gateway as given, or anew if it exists, and invites it. `ttl` is in seconds.

    Raises:
        InputError: the registry is not in Consul, or another gateway has this address.
        AnswerIsNo: it is the only gateway.
    """
    if operator.config.consul is None:
        raise InputError(
            "the registry of this estate is in the home of its one gateway, where no other gateway reaches it",
            hint="move it into Consul first: meshbridge registry copy --to consul",
        )
    changes: list[str] = []

    def record(state: AuthorityState) -> list[Body]:
        before = state.gateways.get(gateway.name)
        taken = [g.name for g in state.gateways.values() if g.address == gateway.address and g.name != gateway.name]
        if taken:
            raise InputError(f"gateway {taken[0]} has the address {gateway.address} already")
        changes[:] = _differences(before, gateway) if before is not None else []
        return [] if gateway == before else [GatewayBody(gateway=gateway)]

    message = f"gateway add {gateway.name}"
    invitation = await invite(operator, "gateway", gateway.name, ttl=ttl, first=record, message=message)
    return replace(invitation, changes=tuple(changes))


def _differences(before: Gateway, after: Gateway) -> list[str]:
    pairs = (
        ("address", before.address, after.address),
        ("site", before.site or "none", after.site or "none"),
        ("issuer", "yes" if before.issuer else "no", "yes" if after.issuer else "no"),
    )
    return [f"{what} {was} -> {now}" for what, was, now in pairs if was != now]


async def invite_gateway(operator: Operator, name: str, *, ttl: float = limits.TOKEN_LIFETIME) -> Invitation:
    """A fresh token for a gateway on record; older ones stop working. Raises AnswerIsNo when there is no such one."""

    def check(state: AuthorityState) -> list[Body]:
        known_gateway(state, name)
        return []

    return await invite(operator, "gateway", name, ttl=ttl, first=check, message=f"gateway token {name}")


def reached_by(state: AuthorityState, name: str) -> list[str]:
    """The agentless hosts that this gateway reaches, by name."""
    return sorted(host.name for host in state.hosts.values() if host.via == name)


async def remove_gateway(operator: Operator, name: str) -> Gateway:
    """Takes the gateway out of the estate; every key that it ever had is refused from now on.

    Raises:
        AnswerIsNo: there is no such gateway, or no other one that issues certificates.
    """
    keys = await keys_of(operator.registry, SpiffeId(operator.state.trust_domain, "gateway", name))
    removed: list[Gateway] = []

    def decide(state: AuthorityState) -> list[Body]:
        gateway = known_gateway(state, name)
        if not any(other.issuer for other in state.gateways.values() if other.name != name):
            raise AnswerIsNo(
                f"without {name} no gateway would be left that issues certificates",
                hint="give another one the issuer's key first: meshbridge gateway add NAME=ADDR:PORT --issuer",
            )
        removed[:] = [gateway]
        spiffe_id = str(SpiffeId(state.trust_domain, "gateway", name))
        return [
            GatewayBody(gateway=gateway, removed=True),
            revocation(state, spiffe_id, keys=keys, reason="the gateway was removed"),
        ]

    await operator.append(decide, message=f"gateway remove {name}")
    return removed[0]


class GatewayView(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway as `gateway list` and `gateway show` print it. Times are unix seconds."""

    name: str
    address: str
    site: str | None
    issuer: bool
    state: str
    """enrolled, invited, token expired."""
    enrolled_at: int | None
    enrolled_from: str | None
    key: str | None
    """SHA-256 of the enrolled key."""
    token_expires_at: int | None
    """Of the newest token, as long as it can be used."""


async def view_gateways(registry: Registry, state: AuthorityState) -> list[GatewayView]:
    """Everything the log and the registry say about every gateway, by name."""
    return [await view_gateway(registry, state, name) for name in sorted(state.gateways)]


async def view_gateway(registry: Registry, state: AuthorityState, name: str) -> GatewayView:
    """The same about one. Raises AnswerIsNo when there is no such gateway."""
    gateway = known_gateway(state, name)
    enrolment = await read_enrolment(registry, "gateway", name)
    invites = [i for i in state.invites.values() if i.role == "gateway" and i.name == name]
    newest = max(invites, key=lambda i: state.numbers[f"invite/{i.id}"], default=None)
    usable = newest is not None and _is_usable(newest, enrolment)
    return GatewayView(
        name=name,
        address=gateway.address,
        site=gateway.site,
        issuer=gateway.issuer,
        state="enrolled" if enrolment is not None else "invited" if usable else "token expired",
        enrolled_at=enrolment.at if enrolment else None,
        enrolled_from=enrolment.source if enrolment else None,
        key=enrolment.key if enrolment else None,
        token_expires_at=newest.expires_at if newest is not None and usable else None,
    )


def _is_usable(invite: InviteBody, enrolment: Enrolment | None) -> bool:
    spent = enrolment is not None and enrolment.invite == invite.id
    return not spent and invite.expires_at > clock.now()
