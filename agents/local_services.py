"""I/O: what this host serves: by the operator's word and by its own services.toml, and how its checks find it."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

from agents.checks.answers import Outcome
from agents.checks.runner import Checker, Watched, probe_directly
from agents.checks.spec import parse_check
from agents.knowledge.placement import check_report
from bridge import limits
from bridge.logs import get_logger
from inventory.authority import AuthorityState
from inventory.endpoints import parse_endpoint
from inventory.errors import InputError, MeshError
from inventory.loading.services_file import load_services
from inventory.model import Health, Instance
from inventory.snapshot import Snapshot

log = get_logger()

FILE = "services.toml"
SlotForCheck = Callable[[Instance], AbstractAsyncContextManager[bool]]
"""An instance with a limit is checked while this holds, if it says that there is room (see `governors`)."""


class LocalServices:
    """The instances on this host and their health. `changed` is called when the health of one changed.

    Args:
        slot_for_check: a check is a connection, too, which an instance with a limit may not take now.

    Raises:
        MeshError: services.toml cannot be used at the start.
    """

    def __init__(self, home: Path, host: str, changed: Callable[[], None], slot_for_check: SlotForCheck) -> None:
        self._path = home / FILE
        self._host = host
        self._changed = changed
        self._slot_for_check = slot_for_check
        self._checker = Checker(self._checked, rng=random.Random(), probe=self._probe)
        self.declared: tuple[Instance, ...] = self._load()
        """What services.toml says."""
        self.instances: tuple[Instance, ...] = ()
        """What counts: placed by the operator, or declared and permitted."""
        self.health: dict[str, Health] = {}
        self.refusal: str | None = None
        """Why the last reload was refused; what the file said before is in force then."""

    def _load(self) -> tuple[Instance, ...]:
        return load_services(self._path, self._host) if self._path.exists() else ()

    def reload(self) -> None:
        """Read services.toml again. Raises MeshError; everything stays as it was then."""
        try:
            self.declared = self._load()
        except MeshError as exc:
            self.refusal = f"services.toml was refused, what it said before is in force: {exc}"
            raise
        self.refusal = None

    def refused(self, authority: AuthorityState) -> list[str]:
        """Of services.toml, what every gateway will refuse, in the words it will use (H25)."""
        try:
            placed = [i for i in authority.instances.values() if i.host == self._host]
            most = limits.INSTANCES_PER_HOST
            return check_report(authority, self._host, self.declared, most=most, placed=placed)[1]
        except InputError as exc:
            return [exc.what]

    async def run(self) -> None:
        """Check until cancelled."""
        await self._checker.run()

    def follow(self, snapshot: Snapshot) -> None:
        """Check exactly what counts now."""
        self.instances = snapshot.offers(self._host)
        known = {instance.id for instance in self.instances}
        self.health = {i: h for i, h in self.health.items() if i in known}
        self._checker.set_instances({i.id: watched for i in self.instances if (watched := self._watched(i))})

    def _watched(self, instance: Instance) -> Watched | None:
        """What to probe; an instance whose check cannot be read fails it, in words."""
        try:
            target = parse_endpoint(instance.target)
            # Both sources of instances may run programs: the operator's signature, and this host's own file.
            spec = parse_check(instance.check, target=target, allow_exec=True)
            return Watched(spec, target, proxied=instance.proxy_protocol)
        except InputError as exc:
            self.health[instance.id] = Health(state="failing", reason=f"its check cannot be used: {exc.what}")
            return None

    async def _probe(self, watched: Watched) -> Outcome:
        """Ask a target once. Where as many streams are open as it takes, they show that it is as it was."""
        place = str(watched.target)
        limited = [i for i in self.instances if i.target == place and (i.max_streams or i.max_rate)]
        async with AsyncExitStack() as stack:
            for instance in limited:
                if not await stack.enter_async_context(self._slot_for_check(instance)):
                    known = self.health.get(instance.id, Health())
                    return Outcome(known.state != "failing", known.reason)
            return await probe_directly(watched)

    def _checked(self, instance_id: str, health: Health) -> None:
        self.health[instance_id] = health
        log.info("health changed", instance=instance_id, state=health.state, reason=health.reason)
        self._changed()

    def leaving(self) -> dict[str, Health]:
        """What to report while this host shuts down."""
        return {i.id: Health(state="failing", reason="its host is shutting down") for i in self.instances}
