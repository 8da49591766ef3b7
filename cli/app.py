"""I/O: what every command shares: the home, the output format, and how a command runs asynchronous work.

Terminal rules: data goes to stdout, words to stderr; a table is for people and only drawn on a terminal; JSON is
complete and stable; errors are raised as MeshError and printed in one place, `cli.main`. Only click is imported at the
top of files in this folder: everything else is imported inside the command that needs it, so that help and completion
answer at once.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class App:
    home: Path
    output: Literal["table", "json"]

    @property
    def is_json(self) -> bool:
        return self.output == "json"


pass_app = click.make_pass_decorator(App)


class _Home(click.Path):
    """A directory that this user may use, or that is not there yet."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):  # `--home "$DIR"` with nothing in DIR must not mean the current directory
            self.fail("it is empty; is a variable unset?", param, ctx)
        home = Path(os.fsdecode(super().convert(value, param, ctx)))
        _refuse_anothers(home)
        return home


def _refuse_anothers(home: Path) -> None:
    """Raises Unavailable: it is another user's."""
    owner = "its owner"
    try:
        owner = f"its owner (user {home.stat().st_uid})"
        if os.access(home, os.R_OK | os.X_OK):
            return
    except PermissionError:
        pass  # what it is in cannot be entered either
    except OSError:
        return
    from inventory.errors import Unavailable

    raise Unavailable("this home cannot be read: Permission denied", where=str(home), hint=f"run as {owner} or as root")


HOME_TYPE = _Home(file_okay=False, readable=False, path_type=Path)
OUTPUT_TYPE = click.Choice(["table", "json"])


def accept_everywhere(command: click.Command) -> click.Command:
    """Gives the command, and all below it, the options of the program: people write them last as often as first.

    The one nearest to the end counts.
    """
    if isinstance(command, click.Group):
        for child in command.commands.values():
            accept_everywhere(child)
    if _HOME_HERE not in command.params:
        command.params += [_HOME_HERE, _OUTPUT_HERE]
    return command


def _change_app(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    app = ctx.find_object(App)
    if value is not None and app is not None and param.name is not None:
        ctx.obj = replace(app, **{param.name: value})


_HOME_HERE = click.Option(
    ["--home"], type=HOME_TYPE, metavar="DIR", callback=_change_app, expose_value=False, help="The node's home."
)
_OUTPUT_HERE = click.Option(
    ["-o", "--output"], type=OUTPUT_TYPE, callback=_change_app, expose_value=False, help="How data is printed."
)


def default_home() -> Path:
    """`/etc/meshbridge` for root, `$XDG_CONFIG_HOME/meshbridge` (`~/.config/meshbridge`) for anyone else."""
    if os.geteuid() == 0:
        return Path("/etc/meshbridge")
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path("~").expanduser() / ".config")
    return Path(base) / "meshbridge"


def run(work: Callable[[], Awaitable[T]]) -> T:
    """The result of asynchronous work. An error in a group of one is raised as itself."""
    import trio

    try:
        return trio.run(work)
    except BaseExceptionGroup as group:
        raise innermost(group) from None


def innermost(error: BaseException) -> BaseException:
    """The one error to show of a group: an interrupt if there is one, and otherwise the first."""
    while isinstance(error, BaseExceptionGroup):
        interrupts = error.subgroup(KeyboardInterrupt)
        error = (interrupts or error).exceptions[0]
    return error


def words(text: str) -> None:
    """One line for people, on stderr."""
    click.echo(text, err=True)
