"""Pure: commands as a person would type them, parsed as far as the command line can without running anything."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from agents.checks.spec import parse_check
from cli.app import App
from cli.main import root
from inventory.endpoints import Endpoint


def parse_typed(line: str) -> tuple[str, dict[str, Any]]:
    """The command (`service add`) and its parameters. Options, their values and a check in them are as they must be.

    Raises:
        click.ClickException: the command line does not understand it.
        MeshError: its check is none.
    """
    program, *args = shlex.split(line)
    assert program == "meshbridge", line
    command: click.Command = root
    context = root.make_context("meshbridge", args, obj=App(Path("/nowhere"), "table"))
    names = []
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None and name is not None, line
        command, context = found, found.make_context(name, rest, parent=context)
        names.append(name)
    given = context.params
    if names == ["service", "add"]:
        assert isinstance(given["target"], Endpoint)
        parse_check(given["check"], target=given["target"], allow_exec=True)
    return " ".join(names), given
