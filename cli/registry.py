"""I/O: `meshbridge registry`: a backup of the registry in one file, the way back, and moves into Consul and out."""

from __future__ import annotations

from pathlib import Path

import click

from cli.app import App, Written, pass_app, run, words
from cli.consul_options import consul_options, consul_place, registry_words
from cli.output import print_fields, print_json


@click.group()
def registry() -> None:
    """The registry: back it up, restore it, move it into Consul or out of it."""


@registry.command(epilog="Example: meshbridge --home op registry backup /var/backups/meshbridge.db")
@click.argument("file", type=Written(dir_okay=False, path_type=Path))
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


@registry.command(
    epilog="Example: meshbridge --home op registry copy --from embedded --to consul --consul-address http://127.0.0.1:8500"
)
@click.option("--from", "source", type=click.Choice(["embedded", "consul"]), required=True, help="Where it is.")
@click.option("--to", "target", type=click.Choice(["embedded", "consul"]), required=True, help="Where it is to be.")
@consul_options
@pass_app
def copy(
    app: App,
    source: str,
    target: str,
    consul_address: tuple[str, ...],
    consul_token_file: Path | None,
    consul_ca: Path | None,
    consul_prefix: str | None,
    consul_catalog: bool | None,
) -> None:
    """Move the estate's registry between this home and Consul, with the gateway stopped.

    All of it is copied, verified and compared before this home uses it. The old one is closed to changes and kept.
    """
    from agents.operating import registry_moves

    if source == target:
        raise click.UsageError("--from and --to are the same")
    place = consul_place(
        target == "consul",
        consul_address,
        consul_token_file,
        consul_ca,
        consul_prefix,
        catalog=consul_catalog,
    )
    if place is not None:
        moved = run(lambda: registry_moves.move_to_consul(app.home, place))
    else:
        moved = run(lambda: registry_moves.move_home(app.home))
    fields = {
        "registry": registry_words(place),
        "records": moved.records,
        "number": moved.number,
        "old_files": str(moved.aside) if moved.aside else None,
    }
    if app.is_json:
        print_json(fields)
    else:
        print_fields(fields)
    words(f"next: meshbridge --home {app.home} gateway run")
