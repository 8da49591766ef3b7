"""I/O: `meshbridge gateway`: gateways on record, from the operator's home; enrol this machine as one; run it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.app import App, pass_app, run, words
from cli.consul_options import consul_options, consul_place, registry_words
from cli.output import moment, print_fields, print_json, print_table
from cli.tokens import read_token, ttl_option
from cli.values import LISTEN, SITE, grammar
from cli.workers import worker_count, workers_option

if TYPE_CHECKING:
    from agents.operating.gateways import GatewayView
    from agents.operating.invitations import Invitation


@click.group()
def gateway() -> None:
    """Gateways: record, invite, remove, enrol, run."""


@gateway.command(epilog="Example: meshbridge gateway add gw2=192.0.2.2:7443 --issuer --site dc2")
@click.argument(
    "named",
    metavar="NAME=ADDR:PORT",
    type=grammar("agents.operating.bootstrap:parse_named_gateway", keeps_text=True),
)
@click.option("--issuer", is_flag=True, help="It may issue certificates: it is given the issuer's key, sealed.")
@click.option("--site", type=SITE, metavar="SITE", help="Where it stands.")
@ttl_option
@pass_app
def add(app: App, named: str, issuer: bool, site: str | None, ttl: float) -> None:
    """Record a gateway as others dial it, and print a token for it: one use, and nothing else on stdout.

    Adding a gateway again replaces its address, site and role by those given, and prints a fresh token.
    """
    from agents.estate import operate
    from agents.operating.bootstrap import parse_named_gateway
    from agents.operating.gateways import add_gateway
    from inventory.model import Gateway

    name, address = parse_named_gateway(named)
    record = Gateway(name=name, address=str(address), issuer=issuer, site=site)

    async def work() -> Invitation:
        async with operate(app.home) as operator:
            return await add_gateway(operator, record, ttl=ttl)

    invitation = run(work)
    if invitation.changes:
        words(f"{invitation.name} was on record: {'; '.join(invitation.changes)}")
    _print_token(app, invitation)


@gateway.command(epilog="Example: meshbridge gateway token gw2 --ttl 10m")
@click.argument("name")
@ttl_option
@pass_app
def token(app: App, name: str, ttl: float) -> None:
    """Print a fresh token for the gateway NAME; older ones stop working."""
    from agents.estate import operate
    from agents.operating.gateways import invite_gateway
    from inventory.names import parse_gateway

    canonical = parse_gateway(name)

    async def work() -> Invitation:
        async with operate(app.home) as operator:
            return await invite_gateway(operator, canonical, ttl=ttl)

    _print_token(app, run(work))


def _print_token(app: App, invitation: Invitation) -> None:
    if app.is_json:
        print_json({"gateway": invitation.name, "token": invitation.token, "expires_at": invitation.expires_at})
    else:
        click.echo(invitation.token)
    if invitation.lifted:
        words(f"{invitation.name} was removed and may come back; the keys it had stay revoked")
    words(f"good until {moment(invitation.expires_at)}, once, for {invitation.name}; use it with: gateway join -")


@gateway.command("list", epilog="Example: meshbridge -o json gateway list")
@pass_app
def list_gateways(app: App) -> None:
    """List the gateways on record."""
    from agents.estate import inspect
    from agents.operating.gateways import view_gateways

    async def work() -> list[GatewayView]:
        async with inspect(app.home) as (_, registry, log):
            return await view_gateways(registry, log.state)

    views = run(work)
    if app.is_json:
        print_json(views)
        return
    rows = [(v.name, v.state, v.address, v.site, "yes" if v.issuer else "no") for v in views]
    print_table(("NAME", "STATE", "ADDRESS", "SITE", "ISSUER"), rows)


@gateway.command(epilog="Example: meshbridge gateway show gw2")
@click.argument("name")
@pass_app
def show(app: App, name: str) -> None:
    """Show one gateway: its record and its enrolment."""
    import msgspec

    from agents.estate import inspect
    from agents.operating.gateways import view_gateway
    from inventory.names import parse_gateway

    canonical = parse_gateway(name)

    async def work() -> GatewayView:
        async with inspect(app.home) as (_, registry, log):
            return await view_gateway(registry, log.state, canonical)

    view = run(work)
    if app.is_json:
        print_json(view)
        return
    times = {name: moment(getattr(view, name)) for name in ("enrolled_at", "token_expires_at")}
    print_fields({**msgspec.to_builtins(view), **times})


@gateway.command("ssh-ca", epilog="Example: meshbridge gateway ssh-ca gw1 | ssh root@aix1 'cat >> /etc/ssh/bridge_ca'")
@click.argument("name", required=False)
@pass_app
def ssh_ca(app: App, name: str | None) -> None:
    """Print the public key of the gateway's own ssh certificate authority, by which it logs in to agentless hosts.

    On such a host: `TrustedUserCAKeys FILE` in sshd_config, or one line in that user's authorized_keys,
    `cert-authority` and the key. Without NAME: the gateway of this home, or the only one.
    """
    from agents.estate import operate
    from agents.operating.reaches import keys_of_gateway, one_gateway
    from inventory.names import parse_gateway

    canonical = parse_gateway(name) if name is not None else None

    async def work() -> tuple[str, str]:
        async with operate(app.home) as operator:
            chosen = one_gateway(operator, canonical)
            return chosen, (await keys_of_gateway(operator, chosen)).ssh_ca

    chosen, line = run(work)
    if app.is_json:
        print_json({"gateway": chosen, "ssh_ca": line})
    else:
        click.echo(f"{line} meshbridge-{chosen}")


@gateway.command(epilog="Example: meshbridge gateway remove gw2")
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Take the gateway NAME out of the estate: hosts leave it, and its keys are refused from now on.

    If it held the issuer's key and may be in other hands, that key is too: see docs/consul.md.
    """
    from agents.estate import operate
    from agents.operating.gateways import reached_by, remove_gateway
    from inventory.names import parse_gateway

    canonical = parse_gateway(name)

    async def work() -> tuple[bool, list[str]]:
        async with operate(app.home) as operator:
            return (await remove_gateway(operator, canonical)).issuer, reached_by(operator.state, canonical)

    held, alone = run(work)
    words(f"{canonical} is removed; hosts leave it by themselves")
    if alone:
        words(f"nobody reaches {', '.join(alone)} any more: meshbridge host add NAME --reach URL --via ANOTHER")
    if held:
        words("it may hold the issuer's key: destroy its home, or see docs/consul.md if you cannot")


