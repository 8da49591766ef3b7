"""I/O: `meshbridge client`: those who know nothing of us and connect to a gateway, from the operator's home."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.app import App, pass_app, run, words
from cli.output import print_fields, print_json, print_table
from cli.values import GATEWAY, HOST, LABEL, SOURCE, labels_of

if TYPE_CHECKING:
    from inventory.authority import AuthorityState
    from inventory.model import Client


@click.group()
def client() -> None:
    """Clients that know nothing of us: record, list, remove."""


@client.command(epilog="Example: meshbridge client add lpar7 --via gw1 --source 10.1.2.0/24 --label os=zos")
@click.argument("name", type=HOST)
@click.option(
    *("--via", "gateways"),
    type=GATEWAY,
    multiple=True,
    required=True,
    metavar="GATEWAY",
    help="Who may say that it calls; may be repeated.",
)
@click.option(
    *("--source", "sources"), type=SOURCE, multiple=True, metavar="CIDR", help="Where it calls from; may be repeated."
)
@click.option(
    "--certificate",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The certificates (PEM) that it may show: its own, each for itself.",
)
@click.option(
    *("--label", "labels"),
    type=LABEL,
    multiple=True,
    metavar="K=V",
    help="What policy may say about it; may be repeated.",
)
@pass_app
def add(
    app: App,
    name: str,
    gateways: tuple[str, ...],
    sources: tuple[str, ...],
    certificate: Path | None,
    labels: tuple[tuple[str, str], ...],
) -> None:
    """Record a client under NAME, for rules with client:NAME.

    It is known by where it calls from, or by a certificate of its own where the port asks for one; with both, both have
    to fit. Adding it again replaces all that was said about it.
    """
    from agents.estate import operate
    from agents.operating.clients import add_client, read_certificates
    from inventory.errors import InputError
    from inventory.home import read_file
    from inventory.model import Admission, Client

    if not sources and certificate is None:
        raise InputError("nothing says how the client is known", hint="give --source CIDR, or --certificate FILE")
    certificates = {}
    if certificate is not None:
        pem = read_file(certificate).decode("ascii", "replace")
        certificates = read_certificates(pem, str(certificate))
    record = Client(name=name, gateways=tuple(sorted(set(gateways))), labels=labels_of(labels))
    admission = Admission(client=name, sources=tuple(sorted(set(sources))), certificates=certificates)

    async def work() -> bool:
        async with operate(app.home) as operator:
            return await add_client(operator, record, admission)

    is_news = run(work)
    if app.is_json:
        print_json({"client": name, "changed": is_news})
    words(f"client {name} is recorded" if is_news else f"client {name} is as it was")


@client.command("list", epilog="Example: meshbridge client list")
@pass_app
def list_clients(app: App) -> None:
    """List the clients on record."""
    state = _state(app)
    clients = [_as_json(state, one) for _, one in sorted(state.clients.items())]
    if app.is_json:
        print_json(clients)
        return
    rows = [(c["name"], c["gateways"], c["sources"], c["keys"], c["labels"]) for c in clients]
    print_table(("NAME", "VIA", "SOURCES", "CERTIFICATES", "LABELS"), rows)


@client.command(epilog="Example: meshbridge client show lpar7")
@click.argument("name", type=HOST)
@pass_app
def show(app: App, name: str) -> None:
    """Show what is on record about the client NAME."""
    from agents.operating.clients import known_client

    state = _state(app)
    found = _as_json(state, known_client(state, name))
    if app.is_json:
        print_json(found)
        return
    print_fields(found)


@client.command(epilog="Example: meshbridge client remove lpar7")
@click.argument("name", type=HOST)
@pass_app
def remove(app: App, name: str) -> None:
    """Nobody is the client NAME any more; its streams are cut."""
    from agents.estate import operate
    from agents.operating.clients import remove_client

    async def work() -> None:
        async with operate(app.home) as operator:
            await remove_client(operator, name)

    run(work)
    words(f"client {name} is removed")


def _state(app: App) -> AuthorityState:
    from agents.estate import inspect

    async def work() -> AuthorityState:
        async with inspect(app.home) as (_, _, log):
            return log.state

    return run(work)


def _as_json(state: AuthorityState, one: Client) -> dict[str, object]:
    admission = state.admissions.get(one.name)
    return {
        "name": one.name,
        "gateways": list(one.gateways),
        "sources": list(admission.sources) if admission is not None else [],
        "keys": list(admission.certificates) if admission is not None else [],
        "labels": one.labels,
    }
