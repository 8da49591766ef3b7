"""I/O: `meshbridge agent`: enrol this machine, run its agent."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from cli.app import App, Written, pass_app, run, words
from cli.output import print_fields, print_json
from cli.tokens import read_token
from cli.values import ENDPOINT, LISTEN, SLICE
from cli.workers import worker_count, workers_option


@click.group()
def agent() -> None:
    """Enrol this machine, and run its agent."""


@agent.command(epilog="Example: meshbridge host add vm1 | ssh vm1 meshbridge agent join -")
@click.argument("given", metavar="TOKEN")
@click.option("--listen", type=LISTEN, metavar="ADDR:PORT", help="Take tunnels here.  [default: only dial out]")
@click.option("--advertise", type=ENDPOINT, metavar="ADDR:PORT", help="Where other hosts dial it.  [default: --listen]")
@click.option(
    "--addresses",
    type=SLICE,
    metavar="CIDR",
    help="Slice of 127.0.0.0/8 for services.  [default: 127.96.0.0/11]",
)
@click.option(
    "--dns",
    type=LISTEN,
    metavar="ADDR:PORT",
    help="DNS server.  [default: first address of the slice, port 5300]",
)
@pass_app
def join(
    app: App, given: str, listen: str | None, advertise: str | None, addresses: str | None, dns: str | None
) -> None:
    """Enrol this machine with TOKEN, or with - from stdin, which keeps it out of the list of processes.

    It may be repeated with the same token until it has succeeded.
    """
    from importlib.metadata import version

    from agents.control.joining import JoinOptions
    from agents.control.joining import join as enrol

    options = JoinOptions(listen=listen, advertise=advertise, addresses=addresses, dns=dns)
    text = read_token("host add") if given == "-" else given
    config = run(partial(enrol, text, app.home, options, version=version("meshbridge"), say=words))
    joined = {
        "name": config.name,
        "trust_domain": config.trust_domain,
        "gateways": {gateway.name: gateway.address for gateway in config.gateways},
        "listen": config.listen,
        "advertise": config.advertise,
        "addresses": config.addresses,
        "home": str(app.home),
    }
    if app.is_json:
        print_json(joined)
    else:
        print_fields(joined)
    words(f"next: meshbridge --home {app.home} agent run")


@agent.command("run", epilog="Example: meshbridge --home vm1 agent run --metrics 127.0.0.1:9100")
@workers_option
@click.option(
    "--metrics",
    type=LISTEN,
    metavar="ADDR:PORT",
    help="Serve /metrics, /livez and /readyz here.  [default: nowhere]",
)
@click.option("--dns", type=LISTEN, metavar="ADDR:PORT", help="DNS server for this run.")
@click.option(
    "--hosts-file",
    is_flag=False,
    flag_value="/etc/hosts",
    type=Written(dir_okay=False, path_type=Path),
    metavar="[PATH]",
    help="Keep a fenced block of names in this file; /etc/hosts when no PATH is given.",
)
@pass_app
def run_agent(app: App, workers: int | None, metrics: str | None, dns: str | None, hosts_file: Path | None) -> int:
    """Run the agent in the foreground. SIGTERM drains, SIGHUP reloads."""
    from agents import host_agent

    count = worker_count(workers)
    return run(partial(host_agent.run, app.home, workers=count, metrics=metrics, dns=dns, hosts_file=hosts_file))