@gateway.command(epilog="Example: meshbridge gateway add gw2=192.0.2.2:7443 | ssh gw2 meshbridge gateway join - ...")
@click.argument("given", metavar="TOKEN")
@click.option("--listen", type=LISTEN, metavar="ADDR:PORT", help="What the gateway binds.  [default: its address]")
@consul_options
@pass_app
def join(
    app: App,
    given: str,
    listen: str | None,
    consul_address: tuple[str, ...],
    consul_token_file: Path | None,
    consul_ca: Path | None,
    consul_prefix: str | None,
    consul_catalog: bool | None,
) -> None:
    """Enrol this machine as a gateway with TOKEN, or with - from stdin, which keeps it out of the list of processes.

    It needs the estate's registry in Consul. It may be repeated with the same token until it has succeeded.
    """
    from importlib.metadata import version

    from agents.control.gateway_joining import GatewayOptions, join_gateway

    named = any(option for option in (consul_address, consul_token_file, consul_ca, consul_prefix))
    place = consul_place(named, consul_address, consul_token_file, consul_ca, consul_prefix, catalog=consul_catalog)
    text = read_token("gateway add") if given == "-" else given
    options = GatewayOptions(listen=listen, consul=place)
    joined = run(partial(join_gateway, text, app.home, options, version=version("meshbridge"), say=words))
    config = joined.config
    shown = {
        "name": config.name,
        "trust_domain": config.trust_domain,
        "listen": config.listen,
        "issuer": "yes" if joined.issues else "no",
        "registry": registry_words(config.consul),
        "home": str(app.home),
    }
    if app.is_json:
        print_json(shown)
    else:
        print_fields(shown)
    words(f"next: meshbridge --home {app.home} gateway run")


@gateway.command("run", epilog="Example: meshbridge --home op gateway run --metrics 127.0.0.1:9101")
@workers_option
@click.option(
    "--metrics",
    type=LISTEN,
    metavar="ADDR:PORT",
    help="Serve /metrics, /livez and /readyz here.  [default: nowhere]",
)
@pass_app
def run_gateway(app: App, workers: int | None, metrics: str | None) -> int:
    """Run the gateway in the foreground. SIGTERM drains, SIGHUP reloads."""
    from agents import gateway_agent

    return run(partial(gateway_agent.run, app.home, workers=worker_count(workers), metrics=metrics))
