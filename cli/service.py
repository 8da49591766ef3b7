"""I/O: `meshbridge service`: instances of services, from the operator's home."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import click

from cli.app import App, pass_app, run, words
from cli.output import print_json, print_table
from cli.publish import publication_as_json, publish, unpublish
from cli.values import BOUND, HOST, LABEL, PORT, TARGET, labels_of, option_value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agents.estate import Operator
    from agents.operating.services import Placed, Which
    from inventory.authority import AuthorityState
    from inventory.endpoints import Endpoint
    from inventory.model import Import, Instance, Publication

    Change = Callable[[Operator, Which], Awaitable[list[Instance]]]

host_option = click.option("--host", "host_name", type=HOST, metavar="H", help="Only what is on this host.")
target_option = click.option("--target", type=TARGET, metavar="ADDR:PORT", help="Only the instance at this target.")
max_streams_option = click.option(
    "--max-streams", type=BOUND, metavar="N", help="How many streams an instance takes at once, from all callers."
)
max_rate_option = click.option(
    "--max-rate", type=BOUND, metavar="R", help="How many new streams an instance takes in a second, from all callers."
)


@click.group()
def service() -> None:
    """Services: place and remove instances, publish them to clients."""


service.add_command(publish)
service.add_command(unpublish)


@service.command(epilog="Example: meshbridge service add web --host vm1 --target 127.0.0.1:9000 --port 80")
@click.argument("name")
@click.option("--host", "host_name", type=HOST, required=True, metavar="H", help="The host that serves it.")
@click.option(
    "--target", type=TARGET, required=True, metavar="ADDR:PORT", help="Where it listens, seen from that host."
)
@click.option("--port", type=PORT, metavar="N", help="Its port in the namespace.  [default: the target's]")
@click.option("--check", metavar="SPEC", help="How its health is found out, like http:/health.  [default: tcp]")
@click.option("--weight", type=click.IntRange(1, 1000), default=1, show_default=True, help="Its share of streams.")
@click.option(
    *("--label", "labels"),
    type=LABEL,
    multiple=True,
    metavar="K=V",
    help="What policy may say about it; may be repeated.",
)
@click.option("--proxy-protocol", is_flag=True, help="It is told who calls, by the PROXY protocol, version 2.")
@max_streams_option
@max_rate_option
@pass_app
def add(
    app: App,
    name: str,
    host_name: str,
    target: Endpoint,
    port: int | None,
    check: str | None,
    weight: int,
    labels: tuple[tuple[str, str], ...],
    proxy_protocol: bool,
    max_streams: int | None,
    max_rate: int | None,
) -> None:
    """Place an instance of the service NAME on a host; several instances are balanced.

    Adding the same target again replaces all that was said about it, its port too, and ends a drain of it.
    """
    from agents.checks.spec import parse_check
    from agents.estate import operate
    from agents.operating.services import add_service
    from inventory.model import Instance
    from inventory.names import parse_service

    with option_value("--check"):
        parse_check(check, target=target, allow_exec=True)
    instance = Instance(
        service=parse_service(name),
        host=host_name,
        target=str(target),
        port=port if port is not None else target.port,
        check=check,
        weight=weight,
        labels=labels_of(labels),
        proxy_protocol=proxy_protocol,
        max_streams=max_streams,
        max_rate=max_rate,
    )

    async def work() -> Placed:
        async with operate(app.home) as operator:
            return await add_service(operator, instance)

    placed = run(work)
    if app.is_json:
        print_json({"id": instance.id, "changed": placed.is_news})
    before = placed.port_before
    moved = f", was {before}: callers of port {before} are refused from now on" if before is not None else ""
    done = f"{instance.id} is placed at port {instance.port}{moved}"
    words(done if placed.is_news else f"{instance.id} is as it was")


@service.command("import", epilog="Example: meshbridge service import checkout --tag v2 --as shop --port 80")
@click.argument("name")
@click.option("--via", multiple=True, metavar="GATEWAY", help="Who reaches it; may be repeated.  [default: all]")
@click.option("--tag", "tags", multiple=True, metavar="T", help="Only instances with this tag; may be repeated.")
@click.option("--as", "service_name", metavar="NAME", help="Its name in the namespace.  [default: that in Consul]")
@click.option("--port", type=PORT, metavar="N", help="Its port in the namespace.  [default: its instances']")
@click.option(
    *("--label", "labels"),
    type=LABEL,
    multiple=True,
    metavar="K=V",
    help="What policy may say about it; may be repeated.",
)
@max_streams_option
@max_rate_option
@click.option("--allow-loopback", is_flag=True, help="Also instances on the gateway's own machine.")
@pass_app
def import_service(
    app: App,
    name: str,
    via: tuple[str, ...],
    tags: tuple[str, ...],
    service_name: str | None,
    port: int | None,
    labels: tuple[tuple[str, str], ...],
    max_streams: int | None,
    max_rate: int | None,
    allow_loopback: bool,
) -> None:
    """Bring in the service NAME that others registered in Consul.

    Its passing instances are reached through gateways, and followed as they come and go. Importing it again replaces
    what was said about it.
    """
    from agents.estate import operate
    from agents.operating import services
    from inventory.authority import ImportBody
    from inventory.model import Import
    from inventory.names import parse_gateway, parse_service

    with option_value("--via"):
        gateways = [parse_gateway(gateway) for gateway in dict.fromkeys(via)]
    with option_value("--as" if service_name is not None else "NAME"):
        service = parse_service(service_name if service_name is not None else name)
    wanted = Import(
        service=service,
        gateway=gateways[0] if gateways else "any",
        source=name,
        tags=tuple(sorted(set(tags))),
        port=port,
        labels=labels_of(labels),
        max_streams=max_streams,
        max_rate=max_rate,
        allow_loopback=allow_loopback,
    )
    ImportBody(imported=wanted)  # says what is wrong with it before anything is opened

    async def work() -> list[Import]:
        async with operate(app.home) as operator:
            return await services.import_service(operator, wanted, gateways)

    news = run(work)
    if app.is_json:
        print_json({"service": service, "source": name, "changed": bool(news)})
    through = ", ".join(one.gateway for one in news)
    words(f"{service} is imported through {through}" if news else f"{service} is as it was")


@service.command("list", epilog="Example: meshbridge service list --host vm1")
@host_option
@pass_app
def list_services(app: App, host_name: str | None) -> None:
    """List the instances that operators placed, and what is imported from Consul."""
    from agents.estate import inspect

    async def work() -> tuple[list[Instance], list[Import], list[Publication]]:
        async with inspect(app.home) as (_, _, log):
            imports = [wanted for _, wanted in sorted(log.state.imports.items()) if host_name is None]
            published = [p for _, p in sorted(log.state.publications.items()) if host_name in (None, p.host)]
            placed = [i for _, i in sorted(log.state.instances.items()) if host_name in (None, i.host)]
            return placed, imports, published

    _print_service(app, *run(work))


@service.command(epilog="Example: meshbridge service show web")
@click.argument("name")
@pass_app
def show(app: App, name: str) -> None:
    """Show the instances and imports of the service NAME."""
    from agents.estate import inspect
    from agents.operating.services import Which, known_service
    from inventory.names import parse_service

    canonical = parse_service(name)

    async def work() -> tuple[list[Instance], list[Import], list[Publication]]:
        async with inspect(app.home) as (_, _, log):
            published = [p for _, p in sorted(log.state.publications.items()) if p.service == canonical]
            # One that hosts serve by their own word may be published, and is not in the log.
            if published and not _is_known(log.state, canonical):
                return [], [], published
            return (*known_service(log.state, Which(canonical)), published)

    _print_service(app, *run(work))


def _is_known(state: AuthorityState, name: str) -> bool:
    placed = any(one.service == name for one in state.instances.values())
    return placed or any(one.service == name for one in state.imports.values())


def _print_service(app: App, instances: list[Instance], imports: list[Import], publications: list[Publication]) -> None:
    published = [publication_as_json(one) for one in publications]
    if app.is_json:
        print_json([*map(_as_json, instances), *map(_import_as_json, imports), *published])
        return
    rows: list[tuple[object, ...]] = [
        (i.service, i.host, i.target, i.port, i.check or "tcp", i.weight, _limit(i), i.labels, i.draining or "")
        for i in instances
    ]
    rows += [
        (w.service, f"gateway:{w.gateway}", w.check, w.port or "its own", "consul", "", _limit(w), w.labels, "")
        for w in imports
    ]
    rows += [(p["service"], p["host"], p["target"], p["port"], "published", "", "", {}, "") for p in published]
    print_table(("SERVICE", "HOST", "TARGET", "PORT", "CHECK", "WEIGHT", "LIMIT", "LABELS", "DRAINING"), rows)


def _limit(taken: Instance | Import) -> str:
    """What each instance takes: `20 at once, 5/s`."""
    parts = [f"{taken.max_streams} at once"] if taken.max_streams is not None else []
    return ", ".join(parts + ([f"{taken.max_rate}/s"] if taken.max_rate is not None else []))


def _as_json(instance: Instance) -> dict[str, object]:
    """Every field, defaults included, so that a script finds them always."""
    return {"id": instance.id, **{name: getattr(instance, name) for name in instance.__struct_fields__}}


def _import_as_json(wanted: Import) -> dict[str, object]:
    """The fields of an instance, so that a script finds them as well, and those of the import."""
    shown = {name: getattr(wanted, name) for name in wanted.__struct_fields__}
    place = {"host": f"gateway:{wanted.gateway}", "target": wanted.check, "check": wanted.check}
    return {"id": wanted.id, "weight": 1, "draining": None, **place, **shown, "imported": True}


@service.command(epilog="Example: meshbridge service drain web --host vm1 --reason 'new version'")
@click.argument("name")
@host_option
@target_option
@click.option("--reason", default="drained by an operator", show_default=True)
@pass_app
def drain(app: App, name: str, host_name: str | None, target: Endpoint | None, reason: str) -> None:
    """No new streams go to the instances of NAME; live ones go on. `service resume` ends it."""
    from agents.operating.services import drain_service

    touched = _change(app, _which(name, host_name, target), partial(drain_service, reason=reason))
    words(f"draining: {', '.join(i.id for i in touched)}")


@service.command(epilog="Example: meshbridge service resume web")
@click.argument("name")
@host_option
@target_option
@pass_app
def resume(app: App, name: str, host_name: str | None, target: Endpoint | None) -> None:
    """Put the instances of NAME back into service."""
    from agents.operating.services import resume_service

    touched = _change(app, _which(name, host_name, target), resume_service)
    words(f"in service: {', '.join(i.id for i in touched)}")


@service.command(epilog="Example: meshbridge service remove web --host vm1 --target 127.0.0.1:9000")
@click.argument("name")
@host_option
@target_option
@click.option("--via", metavar="GATEWAY", help="Only the import through this gateway.")
@pass_app
def remove(app: App, name: str, host_name: str | None, target: Endpoint | None, via: str | None) -> None:
    """Take the instances and imports of NAME out of the estate."""
    from agents.estate import operate
    from agents.operating.services import remove_service

    which = dataclasses.replace(_which(name, host_name, target), via=via)

    async def work() -> tuple[list[Instance], list[Import]]:
        async with operate(app.home) as operator:
            return await remove_service(operator, which)

    instances, imports = run(work)
    gone = [*(i.id for i in instances), *(f"{wanted.id} ({wanted.check})" for wanted in imports)]
    words(f"removed: {', '.join(gone)}")


def _which(name: str, host_name: str | None, target: Endpoint | None) -> Which:
    from agents.operating.services import Which
    from inventory.names import parse_service

    return Which(parse_service(name), host_name, str(target) if target is not None else None)


def _change(app: App, which: Which, change: Change) -> list[Instance]:
    from agents.estate import operate

    async def work() -> list[Instance]:
        async with operate(app.home) as operator:
            return await change(operator, which)

    return run(work)
