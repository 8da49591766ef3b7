"""Pure: one import of a gateway: what Consul listed last, which instances that makes, and what is wrong."""

from __future__ import annotations

import msgspec

from inventory.discovery.consul_listing import Found, Listed, usable
from inventory.imports import is_as_signed
from inventory.model import Health, Import, Instance

PASSING = Health(state="passing", reason="passing in Consul")


class Watched:
    """Args:
    instances: those that were there before we asked for the first time (from disk).
    """

    def __init__(self, wanted: Import, instances: tuple[Instance, ...] = ()) -> None:
        self.wanted = wanted
        self.instances = tuple(i for i in instances if is_as_signed(wanted, i))
        self.refused: tuple[str, ...] = ()
        self.error = ""
        """Why Consul does not answer; what it said last stays in force."""
        self.is_answered = False
        """Whether Consul has said anything since the start."""

    def heard(self, listed: Listed, *, domain: str) -> list[Instance]:
        """Consul's answer; the instances that it lists no more."""
        before = self.instances
        port = before[0].port if before else None
        found: Found = usable(self.wanted, listed.rows, domain=domain, port=port)
        self.instances, self.refused, self.error, self.is_answered = found.instances, found.refused, "", True
        if not found.instances and before:
            # The service stays known by one of them: its name goes on resolving and what is open goes on.
            why = f"Consul lists no passing instance of {self.wanted.source}"
            self.instances = (msgspec.structs.replace(before[0], draining=why),)
        listed_now = {instance.target for instance in found.instances}
        return [i for i in before if i.target not in listed_now and i.draining is None]

    @property
    def health(self) -> dict[str, Health]:
        return {
            i.id: PASSING if i.draining is None else Health(state="failing", reason=i.draining) for i in self.instances
        }

    @property
    def problem(self) -> str:
        """In words; empty when there is none."""
        about = f"{self.wanted.service} from {self.wanted.check}"
        if self.error:
            return f"{about}: {self.error}; what it said last stays in force"
        if self.refused:
            used = "not every" if any(i.draining is None for i in self.instances) else "no"
            more = f" (and {len(self.refused) - 1} other reasons)" if len(self.refused) > 1 else ""
            return f"{about}: {used} instance is used: {self.refused[0]}{more}"
        if self.is_answered and not any(i.draining is None for i in self.instances):
            return f"{about}: Consul lists no passing instance"
        return ""
