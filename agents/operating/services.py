"""I/O: what an operator does with services: place, drain, remove, import. Each is one signed change of the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from agents.checks.kinds import ExecProbe
from agents.checks.spec import parse_check
from agents.estate import Operator
from agents.operating.hosts import known_host
from bridge import limits
from inventory.authority import AuthorityState, Body, ImportBody, InstanceBody
from inventory.endpoints import parse_endpoint
from inventory.errors import AnswerIsNo, InputError
from inventory.model import Import, Instance
from inventory.names import shown
from inventory.reach import why_target_refused


@dataclass(frozen=True, slots=True)
class Which:
    """Which instances of a service: all, those on one host, or the one at a target. Names are canonical."""

    service: str
    host: str | None = None
    target: str | None = None
    via: str | None = None
    """Only the import through this gateway."""

    def __str__(self) -> str:
        where = (f" on {self.host}" if self.host else "") + (f" at {self.target}" if self.target else "")
        return self.service + where + (f" through gateway {self.via}" if self.via else "")

    def matches(self, instance: Instance) -> bool:
        return (
            instance.service == self.service
            and self.host in (None, instance.host)
            and self.target in (None, instance.target)
            and self.via is None
        )

    def matches_import(self, wanted: Import) -> bool:
        """An import as a whole: its targets are Consul's affair."""
        is_whole = self.host is None and self.target is None
        return is_whole and wanted.service == self.service and self.via in (None, wanted.gateway)


def known_instances(state: AuthorityState, which: Which) -> list[Instance]:
    """The instances that operators placed, by id. Raises AnswerIsNo when there is none."""
    found = [i for _, i in sorted(state.instances.items()) if which.matches(i)]
    if not found:
        imported = any(map(which.matches_import, state.imports.values()))
        what = "is imported from Consul: drain it there" if imported else "there is no service"
        raise AnswerIsNo(
            f"{which} {what}" if imported else f"{what} {shown(str(which))[1:-1]}", hint="see `meshbridge service list`"
        )
    return found


def known_service(state: AuthorityState, which: Which) -> tuple[list[Instance], list[Import]]:
    """The instances that operators placed, and the imports, by id. Raises AnswerIsNo when there is none."""
    imports = [wanted for _, wanted in sorted(state.imports.items()) if which.matches_import(wanted)]
    placed = [i for _, i in sorted(state.instances.items()) if which.matches(i)]
    return (placed, imports) if imports else (known_instances(state, which), [])


async def import_service(operator: Operator, wanted: Import, via: Sequence[str]) -> list[Import]:
    """Lets gateways bring in a service of Consul's, or changes how they do; the imports that are new.

    Args:
        wanted: with any gateway.
        via: the gateways; none: every one that there is now.

    Raises:
        AnswerIsNo: there is no such gateway, or one has IMPORTS_MAX already.
        InputError: the registry is not in Consul, or the service has another port.
    """
    if operator.config.consul is None:
        hint = "see docs/consul.md: `meshbridge registry copy --to consul`"
        raise InputError("this estate's registry is not in Consul, so its gateways ask none", hint=hint)
    news: list[Import] = []

    def decide(state: AuthorityState) -> list[Body]:
        unknown = next((name for name in via if name not in state.gateways), None)
        if unknown is not None:
            raise AnswerIsNo(f"there is no gateway {unknown}", hint=f"there are {', '.join(sorted(state.gateways))}")
        imports = [msgspec.structs.replace(wanted, gateway=name) for name in via or sorted(state.gateways)]
        _check_limit(state, imports)
        for one in imports:
            _check_import(state, one)
        _check_other_imports(state, imports)
        news[:] = [one for one in imports if state.imports.get(one.id) != one]
        return [ImportBody(imported=one) for one in news]

    await operator.append(decide, message=f"service import {wanted.source} as {wanted.service}")
    return news


def _check_limit(state: AuthorityState, imports: Sequence[Import]) -> None:
    """Each gateway counts the streams through it: a limit that holds is one gateway's."""
    by_id = {i: one for i, one in state.imports.items() if one.service == imports[0].service}
    all_of_it = {**by_id, **{one.id: one for one in imports}}.values()
    is_limited = any(one.max_streams is not None or one.max_rate is not None for one in all_of_it)
    if is_limited and len(all_of_it) > 1:
        names = ", ".join(sorted(one.gateway for one in all_of_it))
        what = f"{imports[0].service} would be imported through {names}, and each lets as many streams through"
        raise InputError(what, where="--max-streams", hint="import it through one gateway, named with --via")


