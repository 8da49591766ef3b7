"""I/O: what an operator does with services: place, drain, remove instances. Each is one signed change of the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from agents.checks.spec import parse_check
from agents.estate import Operator
from agents.operating.hosts import known_host
from inventory.authority import AuthorityState, Body, InstanceBody
from inventory.endpoints import parse_endpoint
from inventory.errors import AnswerIsNo, InputError
from inventory.model import Instance
from inventory.names import shown


@dataclass(frozen=True, slots=True)
class Which:
    """Which instances of a service: all, those on one host, or the one at a target. Names are canonical."""

    service: str
    host: str | None = None
    target: str | None = None

    def __str__(self) -> str:
        return self.service + (f" on {self.host}" if self.host else "") + (f" at {self.target}" if self.target else "")

    def matches(self, instance: Instance) -> bool:
        return (
            instance.service == self.service
            and self.host in (None, instance.host)
            and self.target in (None, instance.target)
        )


def known_instances(state: AuthorityState, which: Which) -> list[Instance]:
    """The instances that operators placed, by id. Raises AnswerIsNo when there is none."""
    found = [i for _, i in sorted(state.instances.items()) if which.matches(i)]
    if not found:
        raise AnswerIsNo(f"there is no service {shown(str(which))[1:-1]}", hint="see `meshbridge service list`")
    return found


async def add_service(operator: Operator, instance: Instance) -> bool:
    """Places the instance, or changes the one at the same target (a drain of it ends); whether that was news.

    Raises:
        AnswerIsNo: there is no such host.
        InputError: another port than the service's other instances have, or a check that cannot be used.
    """
    try:
        parse_check(instance.check, target=parse_endpoint(instance.target), allow_exec=True)
    except InputError as exc:
        raise InputError(exc.what, where=f"--check {exc.where}".strip(), hint=exc.hint) from None

    def decide(state: AuthorityState) -> list[Body]:
        known_host(state, instance.host)
        _check_port(state, instance)
        return [] if state.instances.get(instance.id) == instance else [InstanceBody(instance=instance)]

    return bool(await operator.append(decide, message=f"service add {instance.service} on {instance.host}"))


def _check_port(state: AuthorityState, instance: Instance) -> None:
    """One service has one port everywhere: applications connect to a name and a port."""
    others = (i for i in state.instances.values() if i.service == instance.service and i.id != instance.id)
    other = next((i for i in others if i.port != instance.port), None)
    if other is not None:
        raise InputError(
            f"service {instance.service} has port {other.port} (on {other.host}), this instance has {instance.port}",
            where="--port",
            hint=f"give --port {other.port}; what it listens on itself is --target",
        )


Change = Callable[[Instance], InstanceBody]


async def drain_service(operator: Operator, which: Which, *, reason: str) -> list[Instance]:
    """No new streams go to these instances; them. Raises AnswerIsNo."""
    return await _each(
        operator,
        which,
        change=lambda instance: InstanceBody(instance=msgspec.structs.replace(instance, draining=reason)),
        message=f"service drain {which}: {reason}",
    )


async def resume_service(operator: Operator, which: Which) -> list[Instance]:
    """The end of a drain. Raises AnswerIsNo."""
    return await _each(
        operator,
        which,
        change=lambda instance: InstanceBody(instance=msgspec.structs.replace(instance, draining=None)),
        message=f"service resume {which}",
    )


async def remove_service(operator: Operator, which: Which) -> list[Instance]:
    """Takes these instances out of the estate; them. Raises AnswerIsNo."""
    return await _each(
        operator,
        which,
        change=lambda instance: InstanceBody(instance=instance, removed=True),
        message=f"service remove {which}",
    )


async def _each(operator: Operator, which: Which, *, change: Change, message: str) -> list[Instance]:
    touched: list[Instance] = []

    def decide(state: AuthorityState) -> list[Body]:
        touched[:] = known_instances(state, which)
        bodies = [change(instance) for instance in touched]
        return [b for b, before in zip(bodies, touched, strict=True) if b.removed or b.instance != before]

    await operator.append(decide, message=message)
    return touched
