"""I/O: `meshbridge service publish` and `unpublish`: ports where those who know nothing of us find a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cli.app import App, pass_app, run, words
from cli.output import print_json
from cli.values import GATEWAY, HOST, PORT, PUBLISHED, SERVICE

if TYPE_CHECKING:
    from inventory.model import Publication

via_option = click.option("--via", "gateway", type=GATEWAY, metavar="GATEWAY", help="The gateway that listens.")
listen_option = click.option("--listen", type=PUBLISHED, metavar="ADDR:PORT", help="Where the gateway listens.")
on_option = click.option("--on", "host", type=HOST, metavar="HOST", help="On the loopback of this ssh host.")


@click.command(epilog="Example: meshbridge service publish ledger --via gw1 --listen 10.0.0.1:8080")
@click.argument("name", type=SERVICE)
@via_option
@listen_option
@click.option("--tls", is_flag=True, help="Clients speak TLS 1.3 and are known by their certificates.")
@on_option
@click.option("--port", type=PORT, metavar="N", help="Its port there.")
@pass_app
def publish(
    app: App, name: str, gateway: str | None, listen: str | None, tls: bool, host: str | None, port: int | None
) -> None:
    """Put the service NAME at a port where clients that know nothing of us find it.

    A gateway listens for them (--via and --listen); or it has the sshd of an agentless host listen on that host's own
    loopback (--on and --port), for what runs there. The port answers only those whom some rule could allow.
    """
    from agents.estate import operate
    from agents.operating import clients
    from inventory.model import Publication

    if (gateway is None, listen is None) != (host is not None, host is not None) or (port is None) != (host is None):
        raise click.UsageError("give --via GATEWAY and --listen ADDR:PORT, or --on HOST and --port N")
    if host is not None and tls:
        raise click.UsageError("what is on a host's own loopback is not for clients with certificates: leave out --tls")
    wanted = Publication(service=name, gateway=gateway, listen=listen, tls=tls, host=host, port=port)

    async def work() -> bool:
        async with operate(app.home) as operator:
            return await clients.publish(operator, wanted)

    is_news = run(work)
    if app.is_json:
        print_json({"id": wanted.id, "changed": is_news})
    words(f"{name} is published {_where(wanted)}" if is_news else f"{wanted.id} is as it was")


@click.command(epilog="Example: meshbridge service unpublish ledger --via gw1")
@click.argument("name", type=SERVICE)
@via_option
@listen_option
@on_option
@pass_app
def unpublish(app: App, name: str, gateway: str | None, listen: str | None, host: str | None) -> None:
    """Take the service NAME away from its published ports, or from some of them; its streams there are cut."""
    from agents.estate import operate
    from agents.operating import clients

    async def work() -> list[Publication]:
        async with operate(app.home) as operator:
            return await clients.unpublish(operator, clients.Published(name, gateway, host, listen))

    gone = run(work)
    words(f"no longer published: {', '.join(f'{p.service} {_where(p)}' for p in gone)}")


def publication_as_json(wanted: Publication) -> dict[str, object]:
    """The fields of an instance, as far as it has them, so that a script finds them as well."""
    place = f"gateway:{wanted.gateway}" if wanted.gateway is not None else str(wanted.host)
    target = wanted.listen if wanted.listen is not None else f"127.0.0.1:{wanted.port}"
    fields = {name: getattr(wanted, name) for name in wanted.__struct_fields__}
    shown: dict[str, object] = {"weight": None, "labels": {}, "check": None, "draining": None}
    port = int(target.rpartition(":")[2])
    return {"id": wanted.id, **shown, **fields, "host": place, "target": target, "port": port, "published": True}


def _where(wanted: Publication) -> str:
    if wanted.gateway is not None:
        return f"at {wanted.listen} of gateway {wanted.gateway}"
    return f"at 127.0.0.1:{wanted.port} on {wanted.host}"
