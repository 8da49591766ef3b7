"""I/O: `meshbridge resolve` and `meshbridge dial`: services by name, where nothing can be configured."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.app import App, pass_app, run, words
from cli.output import print_json

if TYPE_CHECKING:
    from agents.estate import HomeConfig


@click.command(epilog="Example: curl http://$(meshbridge resolve web):8080/")
@click.argument("name")
@pass_app
def resolve(app: App, name: str) -> None:
    """Print the address of the service NAME on this host, and nothing else.

    NAME is `web`, `web.bridge.internal`, or `web.dc1.bridge.internal` for one site. Without a running agent it answers
    from what this host knew last.
    """
    config = _host_config(app.home)
    found = run(partial(_resolve, app.home, config, name))
    if app.is_json:
        print_json(found)
    else:
        click.echo(found["address"])


async def _resolve(home: Path, config: HomeConfig, name: str) -> dict[str, Any]:
    from agents.admin.client import NoAnswer, call
    from agents.operating.last_known import resolve_offline

    try:
        answer: dict[str, Any] = await call(home, "resolve", name=name)
        return answer
    except NoAnswer as exc:
        found = resolve_offline(home, config, name)
        if found is None:
            raise
        words(f"from what was known last: {exc.what}")
        return found


def _host_config(home: Path) -> HomeConfig:
    from agents.estate import load_config
    from inventory.errors import InputError

    config = load_config(home)
    if config.role != "host":
        raise InputError(
            f"this is the home of {config.role} {config.name}, which calls no services",
            where=str(home),
            hint="name the home of a host's agent with --home",
        )
    return config


@click.command(epilog="Example: ssh -o ProxyCommand='meshbridge dial ssh-lpar7' lpar7")
@click.argument("name")
@pass_app
def dial(app: App, name: str) -> None:
    """Join stdin and stdout to the service NAME. Exit code 1 means that policy says no."""
    from agents.operating.dialling import connect, join_stdio

    _host_config(app.home)
    join_stdio(run(partial(connect, app.home, name)))
