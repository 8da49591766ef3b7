"""I/O: `meshbridge status`: how this node is. What is shown is what the node says; nothing is decided here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import click

from cli.app import App, pass_app, run
from cli.output import moment, print_fields, print_json, print_table, text


@click.command(epilog="Example: meshbridge -o json status")
@pass_app
def status(app: App) -> None:
    """How this node is: identity, gateways, tunnels, services, warnings.

    Works with the node down as well: then it shows what is on disk, and ends with exit code 69.
    """
    from agents.admin.client import call
    from agents.operating.on_disk import on_disk
    from inventory.errors import Unavailable

    try:
        answer = {"running": True, **run(partial(call, app.home, "status"))}
    except Unavailable as exc:
        _print(app, run(partial(on_disk, app.home)))
        raise exc
    _print(app, answer)


def _print(app: App, answer: Mapping[str, Any]) -> None:
    if app.is_json:
        print_json(answer)
        return
    print_fields({name: _shown(name, value) for name, value in answer.items() if not _is_section(value)})
    for name, value in answer.items():
        if name != "warnings" and _is_section(value):
            _print_section(name, value)
    for warning in answer.get("warnings", ()):
        click.echo()
        click.echo(f"{text(warning.get('severity', 'warning'))}: {text(warning.get('text', ''))}")


def _shown(name: str, value: object) -> object:
    return moment(value) if name.endswith(("_at", "_time")) and isinstance(value, (int, float)) else value


def _is_section(value: object) -> bool:
    """A list of things, which becomes a table; single facts stand at the top."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _print_section(name: str, items: list[dict[str, Any]]) -> None:
    click.echo()
    title = name.replace("_", " ")
    if not items:
        click.echo(f"{title}: none")
        return
    click.echo(f"{title}:")
    columns = list(dict.fromkeys(key for item in items for key in item))
    headers = [column.replace("_", " ").upper() for column in columns]
    print_table(headers, [[item.get(column) for column in columns] for item in items])
