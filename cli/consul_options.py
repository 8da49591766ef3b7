"""I/O: the options that name a registry in Consul, the same for `init` and `registry copy`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from inventory.registries.consul_place import ConsulPlace

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)


def consul_options(command: F) -> F:
    """Adds them as `consul_address`, `consul_token_file`, `consul_ca`, `consul_prefix` and `consul_catalog`."""
    options = (
        click.option(
            "--consul-address",
            metavar="URL",
            multiple=True,
            help="Consul's HTTP API, like https://consul.example:8501. Give it once for each server of a cluster.",
        ),
        click.option("--consul-token-file", metavar="FILE", type=_FILE, help="Where the ACL token is, 0600."),
        click.option(
            "--consul-ca", metavar="FILE", type=_FILE, help="CA of Consul's certificate.  [default: system's]"
        ),
        click.option("--consul-prefix", metavar="PREFIX", help="Folder of Consul's KV.  [default: meshbridge/]"),
        click.option(
            "--consul-catalog/--no-consul-catalog",
            default=None,
            help="Show hosts and instances in Consul's catalog.  [default: yes]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def consul_place(
    is_wanted: bool,
    addresses: tuple[str, ...],
    token_file: Path | None,
    ca: Path | None,
    prefix: str | None,
    *,
    catalog: bool | None = None,
) -> ConsulPlace | None:
    """What the options say; None when no registry in Consul is wanted.

    Raises:
        click.UsageError: an option too many, or no address.
        InputError: one of them cannot be used.
    """
    if not is_wanted:
        if addresses or any(option is not None for option in (token_file, ca, prefix, catalog)):
            raise click.UsageError("the --consul options are for a registry in Consul")
        return None
    if not addresses:
        raise click.UsageError("a registry in Consul needs --consul-address")
    from inventory.registries.consul_place import DEFAULT_PREFIX, ConsulPlace

    return ConsulPlace(
        address=addresses[0],
        others=addresses[1:],
        prefix=prefix or DEFAULT_PREFIX,
        token_file=str(token_file.absolute()) if token_file else None,
        ca_file=str(ca.absolute()) if ca else None,
        catalog=catalog is not False,
    )


def registry_words(place: ConsulPlace | None) -> str:
    return "embedded" if place is None else f"consul {place.where} {place.prefix}"
