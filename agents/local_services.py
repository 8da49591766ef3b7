"""I/O: what this host serves: by the operator's word and by its own services.toml, and how its checks find it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agents.checks.answers import Outcome
from agents.checks.limited import Slot, with_limit, within_limits
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


class LocalServices:
    """The instances on this host and their health. `changed` is called when the health of one changed.

    Args:
        slot: what a check of an instance with a limit needs.

    Raises:
        MeshError: services.toml cannot be used at the start.
    """

    def __init__(self, home: Path, host: str, changed: Callable[[], None], slot: Slot) -> None:
        self._path = home / FILE
        self._host = host
        self._changed = changed
        self._slot = slot
        self._checker = Checker(self._checked, rng=random.Random(), probe=self._probe)
        self.declared: tuple[Instance, ...] = self._load()
        """What services.toml says."""
        self.instances: tuple[Instance, ...] = ()
        """What counts: placed by the operator, or declared and permitted."""
        self._limited: dict[tuple[str, str], list[Instance]] = {}
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
        self._limited = with_limit(self.instances)
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
        limited = self._limited.get((self._host, str(watched.target)), ())
        return await within_limits(limited, self._slot, self._known, partial(probe_directly, watched))

    def _known(self, instance: Instance) -> Health:
        return self.health.get(instance.id, Health())

    def _checked(self, instance_id: str, health: Health) -> None:
        self.health[instance_id] = health
        log.info("health changed", instance=instance_id, state=health.state, reason=health.reason)
        self._changed()

    def leaving(self) -> dict[str, Health]:
        """What to report while this host shuts down."""
        return {i.id: Health(state="failing", reason="its host is shutting down") for i in self.instances}
