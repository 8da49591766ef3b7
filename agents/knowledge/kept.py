"""I/O: what a gateway keeps on its disk of a registry that is elsewhere, so that it starts and works on without it.

`kept.db` in its home is a registry file of its own: the authority log as far as this gateway verified it, the policy in
force, and the key that each host was enrolled with. It is believed no more than the registry: the log in it is verified
from the genesis entry whenever it is read. Who may enrol is never decided from it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import trio

from agents.estate import Home, HomeConfig
from bridge import limits
from bridge.logs import get_logger
from inventory.authority.enrolments import Enrolment, read_enrolment
from inventory.errors import InputError, MeshError, Unavailable
from inventory.names import Role
from inventory.registries.embedded import open_embedded
from inventory.registries.interface import ANY, Change, Registry

log = get_logger()

_ENROLLED = "enrolled/"


@asynccontextmanager
async def open_kept(home: Home, config: HomeConfig) -> AsyncIterator[Registry | None]:
    """None where the registry is in the home itself: then nothing is kept beside it.

    Raises:
        InputError, Unavailable: as for the registry's own file.
    """
    if config.consul is None:
        yield None
        return
    async with AsyncExitStack() as stack:
        try:
            kept = await stack.enter_async_context(open_embedded(home.kept))
        except MeshError as exc:
            hint = exc.hint if isinstance(exc, InputError) else f"rm -f {home.kept}*: it is a copy, and made anew"
            raise Unavailable(exc.what, where=exc.where, hint=hint) from None
        yield kept


class EnrolledKeys:
    """The latest enrolment of each node, asked of the registry, and of what was kept while that is away.

    Only to admit those who come with a certificate of ours. A host that was enrolled again while this gateway could not
    hear of it is so still known by the key before; what was revoked is in the authority log and needs no registry.
    """

    def __init__(self, registry: Registry, kept: Registry | None) -> None:
        self._registry = registry
        self._kept = kept
        self._away_until = -float("inf")
        self._unsure: set[str] = set()
        """Hosts of which was last told what was kept."""

    async def of(self, role: Role, name: str) -> Enrolment | None:
        """Raises Unavailable when there is no registry and nothing is kept beside it."""
        if self._kept is None:
            return await read_enrolment(self._registry, role, name)
        if trio.current_time() >= self._away_until:
            try:
                with trio.move_on_after(limits.REGISTRY_PATIENCE):
                    enrolment = await read_enrolment(self._registry, role, name)
                    await self._keep(role, name, enrolment)
                    if role == "host":
                        self._unsure.discard(name)
                    return enrolment
            except Unavailable:
                pass
            self.is_away()  # others who come now need not wait for the same answer
        if role == "host":
            self._unsure.add(name)
        return await read_enrolment(self._kept, role, name)

    async def sure_again(self) -> dict[str, Enrolment | None]:
        """Of the hosts of which was told what was kept, what the registry says now: one question for all of them.

        Raises:
            Unavailable: it does not answer yet.
        """
        unsure = set(self._unsure)
        if self._kept is None or not unsure:
            return {}
        await self._keep_all(self._kept)
        self._unsure -= unsure
        return {host: await read_enrolment(self._kept, "host", host) for host in unsure}

    async def _keep(self, role: Role, name: str, enrolment: Enrolment | None) -> None:
        assert self._kept is not None
        if enrolment != await read_enrolment(self._kept, role, name):
            value = None if enrolment is None else msgspec.json.encode(enrolment)
            await self._kept.transact([Change(f"{_ENROLLED}{role}/{name}", ANY, value)])

    def is_away(self) -> None:
        """Somebody has waited for the registry just now, in vain."""
        self._away_until = trio.current_time() + limits.REGISTRY_AWAY

    async def keep_all(self) -> None:
        """What every host was enrolled with, so that one that did not come here yet is known too. Without a registry
        that answers, what was kept before stays."""
        if self._kept is None:
            return
        with trio.move_on_after(limits.REGISTRY_PATIENCE) as scope:
            try:
                await self._keep_all(self._kept)
            except Unavailable as exc:
                log.warning("enrolments are not kept anew", reason=str(exc))
        if scope.cancelled_caught:
            log.warning("enrolments are not kept anew", reason="the registry does not answer")

    async def _keep_all(self, kept: Registry) -> None:
        records, _ = await self._registry.read(_ENROLLED)
        before, _ = await kept.read(_ENROLLED)
        changes = [Change(key, ANY, None) for key in before if key not in records]
        changes += [
            Change(key, ANY, record.value)
            for key, record in records.items()
            if key not in before or before[key].value != record.value
        ]
        if changes:
            await kept.transact(changes)
