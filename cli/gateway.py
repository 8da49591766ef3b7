"""I/O: `meshbridge gateway`: run a gateway."""

from __future__ import annotations

from functools import partial

import click

from cli.app import App, pass_app, run
from cli.values import LISTEN
from cli.workers import worker_count, workers_option


@click.group()
def gateway() -> None:
    """Run a gateway."""


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
