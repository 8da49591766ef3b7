"""I/O: what an operator does with hosts: record, invite, drain, revoke, remove. Each is one signed change of the log.

Every decision is a function of the state at the head, so that two operators at once never undo each other unseen. The
token is returned and never written anywhere; the log holds a hash of its secret.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from agents import clock
from agents.admin.client import call
from agents.estate import Operator
from agents.knowledge.key_holders import keys_of
from agents.operating.invitations import Invitation, invite
from bridge import limits
from bridge.identity.ssh_keys import shown_keys
from inventory.authority import (
    AuthorityState,
    Body,
    Enrolment,
    HostBody,
    InstanceBody,
    InviteBody,
    PublishBody,
    ReachBody,
    Refusal,
    RevokeBody,
    read_refusals,
    revocation,
)
from inventory.authority.enrolments import RECORD_MAX_BYTES
from inventory.errors import AnswerIsNo, InputError, MeshError
from inventory.model import Host, Instance, Reach
from inventory.names import SpiffeId, shown
from inventory.registries.interface import Registry
from inventory.strict_json import decode

_ENROLLED = "enrolled/host/"


def known_host(state: AuthorityState, name: str) -> Host:
    """Raises AnswerIsNo when there is no such host."""
    host = state.hosts.get(name)
    if host is None:
        raise AnswerIsNo(f"there is no host {shown(name)[1:-1]}", hint="see `meshbridge host list`")
    return host


def _spiffe(state: AuthorityState, host: str) -> SpiffeId:
    return SpiffeId(state.trust_domain, "host", host)


FIELDS = ("labels", "site", "serves")
"""What an operator says of a host when it is recorded."""


async def add_host(
    operator: Operator, host: Host, *, ttl: float = limits.TOKEN_LIFETIME, named: Collection[str] = FIELDS
) -> Invitation:
    """Records the host, and invites it.

    Args:
        ttl: in seconds.
        named: which FIELDS a host that is on record gets from `host`; all else stays as it is, a drain too.
    """

    changes: list[str] = []

    def record(state: AuthorityState) -> list[Body]:
        before = state.hosts.get(host.name)
        after = host
        _refuse_token(before)
        if before is not None:
            after = msgspec.structs.replace(before, **{name: getattr(host, name) for name in named})
            changes[:] = _differences(before, after)
        return [] if after == before else [HostBody(host=after)]

    invitation = await invite(operator, "host", host.name, ttl=ttl, first=record, message=f"host add {host.name}")
    return replace(invitation, changes=tuple(changes))


def _refuse_token(host: Host | None) -> None:
    """Raises AnswerIsNo for a host on which no agent runs."""
    if host is not None and host.via is not None:
        hint = f"change it with: meshbridge host add {host.name} --reach URL --via {host.via}"
        what = f"host {host.name} has no token: gateway {host.via} reaches it, and no agent runs there"
        raise AnswerIsNo(what, hint=hint)


def _differences(before: Host, after: Host) -> list[str]:
    pairs = (
        ("labels", _words(before.labels), _words(after.labels)),
        ("site", before.site or "none", after.site or "none"),
        ("serves", ", ".join(before.serves) or "none", ", ".join(after.serves) or "none"),
    )
    return [f"{what} {was} -> {now}" for what, was, now in pairs if was != now]


def _words(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none"


async def invite_host(operator: Operator, name: str, *, ttl: float = limits.TOKEN_LIFETIME) -> Invitation:
    """A fresh token for a host on record; older ones stop working. Raises AnswerIsNo when there is no such host."""

    def check(state: AuthorityState) -> list[Body]:
        _refuse_token(known_host(state, name))
        return []

    return await invite(operator, "host", name, ttl=ttl, first=check, message=f"host token {name}")


async def drain_host(operator: Operator, name: str, reason: str, *, serving_only: bool = False) -> None:
    """No new streams go to or from the host; `serving_only`: to it. Raises AnswerIsNo when there is no such host."""
    await _set_draining(operator, name, reason, serving_only, message=f"host drain {name}: {reason}")


async def resume_host(operator: Operator, name: str) -> bool:
    """The end of a drain; whether there was one. Raises AnswerIsNo when there is no such host."""
    return await _set_draining(operator, name, None, False, message=f"host resume {name}")


async def _set_draining(operator: Operator, name: str, reason: str | None, serving_only: bool, *, message: str) -> bool:
    def decide(state: AuthorityState) -> list[Body]:
        before = known_host(state, name)
        after = msgspec.structs.replace(before, draining=reason, serving_only=serving_only)
        return [] if after == before else [HostBody(host=after)]

    return bool(await operator.append(decide, message=message))


async def revoke_host(operator: Operator, name: str, reason: str) -> bool:
    """The host and every key it ever had are refused from now on; whether that was news.

    Raises:
        AnswerIsNo: there is no such host, and never was.
    """
    spiffe = _spiffe(operator.state, name)
    keys = await keys_of(operator.registry, spiffe)

    def decide(state: AuthorityState) -> list[Body]:
        if not keys:
            known_host(state, name)
        before = state.revoked_identities.get(str(spiffe))
        if before is not None and set(keys) <= set(before.keys):
            return []
        return [revocation(state, str(spiffe), keys=keys, reason=reason)]

    return bool(await operator.append(decide, message=f"host revoke {name}: {reason}"))


async def remove_host(operator: Operator, name: str) -> list[Instance]:
    """Takes the host and the instances on it out of the estate; those instances. Raises AnswerIsNo."""
    removed: list[Instance] = []

    def decide(state: AuthorityState) -> list[Body]:
        host = known_host(state, name)
        removed[:] = [instance for instance in state.instances.values() if instance.host == name]
        reach = state.reaches.get(name)
        return [
            *(InstanceBody(instance=instance, removed=True) for instance in removed),
            *([ReachBody(reach=reach, removed=True)] if reach is not None else []),
            # What was published on it must not come up on the next host of that name.
            *(PublishBody(publication=p, removed=True) for p in state.publications.values() if p.host == name),
            HostBody(host=host, removed=True),
        ]

    await operator.append(decide, message=f"host remove {name}")
    return removed


def new_host(name: str, *, labels: Mapping[str, str], site: str | None, serves: Sequence[str]) -> Host:
    """A host from parsed parts. Raises InputError when a service is named twice."""
    if len(set(serves)) != len(serves):
        raise InputError("a service is named twice", where="--serve")
    return Host(name=name, labels=dict(labels), site=site, serves=tuple(sorted(serves)))


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """One host as `host list` and `host show` print it. Times are unix seconds."""

    name: str
    state: str
    """enrolled, invited, expired (its token), agentless, draining, revoked."""
    site: str | None
    labels: dict[str, str]
    serves: tuple[str, ...]
    draining: str | None
    revoked: str | None
    enrolled_at: int | None
    enrolled_from: str | None
    key: str | None
    """SHA-256 of the enrolled key."""
    token_expires_at: int | None
    """Of the newest token, as long as it can be used."""
    instances: tuple[Instance, ...]
    via: str | None = None
    """Of an agentless host: the gateway that reaches it ..."""
    reach: str | None = None
    """... at this url ..."""
    host_keys: tuple[str, ...] = ()
    """... where only these keys are accepted ..."""
    login: str | None = None
    """... and how it logs in."""
    crypto: str | None = None
    """What old cryptography is allowed on the way there, by whom and until when."""
    presence: str | None = None
    """online or away, by the word of the gateway that runs on this home; None when none does, or it was never here."""
    why_away: str | None = None
    """Of an agentless host that is away: what keeps that gateway from reaching it."""
    alone: tuple[str, ...] = ()
    """Services that nobody else could serve in its place at this moment, by the word of that gateway."""

    @property
    def state_now(self) -> str:
        """One word for people: `state`, and for an enrolled host whether it is there, as `status` says it."""
        return self.presence if self.state in ("enrolled", "agentless") and self.presence is not None else self.state


async def with_presence(views: Sequence[HostView], home: Path) -> list[HostView]:
    """The same with what a gateway that runs on this home knows of who is there. Without one nothing changes."""
    try:
        known = await call(home, "hosts", answer_within=limits.NUDGE_TIMEOUT)
    except MeshError:
        return list(views)
    return [
        view if view.enrolled_at is None and view.via is None else _with(view, known.get(view.name, {}))
        for view in views
    ]


def _with(view: HostView, known: Mapping[str, Any]) -> HostView:
    presence = "online" if known.get("online") else "away"
    why_away, alone = known.get("why_away") or None, tuple(known.get("alone", ()))
    return msgspec.structs.replace(view, presence=presence, why_away=why_away, alone=alone)


async def view_hosts(registry: Registry, state: AuthorityState) -> list[HostView]:
    """Everything the log and the registry say about every host, by name."""
    records, _ = await registry.read(_ENROLLED)
    enrolled = {
        name.removeprefix(_ENROLLED): decode(
            record.value, Enrolment, max_bytes=RECORD_MAX_BYTES, what="enrolment record"
        )
        for name, record in records.items()
    }
    invites = _newest_invites(state)
    instances: dict[str, list[Instance]] = {}
    for _, instance in sorted(state.instances.items()):
        instances.setdefault(instance.host, []).append(instance)
    return [
        _view(state, host, enrolled.get(name), invites.get(name), tuple(instances.get(name, ())))
        for name, host in sorted(state.hosts.items())
    ]


async def view_host(registry: Registry, state: AuthorityState, name: str) -> HostView:
    """The same about one host. Raises AnswerIsNo when there is no such host."""
    known_host(state, name)
    return next(view for view in await view_hosts(registry, state) if view.name == name)


def _newest_invites(state: AuthorityState) -> dict[str, InviteBody]:
    """Host name -> the invite that can be used, or could be last."""
    ordered = sorted(state.invites.values(), key=lambda invite: state.numbers[f"invite/{invite.id}"])
    return {invite.name: invite for invite in ordered if invite.role == "host"}


def _view(
    state: AuthorityState,
    host: Host,
    enrolment: Enrolment | None,
    invite: InviteBody | None,
    instances: tuple[Instance, ...],
) -> HostView:
    revoked = state.revoked_identities.get(str(_spiffe(state, host.name)))
    spent = invite is not None and enrolment is not None and enrolment.invite == invite.id
    usable = invite is not None and not spent and invite.expires_at > clock.now()
    return HostView(
        name=host.name,
        state=_state_word(host, revoked, enrolment, usable),
        via=host.via,
        **_reach_fields(state.reaches.get(host.name)),
        site=host.site,
        labels=host.labels,
        serves=host.serves,
        draining=host.draining,
        revoked=revoked.reason if revoked else None,
        enrolled_at=enrolment.at if enrolment else None,
        enrolled_from=enrolment.source if enrolment else None,
        key=enrolment.key if enrolment else None,
        token_expires_at=invite.expires_at if invite is not None and usable else None,
        instances=instances,
    )


def _reach_fields(reach: Reach | None) -> dict[str, Any]:
    if reach is None:
        return {}
    how = "a key, sealed" if reach.credential is not None else f"certificates of {reach.gateway}'s ssh CA"
    allowance = reach.allowance
    allowed = f"{', '.join(allowance.profiles)} until {allowance.until} ({allowance.owner})" if allowance else None
    return {
        "reach": reach.url,
        "host_keys": tuple(shown_keys(reach.host_keys)),
        "login": how if reach.url.startswith("ssh://") else None,
        "crypto": allowed,
    }


def _state_word(host: Host, revoked: RevokeBody | None, enrolment: Enrolment | None, usable: bool) -> str:
    if revoked is not None:
        return "revoked"
    if host.draining is not None:
        return "draining"
    if host.via is not None:
        return "agentless"
    if enrolment is not None:
        return "enrolled"
    return "invited" if usable else "token expired"


async def refusals_of(registry: Registry, state: AuthorityState, host: str) -> list[Refusal]:
    """Who tried to use the host's tokens and was refused, oldest first."""
    mine = [invite.id for invite in state.invites.values() if invite.role == "host" and invite.name == host]
    found = [refusal for invite in mine for refusal in await read_refusals(registry, invite)]
    return sorted(found, key=lambda refusal: refusal.at)
