"""I/O: `meshbridge init`: a new trust domain in this home."""

from __future__ import annotations

from pathlib import Path

import click

from cli.app import App, pass_app, run, words
from cli.consul_options import consul_options, consul_place, registry_words
from cli.output import print_fields, print_json
from cli.values import DOMAIN, ENDPOINT, duration, grammar, option_value


@click.command(epilog="Example: meshbridge init --domain corp.internal --gateway gw1=192.0.2.1:7443")
@click.option("--domain", type=DOMAIN, required=True, metavar="TD", help="The trust domain, like corp.internal.")
@click.option(
    "--gateway",
    type=grammar("agents.operating.bootstrap:parse_named_gateway", keeps_text=True),
    required=True,
    metavar="NAME=ADDR:PORT",
    help="The first gateway, as others dial it.",
)
@click.option(
    "--listen",
    type=ENDPOINT,
    metavar="ADDR:PORT",
    help="What the gateway binds.  [default: its address]",
)
@click.option(
    "--namespace", type=DOMAIN, default="bridge.internal", show_default=True, help="What service names end in."
)
@click.option("--operator", metavar="NAME", help="Your name in the audit trail.  [default: your user name]")
@click.option("--certificate-lifetime", type=duration, default="24h", show_default=True, metavar="DURATION")
@click.option("--registry", type=click.Choice(["embedded", "consul"]), default="embedded", show_default=True)
@consul_options
@pass_app
def init(
    app: App,
    domain: str,
    gateway: str,
    listen: str | None,
    namespace: str,
    operator: str | None,
    certificate_lifetime: float,
    registry: str,
    consul_address: tuple[str, ...],
    consul_token_file: Path | None,
    consul_ca: Path | None,
    consul_prefix: str | None,
    consul_catalog: bool | None,
) -> None:
    """Make a trust domain here: operator key, root, issuer, registry, first gateway.

    The home is made whole or not at all. Keep a copy of operator.key and root.key somewhere safe.
    """
    from agents.estate import Home, check_certificate_lifetime
    from agents.operating import bootstrap

    with option_value("--certificate-lifetime"):
        check_certificate_lifetime(certificate_lifetime)
    estate = bootstrap.new_estate(
        domain=domain,
        gateway=gateway,
        operator_name=operator or _user_name(),
        namespace=namespace,
        listen=listen,
        certificate_lifetime=certificate_lifetime,
        consul=consul_place(
            registry == "consul",
            consul_address,
            consul_token_file,
            consul_ca,
            consul_prefix,
            catalog=consul_catalog,
        ),
    )
    config = run(lambda: bootstrap.init(app.home, estate))
    made = {
        "trust_domain": config.trust_domain,
        "namespace": estate.namespace,
        "genesis": config.genesis,
        "gateway": config.name,
        "address": estate.address,
        "listen": config.listen,
        "registry": registry_words(config.consul),
        "home": str(app.home),
    }
    if app.is_json:
        print_json(made)
    else:
        print_fields(made)
    words(f"keep copies of {Home(app.home).operator_key} and {Home(app.home).root_key} offline")
    words(f"next: meshbridge --home {app.home} gateway run")


def _user_name() -> str:
    import os
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
