"""I/O: an estate's registry moved between its home and Consul, whole, and checked before anything counts on it.

The gateway stands still meanwhile (its home is locked), commands may not: so the old place is closed to all changes
before the last look at it, and opened again when anything goes wrong after that. domain.json says where the registry
is; writing it is the moment of the move. Killed before it, the same command begins anew; killed after it, only what is
set aside is missing. Nothing is deleted: files go to `registry-before-TIME`, what was in Consul stays there, closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from agents.consul import open_consul
from agents.estate import Home, HomeConfig, load_config, store_config
from agents.knowledge.verified_log import VerifiedLog
from agents.operating.policy import read_policy
from agents.operating.registry_files import make_aside, move, sync, temporary_registry, with_companions, write_out
from bridge import limits
from inventory.authority.log import HEAD_KEY
from inventory.errors import InputError, MeshError, Unavailable
from inventory.home import lock_home
from inventory.registries.consul import ConsulRegistry
from inventory.registries.consul_place import ConsulPlace
from inventory.registries.embedded import EmbeddedRegistry, open_embedded
from inventory.registries.interface import CHANGES_MAX, Change, Registry

Values = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Moved:
    records: int
    number: int
    """The last entry of the log in it."""
    aside: Path | None
    """Where the files before are; None when there were none."""


async def move_to_consul(home: Path, place: ConsulPlace) -> Moved:
    """From the home's file to `place`, where there must be nothing.

    Raises:
        InputError: the registry is in Consul already, does not verify, or there is another one at `place`.
        Unavailable: the gateway runs, Consul is away, or somebody changed the registry meanwhile.
    """
    config = _gateways_home(home)
    if config.consul is not None:
        raise InputError("the registry is in Consul already", where=config.consul.where)
    path = Home(home).registry
    if not path.exists():
        raise Unavailable("the registry is gone", where=str(path), hint="put it back from its backup")
    with lock_home(home):
        async with open_embedded(path) as source, open_consul(place) as target:
            values = await values_of(source)
            number = await check(source, config)
            await fill(target, values, over_same=True)
            await check(target, config)
            async with _closed_file(source, values):
                await target.store.become("ready")
                try:
                    store_config(home, msgspec.structs.replace(config, consul=place))
                except MeshError:
                    await target.store.become("filling")  # not in use after all: the next run may replace it
                    raise
        return Moved(len(values), number, _set_aside(home))


async def move_home(home: Path) -> Moved:
    """From Consul to a file in the home.

    Raises:
        InputError: it is in the home already, or does not verify.
        Unavailable: the gateway runs, Consul is away, a file cannot be written, or somebody changed the registry.
    """
    config = _gateways_home(home)
    if config.consul is None:
        raise InputError("the registry is in this home already", where=str(Home(home).registry))
    with lock_home(home), temporary_registry(home) as prepared:
        # `moved` is what a killed run of this command may have left.
        async with open_consul(config.consul, accepts_moved=True) as source:
            values = await values_of(source)
            number = await check(source, config)
            await write_out(source, prepared)
            async with open_embedded(prepared) as target:
                await check(target, config)
            async with _closed_in_consul(source, values):
                aside = _set_aside(home)
                _rename(prepared, Home(home).registry)
                store_config(home, msgspec.structs.replace(config, consul=None))
        return Moved(len(values), number, aside)


async def values_of(registry: Registry) -> Values:
    records, _ = await registry.read("")
    return {key: record.value for key, record in records.items()}


async def check(registry: Registry, config: HomeConfig) -> int:
    """The last entry of a log that verifies from this estate's genesis entry, with the policy it speaks of.

    Raises:
        InputError: it does not.
    """
    log = VerifiedLog(registry, config.genesis)
    await log.refresh()
    await read_policy(registry, log.state)
    return log.state.number


async def fill(target: ConsulRegistry, values: Values, *, over_same: bool = False, over: str | None = None) -> None:
    """Makes `target` anew with these records, in the state `filling`, and reads it back.

    Args:
        over_same: a registry there may be replaced when all that is in it is in `values` too, which is what a killed
            run of the same command leaves.
        over: as for `ConsulStore.begin`.
    """
    if over_same and await target.store.state() == "ready" and (await values_of(target)).items() <= values.items():
        over = "ready"
    await target.store.begin(over=over)
    keys = [key for key in sorted(values) if key != HEAD_KEY]
    for at in range(0, len(keys), CHANGES_MAX):
        await target.transact([Change(key, 0, values[key]) for key in keys[at : at + CHANGES_MAX]])
    if HEAD_KEY in values:  # last: without it there is no log
        await target.transact([Change(HEAD_KEY, 0, values[HEAD_KEY])])
    if await values_of(target) != values:
        raise Unavailable("what Consul holds is not what was written", where=target.store.where)


@contextlib.asynccontextmanager
async def _closed_file(source: EmbeddedRegistry, values: Values) -> AsyncIterator[None]:
    """The file takes no more changes; it does again when the block fails."""
    await source.close_to_changes()
    try:
        await _refuse_changed(source, values)
        yield
    except BaseException:
        with trio.move_on_after(limits.REGISTRY_REOPEN, shield=True):
            await source.close_to_changes(closed=False)
        raise


@contextlib.asynccontextmanager
async def _closed_in_consul(source: ConsulRegistry, values: Values) -> AsyncIterator[None]:
    """As `_closed_file`. A block that is killed leaves it closed, and the command can be run again."""
    await source.store.become("moved")
    try:
        await _refuse_changed(source, values)
        yield
    except BaseException:
        with trio.move_on_after(limits.REGISTRY_REOPEN, shield=True):
            await source.store.become("ready")
        raise


async def _refuse_changed(source: Registry, values: Values) -> None:
    if await values_of(source) != values:
        raise Unavailable("the registry was changed meanwhile", hint="run the command again, while nobody runs others")


def _gateways_home(home: Path) -> HomeConfig:
    config = load_config(home)
    if config.role != "gateway":
        raise InputError(f"this is the home of {config.role} {config.name}, which has no registry", where=str(home))
    return config


def _set_aside(home: Path) -> Path | None:
    """The registry's file, and the copy that a gateway made of the one in Consul."""
    old = [*with_companions(Home(home).registry), *with_companions(Home(home).kept)]
    if not old:
        return None
    try:
        aside = make_aside(home)
        move(old, aside)
        sync(home)
    except OSError as exc:
        raise Unavailable(f"the old files cannot be set aside: {exc.strerror}", where=str(home)) from None
    return aside


def _rename(prepared: Path, registry: Path) -> None:
    try:
        prepared.rename(registry)
        sync(registry.parent)
    except OSError as exc:
        raise Unavailable(f"the registry cannot be put into place: {exc.strerror}", where=str(registry)) from None