def _check_import(state: AuthorityState, wanted: Import) -> None:
    mine = [i for i, one in state.imports.items() if one.gateway == wanted.gateway and i != wanted.id]
    if len(mine) >= limits.IMPORTS_MAX:
        hint = "remove one, or name another gateway with --via"
        raise AnswerIsNo(f"gateway {wanted.gateway} has {len(mine)} imports, which is the most of one", hint=hint)
    other = next((i for i in state.instances.values() if i.service == wanted.service), None)
    if other is not None and other.port != wanted.port:
        what = f"service {wanted.service} has port {other.port} (on {other.host})"
        raise InputError(what, where="--port", hint=f"give --port {other.port}, or another name with --as")


def _check_other_imports(state: AuthorityState, imports: Sequence[Import]) -> None:
    """Through whichever gateway, a service has one port."""
    changed = {one.id for one in imports}
    others = (one for i, one in state.imports.items() if i not in changed and one.service == imports[0].service)
    other = next((one for one in others if one.port != imports[0].port), None)
    if other is not None:
        port = f"port {other.port}" if other.port is not None else "its instances' port"
        what = f"service {other.service} is imported at {port} (through gateway {other.gateway})"
        raise InputError(what, where="--port", hint="say the same port, or name all its gateways with --via")


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of a `service add`."""

    is_news: bool
    port_before: int | None = None
    """Where applications found it until now, if that was another port."""


async def add_service(operator: Operator, instance: Instance) -> Placed:
    """Places the instance, or changes the one at the same target (a drain of it ends).

    Raises:
        AnswerIsNo: there is no such host.
        InputError: another port than the service's other instances have, or a check that cannot be used.
    """
    try:
        spec = parse_check(instance.check, target=parse_endpoint(instance.target), allow_exec=True)
    except InputError as exc:
        raise InputError(exc.what, where=f"--check {exc.where}".strip(), hint=exc.hint) from None

    moved_from: list[int] = []

    def decide(state: AuthorityState) -> list[Body]:
        known_host(state, instance.host)
        reach = state.reaches.get(instance.host)
        gateway = state.gateways.get(reach.gateway) if reach is not None else None
        why = why_target_refused(reach, instance.target, gateway) if reach is not None else None
        if why is not None:
            raise InputError(f"{instance.target} cannot be reached: {why}", where="--target")
        if state.hosts[instance.host].via is not None and isinstance(spec.probe, ExecProbe):
            what = f"a program checks only its own host, and no agent runs on {instance.host}"
            raise InputError(what, where="--check", hint="its gateway can ask it: tcp, ssh, tn3270, send and expect, …")
        _check_port(state, instance)
        before = state.instances.get(instance.id)
        moved_from[:] = [before.port] if before is not None and before.port != instance.port else []
        return [] if before == instance else [InstanceBody(instance=instance)]

    is_news = bool(await operator.append(decide, message=f"service add {instance.service} on {instance.host}"))
    return Placed(is_news, moved_from[0] if moved_from else None)


def _check_port(state: AuthorityState, instance: Instance) -> None:
    """One service has one port everywhere: applications connect to a name and a port."""
    imported = next((w for w in state.imports.values() if w.service == instance.service and w.port is not None), None)
    if imported is not None and imported.port != instance.port:
        what = f"service {instance.service} is imported at port {imported.port} (through gateway {imported.gateway})"
        raise InputError(what, where="--port", hint=f"give --port {imported.port}")
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


async def remove_service(operator: Operator, which: Which) -> tuple[list[Instance], list[Import]]:
    """Takes these instances and imports out of the estate; them. Raises AnswerIsNo."""
    touched: tuple[list[Instance], list[Import]] = ([], [])

    def decide(state: AuthorityState) -> list[Body]:
        instances, imports = known_service(state, which)
        touched[0][:], touched[1][:] = instances, imports
        gone: list[Body] = [InstanceBody(instance=instance, removed=True) for instance in instances]
        return [*gone, *(ImportBody(imported=wanted, removed=True) for wanted in imports)]

    await operator.append(decide, message=f"service remove {which}")
    return touched


async def _each(operator: Operator, which: Which, *, change: Change, message: str) -> list[Instance]:
    touched: list[Instance] = []

    def decide(state: AuthorityState) -> list[Body]:
        touched[:] = known_instances(state, which)
        bodies = [change(instance) for instance in touched]
        return [b for b, before in zip(bodies, touched, strict=True) if b.instance != before]

    await operator.append(decide, message=message)
    return touched
