"""I/O: a copy of the registry in one file, and the way back from it, wherever the registry is.

A backup is one consistent moment, taken while everything runs, in which every open token is closed (C20). A restore
believes nothing of the file: the log in it is verified from the genesis entry of this home, and it replaces nothing
before that. What it replaces is set aside, never deleted.

A backup that is older than what this gateway has seen takes entries back, and nodes that hold those entries refuse
others under the same numbers (F34). So such a restore is done only when it is asked for, and then it continues the log
past them: each lost number is used up by an entry that is sent to nobody, and everything that stands is signed again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agents import clock
from agents.estate import Home, HomeConfig, inspect, load_config, load_operator_key
from agents.knowledge.ledger import POLICY_PREFIX
from agents.knowledge.seen import OPERATOR_SEEN_FILE, SEEN_FILE, furthest_seen
from agents.knowledge.verified_log import VerifiedLog
from agents.operating.policy import read_policy
from agents.operating.registry_files import (
    make_aside,
    move,
    sync,
    temporary_registry,
    with_companions,
    write_out,
)
from inventory.authority import (
    AuthorityState,
    Body,
    DomainBody,
    InviteBody,
    OperatorBody,
    OperatorKey,
    PolicyBody,
    append,
    closing_invites,
    read_log,
    refuse_rollback,
    secret_hash,
    verify_entry,
)
from inventory.authority.entries import AuthorityError
from inventory.authority.log import NUMBER_MARK
from inventory.errors import InputError, MeshError, Unavailable
from inventory.home import lock_home
from inventory.registries.consul_place import ConsulPlace
from inventory.registries.embedded import EmbeddedRegistry, open_embedded
from inventory.registries.sqlite_file import APPLICATION_ID, copy_file

LOST_MAX = 10_000
"""Numbers that one restore may use up; more is a typing error."""

_MAGIC = b"SQLite format 3\0"
_APPLICATION_ID_AT = 68
"""Where a SQLite file has its application id (https://sqlite.org/fileformat.html, 1.3)."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A backup that was made."""

    number: int
    """The last entry in it."""
    closed: int
    """Open tokens that nobody can use once it is restored."""


@dataclass(frozen=True, slots=True)
class Restored:
    backup_number: int
    """The last entry of the backup."""
    number: int
    """The last entry now: higher when lost numbers had to be passed."""
    lost: tuple[int, int] | None
    """First and last number of the entries that are lost."""
    aside: Path | None
    """Where the files before are; None when there were none."""


async def backup(home: Path, to_path: Path) -> Copied:
    """Copies the registry of `home` to `to_path`, 0600. A backup there is replaced, anything else is left alone.

    Raises:
        InputError: this home has no registry, its log does not verify, or `to_path` is something else.
        Unavailable: the copy cannot be written; what was there is intact.
    """
    async with inspect(home, accepts_older=True) as (_, registry, log):
        _check_target(home, to_path)
        closing = closing_invites(log.state.invites.values(), clock.now())
        if isinstance(registry, EmbeddedRegistry):
            await registry.backup(to_path, closing)
        else:
            await write_out(registry, to_path, closing)
        return Copied(log.state.number, len(closing))


def _check_target(home: Path, to_path: Path) -> None:
    registry = Home(home).registry
    if to_path.exists() and to_path.samefile(registry):
        raise InputError("this is the registry itself", where=str(to_path), hint="name another file for the copy")
    if os.path.lexists(to_path) and not _is_registry(to_path):
        raise InputError("there is something else already", where=str(to_path), hint="move it away, or name another")


def _check_source(from_path: Path) -> None:
    if not from_path.exists():
        raise InputError(
            "there is no such file", where=str(from_path), hint="name the file that `registry backup` wrote"
        )
    if not _is_registry(from_path):
        hint = "name the file that `registry backup` wrote"
        raise InputError("this is no backup of a registry", where=str(from_path), hint=hint)


def _is_registry(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except OSError:
        return False
    stamp = int.from_bytes(head[_APPLICATION_ID_AT : _APPLICATION_ID_AT + 4], "big")
    return path.is_file() and head.startswith(_MAGIC) and stamp == APPLICATION_ID


async def restore(home: Path, from_path: Path, *, past: int | None = None) -> Restored:
    """Puts a backup in the place of the registry of `home`.

    Args:
        past: the highest entry number that any node may have seen; needed when the backup ends before it.

    Raises:
        InputError: not a backup, damaged, of another trust domain, or older than what this gateway has seen.
        Unavailable: the gateway runs, or a file cannot be written. Nothing was changed then.
    """
    config = load_config(home)
    if config.role != "gateway":
        raise InputError(f"this is the home of {config.role} {config.name}, which has no registry", where=str(home))
    _check_source(from_path)
    with lock_home(home), _prepared(home, from_path) as prepared:
        backup_number, number = await _bring_up_to(prepared, home, config, past=past, where=from_path)
        if config.consul is None:
            aside = _replace(home, prepared, forget_seen=number > backup_number)
        else:
            aside = await _replace_in_consul(home, prepared, config.consul, forget_seen=number > backup_number)
    lost = (backup_number + 1, past) if past is not None and past > backup_number else None
    return Restored(backup_number, number, lost, aside)


@contextlib.contextmanager
def _prepared(home: Path, from_path: Path) -> Iterator[Path]:
    """A copy of the backup beside the registry, to be verified and then renamed; gone at the end either way."""
    with temporary_registry(home) as prepared:
        try:
            copy_file(from_path, prepared, ())
        except Unavailable as exc:
            if exc.where == str(from_path):  # its hint would speak of a registry in use
                raise InputError(exc.what, where=exc.where, hint="use another backup") from None
            raise
        yield prepared


async def _bring_up_to(
    prepared: Path, home: Path, config: HomeConfig, *, past: int | None, where: Path
) -> tuple[int, int]:
    """Verifies the copy and, where entries are lost, continues it past them. The last numbers before and after."""
    async with open_embedded(prepared) as registry:
        log = VerifiedLog(registry, config.genesis)
        try:
            await log.refresh()
            await read_policy(registry, log.state)
            await registry.read("")  # every record, so that a damaged page is found now
        except MeshError as exc:
            raise InputError(
                f"this backup cannot be used: {exc}", where=str(where), hint="use another backup"
            ) from None
        before = log.state.number
        behind = await _behind(registry, home, before)
        if past is not None and past > before + LOST_MAX:
            raise InputError(f"more than {LOST_MAX} entries would be lost", where="--past")
        if behind is not None and (past is None or past < behind):
            raise InputError(
                f"the backup ends at entry {before}, entry {behind} was seen here",
                where=str(where),
                hint=f"use a newer backup; or give --past {behind}, and entries {before + 1} to {behind} are lost",
            )
        if past is not None and past > before:
            await _continue_past(registry, log.state, load_operator_key(home, config), past)
            await log.refresh()
        return before, log.state.number


async def _behind(registry: EmbeddedRegistry, home: Path, number: int) -> int | None:
    """The entry that was seen here and the backup has not; None when the backup continues what was seen."""
    seen = furthest_seen(home)
    if seen is None:
        return None
    try:
        refuse_rollback(await read_log(registry), number=seen.number, head=seen.head)
    except AuthorityError:
        return max(seen.number, number)
    return None


async def _continue_past(registry: EmbeddedRegistry, state: AuthorityState, key: OperatorKey, past: int) -> None:
    """Uses up the numbers to `past`, then says again what stands, so that every node accepts it over what it has."""
    lost = [_placeholder(number) for number in range(state.number + 1, past + 1)]
    message = "registry restore: the entry of this number is lost"
    await append(registry, key, lost, message=message, now=clock.now(), state=state)
    standing, policy = await _standing(registry)
    message = f"registry restore: said again after entry {past}"
    if standing:
        await append(registry, key, standing, message=message, now=clock.now())
    if policy is not None:
        record = await registry.get(f"{POLICY_PREFIX}{state.policy_number}")
        attached = {f"{POLICY_PREFIX}{NUMBER_MARK}": record.value} if record is not None else {}
        await append(registry, key, [policy], message=message, now=clock.now(), attachments=attached)


def _placeholder(number: int) -> InviteBody:
    """An entry without effect: a token that ended long ago. Tokens are the one kind of entry no host is ever sent, so
    no host can hold another entry under this number and take it for a fork."""
    secret = secret_hash(secrets.token_bytes(32))
    return InviteBody(id=f"lost-{number}", role="host", name="lost", secret_hash=secret, expires_at=0)


async def _standing(registry: EmbeddedRegistry) -> tuple[list[Body], PolicyBody | None]:
    """What the newest entry of every key says, removals included; the policy apart, because its rules are beside it."""
    latest: dict[str, Body] = {}
    for signed in await read_log(registry):
        verified = verify_entry(signed)
        latest.pop(verified.key, None)
        latest[verified.key] = verified.body
    bodies: list[Body] = []
    bodies += [b for b in latest.values() if not isinstance(b, DomainBody | OperatorBody | InviteBody | PolicyBody)]
    policy = latest.get("policy")
    return bodies, policy if isinstance(policy, PolicyBody) else None


def _replace(home: Path, prepared: Path, *, forget_seen: bool) -> Path | None:
    """Sets the old files aside and puts the new one in their place. Killed in between, the home has no registry, which
    no gateway starts with; the same command then finishes it."""
    registry = Home(home).registry
    old = with_companions(registry)
    seen = [path for name in (SEEN_FILE, OPERATOR_SEEN_FILE) if forget_seen and (path := home / name).exists()]
    try:
        aside = make_aside(home) if old or seen else None
        if aside is not None:
            move(old, aside)
        prepared.rename(registry)
        if aside is not None:
            move(seen, aside)
        sync(home)
    except OSError as exc:
        raise Unavailable(f"the registry cannot be replaced: {exc.strerror}", where=str(home)) from None
    return aside


async def _replace_in_consul(home: Path, prepared: Path, place: ConsulPlace, *, forget_seen: bool) -> Path:
    """The same in Consul: what is there goes to a file, then the backup takes its place. Killed in between, Consul
    holds a registry without a log, and a gateway goes on from what it keeps; the same command then finishes it."""
    from agents.consul import open_consul
    from agents.operating.registry_moves import fill, values_of

    aside = make_aside(home)
    async with open_consul(place, accepts_moved=True) as target:
        state = await target.store.state()
        if state is not None:
            await write_out(target, aside / Home(home).registry.name)
        async with open_embedded(prepared) as source:
            values = await values_of(source)
        await fill(target, values, over=state)
        await target.store.become("ready")
    try:
        # A gateway's own copy of the log goes with what it has seen: where entries are given up, both are.
        gone = [*with_companions(Home(home).kept), home / SEEN_FILE, home / OPERATOR_SEEN_FILE]
        move([path for path in gone if path.exists()] if forget_seen else [], aside)
        sync(home)
    except OSError as exc:
        raise Unavailable(f"the old files cannot be set aside: {exc.strerror}", where=str(home)) from None
    return aside
