"""I/O: `meshbridge registry`: a backup of the embedded registry in one file, and the way back."""

from __future__ import annotations

from pathlib import Path

import click

from cli.app import App, pass_app, run, words
from cli.output import print_fields, print_json


@click.group()
def registry() -> None:
    """The embedded registry: back it up, restore it."""


@registry.command(epilog="Example: meshbridge --home op registry backup /var/backups/meshbridge.db")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@pass_app
def backup(app: App, file: Path) -> None:
    """Copy the registry to FILE while everything runs. An older backup there is replaced.

    Tokens that are open now cannot be used once FILE is restored. FILE holds no key: copy the home's keys apart.
    """
    from agents.operating.registry_copies import backup as copy

    copied = run(lambda: copy(app.home, file))
    if app.is_json:
        print_json({"file": str(file), "number": copied.number, "tokens_closed": copied.closed})
    words(f"{file} holds the registry up to entry {copied.number}")


@registry.command(epilog="Example: meshbridge --home op registry restore /var/backups/meshbridge.db")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--past", type=click.IntRange(min=1), metavar="NUMBER", help="Accept the loss of the entries up to this one."
)
@pass_app
def restore(app: App, file: Path, past: int | None) -> None:
    """Put the backup in FILE in the place of the registry, with the gateway stopped. The old files are kept aside.

    A backup that ends before what this gateway has seen is refused, because hosts hold the entries it lacks. With
    --past the entries up to NUMBER are given up, and what the backup says is signed again behind them.
    """
    from agents.operating.registry_copies import restore as put_back

    restored = run(lambda: put_back(app.home, file, past=past))
    fields = {
        "backup_number": restored.backup_number,
        "number": restored.number,
        "lost": "{} to {}".format(*restored.lost) if restored.lost else None,
        "old_files": str(restored.aside) if restored.aside else None,
    }
    if app.is_json:
        print_json({**fields, "lost": restored.lost})
    else:
        print_fields(fields)
    if restored.lost:
        words("what the lost entries said is gone: look at revocations first, then hosts, services and policy")
    words(f"next: meshbridge --home {app.home} gateway run")
