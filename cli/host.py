"""I/O: `meshbridge host`: hosts in the estate, from the operator's home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli.app import App, pass_app, run, words
from cli.output import moment, print_fields, print_json, print_table
from cli.reach_options import reach_options, record_agentless, refuse_halves
from cli.tokens import ttl_option
from cli.values import LABEL, SERVICE, SITE, duration, labels_of

if TYPE_CHECKING:
    from agents.operating.draining import Drained
    from agents.operating.hosts import HostView
    from agents.operating.invitations import Invitation
    from inventory.authority import Refusal


@click.group()
def host() -> None:
    """Hosts: record, invite or reach, drain, revoke, remove."""


@host.command(epilog="Example: meshbridge host add vm1 --label role=web --site dc1 --serve shop")
@click.argument("name")
@click.option(
    "--label", "labels", type=LABEL, multiple=True, metavar="K=V", help="What policy may say about it; may be repeated."
)
@click.option("--site", type=SITE, metavar="SITE", help="Where it stands.")
@click.option(
    *("--serve", "serves"),
    type=SERVICE,
    multiple=True,
    metavar="SERVICE",
    help="May offer this by its own word; repeatable.",
)
@click.option("--replace", is_flag=True, help="If it is on record: take away the labels, site, services not given.")
@ttl_option
@reach_options
@pass_app
def add(
    app: App,
    /,
    name: str,
    labels: tuple[tuple[str, str], ...],
    site: str | None,
    serves: tuple[str, ...],
    replace: bool,
    ttl: float,
    **reach: Any,
) -> None:
    """Record the host NAME and print a token for it: one use, and nothing else on stdout.

    A host that is on record keeps what is not given: repeating the command prints a fresh token and changes nothing
    else. What is given replaces what was: one --label, all its labels; one --serve, all its services.

    With --reach and --via no agent runs on it: that gateway reaches it, over ssh, TCP or TLS, and there is no token.
    Later changes of such a host need neither.
    """
    from agents.estate import operate
    from agents.operating.hosts import FIELDS, add_host, new_host
    from inventory.model import Reach
    from inventory.names import parse_host

    record = new_host(parse_host(name), labels=labels_of(labels), site=site, serves=serves)
    given = {"labels": labels, "site": site, "serves": serves}
    named = FIELDS if replace else [field for field in FIELDS if given[field]]
    if reach["reach"] is not None and reach["via"] is not None:
        record_agentless(app, record, named, anew=replace, **reach)
        return

    async def work() -> Invitation | Reach:
        async with operate(app.home) as operator:
            known = operator.state.reaches.get(record.name)
            if known is not None:
                return known
            refuse_halves(**reach)
            return await add_host(operator, record, ttl=ttl, named=named)

    invitation = run(work)
    if isinstance(invitation, Reach):
        as_it_is = {**reach, "reach": reach["reach"] or invitation.url, "via": reach["via"] or invitation.gateway}
        record_agentless(app, record, named, anew=replace, **as_it_is)
        return
    if invitation.changes:
        words(f"{invitation.name} was on record: {'; '.join(invitation.changes)}")
    _print_token(app, invitation)


@host.command(epilog="Example: meshbridge host token vm1 --ttl 10m")
@click.argument("name")
@ttl_option
@pass_app
def token(app: App, name: str, ttl: float) -> None:
    """Print a fresh token for the host NAME; older ones stop working.

    A revoked host may come back with it, under a new key.
    """
    from agents.estate import operate
    from agents.operating.hosts import invite_host
    from inventory.names import parse_host

    canonical = parse_host(name)

    async def work() -> Invitation:
        async with operate(app.home) as operator:
            return await invite_host(operator, canonical, ttl=ttl)

    _print_token(app, run(work))


def _print_token(app: App, invitation: Invitation) -> None:
    if app.is_json:
        print_json({"host": invitation.name, "token": invitation.token, "expires_at": invitation.expires_at})
    else:
        click.echo(invitation.token)
    if invitation.lifted:
        words(f"the revocation of {invitation.name} is lifted; the keys it had stay revoked")
    words(f"good until {moment(invitation.expires_at)}, once, for {invitation.name}; use it with: agent join -")


@host.command("list", epilog="Example: meshbridge -o json host list")
@pass_app
def list_hosts(app: App) -> None:
    """List the hosts on record: online or away where a gateway that reaches them runs on this home."""
    from agents.estate import inspect
    from agents.operating.hosts import view_hosts, with_presence

    async def work() -> list[HostView]:
        async with inspect(app.home) as (_, registry, log):
            return await with_presence(await view_hosts(registry, log.state), app.home)

    views = run(work)
    if app.is_json:
        print_json(views)
        return
    rows = [(v.name, v.state_now, v.via, v.site, v.labels, v.serves, len(v.instances)) for v in views]
    print_table(("NAME", "STATE", "VIA", "SITE", "LABELS", "SERVES", "INSTANCES"), rows)


@host.command(epilog="Example: meshbridge host show vm1")
@click.argument("name")
@pass_app
def show(app: App, name: str) -> None:
    """Show one host: its record, its enrolment, its instances, and refused uses of its tokens."""
    from agents.estate import inspect
    from agents.operating.hosts import refusals_of, view_host, with_presence
    from inventory.names import parse_host

    canonical = parse_host(name)

    async def work() -> tuple[HostView, list[Refusal]]:
        async with inspect(app.home) as (_, registry, log):
            [view] = await with_presence([await view_host(registry, log.state, canonical)], app.home)
            return view, await refusals_of(registry, log.state, canonical)

    view, refusals = run(work)
    if app.is_json:
        import msgspec

        print_json({**msgspec.to_builtins(view), "refusals": refusals})
        return
    fields = {name: getattr(view, name) for name in view.__struct_fields__ if name != "instances"}
    times = {name: moment(fields[name]) for name in ("enrolled_at", "token_expires_at")}
    print_fields({**fields, **times})
    if view.instances:
        click.echo()
        rows = [(i.service, i.target, i.port, i.check or "tcp", i.draining or "") for i in view.instances]
        print_table(("SERVICE", "TARGET", "PORT", "CHECK", "DRAINING"), rows)
    if refusals:
        click.echo()
        print_table(("REFUSED AT", "FROM", "WHY"), [(moment(r.at), r.source, r.reason) for r in refusals])


@host.command(epilog="Example: meshbridge host drain vm1 --deadline 5m --reason 'kernel update'")
@click.argument("name")
@click.option("--deadline", type=duration, default="10m", show_default=True, metavar="DURATION")
@click.option("--reason", default="drained by an operator", show_default=True)
@click.option("--serving-only", is_flag=True, help="No new streams to it; its own programs go on, and nothing is cut.")
@pass_app
def drain(app: App, name: str, deadline: float, reason: str, serving_only: bool) -> int:
    """Take the host NAME out of service: no new streams, live ones may end until the deadline, then are cut.

    Exit code 0 only if none had to be cut, or goes on. `host resume` puts it back.
    """
    from agents.operating.draining import drain_and_wait
    from inventory.names import parse_host

    canonical = parse_host(name)
    drained = run(
        lambda: drain_and_wait(
            app.home, canonical, deadline=deadline, reason=reason, say=words, serving_only=serving_only
        )
    )
    if app.is_json:
        print_json({"host": canonical, "cut": drained.cut, "left": drained.left})
    words(f"{canonical} is drained{_rest(drained)}")
    return 1 if drained.cut or drained.left else 0


def _rest(drained: Drained) -> str:
    if drained.cut:
        return f"; streams cut at the deadline: {drained.cut}"
    return f"; streams that go on: {drained.left}" if drained.left else ""


@host.command(epilog="Example: meshbridge host resume vm1")
@click.argument("name")
@pass_app
def resume(app: App, name: str) -> None:
    """Put the host NAME back into service."""
    from agents.estate import operate
    from agents.operating.hosts import resume_host
    from inventory.names import parse_host

    canonical = parse_host(name)

    async def work() -> bool:
        async with operate(app.home) as operator:
            return await resume_host(operator, canonical)

    words(f"{canonical} is back in service" if run(work) else f"{canonical} was not draining")


@host.command(epilog="Example: meshbridge host revoke vm1 --reason 'disk was stolen'")
@click.argument("name")
@click.option("--reason", default="revoked by an operator", show_default=True)
@pass_app
def revoke(app: App, name: str, reason: str) -> None:
    """Refuse the host NAME and its keys from now on; its live streams are cut everywhere.

    `host token NAME` lets it come back, with a new key.
    """
    from agents.estate import operate
    from agents.operating.hosts import revoke_host
    from inventory.names import parse_host

    canonical = parse_host(name)

    async def work() -> bool:
        async with operate(app.home) as operator:
            return await revoke_host(operator, canonical, reason)

    words(f"{canonical} is revoked" if run(work) else f"{canonical} was revoked already")


@host.command(epilog="Example: meshbridge host remove vm1")
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Take the host NAME and the instances on it out of the estate.

    Its key is not revoked: if the machine may be in other hands, revoke it first.
    """
    from agents.estate import operate
    from agents.operating.hosts import remove_host
    from inventory.names import parse_host

    canonical = parse_host(name)

    async def work() -> int:
        async with operate(app.home) as operator:
            return len(await remove_host(operator, canonical))

    words(f"{canonical} is removed, and {run(work)} instances with it")
