"""I/O: what every command shares: the home, the output format, and how a command runs asynchronous work.

Terminal rules: data goes to stdout, words to stderr; a table is for people and only drawn on a terminal; JSON is
complete and stable; errors are raised as MeshError and printed in one place, `cli.main`. Only click is imported at the
top of files in this folder: everything else is imported inside the command that needs it, so that help and completion
answer at once.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from cli.home_owner import Owner

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class App:
    home: Path
    output: Literal["table", "json"]
    owner: Owner | None = None
    """Who root became, because the home is theirs."""

    @property
    def is_json(self) -> bool:
        return self.output == "json"


pass_app_as_it_is = click.make_pass_decorator(App)
"""For what needs root even on a home of another user: it has to open that home by `cli.home_owner.acting_as`."""


def pass_app(command: Callable[Concatenate[App, P], T]) -> Callable[P, T]:
    """Gives the command its App, once all options are known; if root runs it, as the user whose home it is about."""

    @click.pass_context
    def with_app(ctx: click.Context, /, *args: P.args, **kwargs: P.kwargs) -> T:
        app = ctx.find_object(App)
        assert app is not None, "only commands below the root command have it"
        if os.geteuid() == 0:
            from cli.home_owner import become, owner_of

            owner = owner_of(app.home)
            if owner is not None:
                become(owner)
                _check_files(ctx, owner)
                app = replace(app, owner=owner)
        return ctx.invoke(command, app, *args, **kwargs)

    return functools.update_wrapper(with_app, command)


class Written(click.Path):
    """A file that the command writes. All other files are read."""


def _check_files(ctx: click.Context, owner: Owner) -> None:
    """Raises InputError for a file on the command line that is root's to use and not the owner's."""
    from cli.home_owner import check_readable, check_writable

    for param in ctx.command.params:
        value = ctx.params.get(param.name or "")
        if not isinstance(param.type, click.Path) or value is None or str(value) == "-":
            continue
        if isinstance(param.type, Written):
            check_writable(owner, Path(value))
        else:
            check_readable(owner, Path(value), allow_dash=param.type.allow_dash)


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
