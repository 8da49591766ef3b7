"""I/O: the command `meshbridge`: the list of its commands, and the one place where errors are printed.

exit code  0  done
           1  the answer is no: denied, unhealthy, not drained, no such thing
           2  usage; the value of an option that cannot be parsed
          64  configuration or input that cannot be used
          69  something needed is unavailable
          70  our bug; MESHBRIDGE_DEBUG=1 shows the traceback, which nobody sees otherwise
         130  interrupted
         141  whoever read the output went away, as with any Unix program that SIGPIPE ends
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from cli.app import HOME_TYPE, OUTPUT_TYPE, App, accept_everywhere, default_home, innermost
from inventory.errors import MeshError, Unavailable

PROGRAM = "meshbridge"

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("cli.init:init", "Make a trust domain here, with its first gateway."),
    "gateway": ("cli.gateway:gateway", "Gateways: record, invite, remove, enrol, run."),
    "agent": ("cli.agent:agent", "Enrol this machine, and run its agent."),
    "host": ("cli.host:host", "Hosts: record, invite, drain, revoke, remove."),
    "client": ("cli.client:client", "Clients that know nothing of us: record, list, remove."),
    "service": ("cli.service:service", "Services: place and remove instances."),
    "policy": ("cli.policy:policy", "The policy: check, apply, show, explain; the audit trail."),
    "registry": ("cli.registry:registry", "The registry: back it up, restore it, move it."),
    "status": ("cli.status:status", "How this node is."),
    "doctor": ("cli.doctor:doctor", "Look for what is wrong here, and say what to do."),
    "resolve": ("cli.names:resolve", "The address of a service on this host."),
    "dial": ("cli.names:dial", "Join stdin and stdout to a service."),
    "flows": ("cli.flows:flows", "The streams that this node carried."),
    "discover": ("cli.discover:discover", "What this box talks to, as a proposal of services and rules."),
    "demo": ("cli.demo:demo", "Show the whole thing on this machine, with real processes and traffic."),
}
"""Name -> where it is, and its line in the help. A command's module is imported when the command is used."""


class LazyGroup(click.Group):
    """Knows its commands by COMMANDS; help about all of them imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return accept_everywhere(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0][:64], COMMANDS, n=1)
            ctx.fail(f"no such command {args[0][:64]!r}" + (f"; is {close[0]} meant?" if close else ""))
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: meshbridge --home op init --domain t.internal --gateway gw1=127.0.0.1:7443",
)
@click.option(
    "--home",
    type=HOME_TYPE,
    envvar="MESHBRIDGE_HOME",
    metavar="DIR",
    help="The node's home.  [env: MESHBRIDGE_HOME; default: /etc/meshbridge for root, ~/.config/meshbridge else]",
)
@click.option("-o", "--output", type=OUTPUT_TYPE, default="table", help="How data is printed.")
@click.version_option(package_name=PROGRAM, prog_name=PROGRAM)
@click.pass_context
def root(ctx: click.Context, home: Path | None, output: Literal["table", "json"]) -> None:
    """Services on hosts that cannot reach each other talk by name, under one signed policy."""
    ctx.obj = App(home or default_home(), output)


def print_error(what: str, where: str = "", hint: str = "") -> None:
    """As every error is printed: what, where, and what to do next. Never fails, even with stderr gone."""
    try:
        click.echo(f"{PROGRAM}: {where}: {what}" if where else f"{PROGRAM}: {what}", err=True)
        if hint:
            click.echo(f"  hint: {hint}", err=True)
    except OSError:
        return


def run(args: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code. Prints whatever goes wrong."""
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - it is the process's stdin from here on
    if sys.stdout is None or sys.stderr is None:
        # Before anything is done: a token that nobody can read must not be made.
        print_error("stdout or stderr is closed", hint="give the command somewhere to print to")
        return Unavailable.exit_code
    try:
        try:
            result = root.main(args, prog_name=PROGRAM, standalone_mode=False)
            sys.stdout.flush()
        except BaseExceptionGroup as group:
            raise innermost(group) from None
    except MeshError as exc:
        print_error(exc.what, exc.where, exc.hint)
        return exc.exit_code
    except click.UsageError as exc:
        return _usage(exc)
    except click.ClickException as exc:
        print_error(exc.format_message())
        return 64
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        return _nobody_reads()
    except OSError as exc:
        if exc.errno not in _OUTPUT_FAILED:
            return _bug(exc)
        _nobody_reads()
        hint = "what the command changed is done; look before you repeat it"
        print_error(f"stdout cannot be written: {exc.strerror}", hint=hint)
        return Unavailable.exit_code
    except SystemExit as exc:
        # click's own way to end when nobody reads what it prints.
        return _nobody_reads() if exc.code == 1 else int(exc.code or 0)
    except Exception as exc:
        return _bug(exc)
    return result if isinstance(result, int) else 0


_OUTPUT_FAILED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})
"""Files of ours report these as MeshError; what is left of them is stdout's."""


_SIGPIPE_ENDED = 128 + 13
"""Neither 0, which would turn a `no` that nobody read into a yes, nor 1, which is an answer."""


def _usage(exc: click.UsageError) -> int:
    path = exc.ctx.command_path if exc.ctx is not None else PROGRAM
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        click.echo(exc.format_message(), err=True)
        return 2
    print_error(exc.format_message().rstrip("."), path.removeprefix(PROGRAM).strip(), f"{path} --help")
    return 2


def _nobody_reads() -> int:
    """Whoever read our output has what it wanted; the interpreter must not complain about it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return _SIGPIPE_ENDED


def _bug(exc: Exception) -> int:
    """One line. Not the error's text, which may hold anything; where it happened is enough to report it."""
    if os.environ.get("MESHBRIDGE_DEBUG") == "1":
        traceback.print_exception(exc)
    frames = traceback.extract_tb(exc.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
    hint = "please report it with what you did; MESHBRIDGE_DEBUG=1 shows more"
    print_error(f"this is a bug of ours: {type(exc).__name__} in {place}", hint=hint)
    return 70


def main(args: Sequence[str] | None = None) -> None:
    """The entry point of the installed command."""
    sys.exit(run(args))


if __name__ == "__main__":
    main()
