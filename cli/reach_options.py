"""I/O: the options of `host add` for a host on which no agent runs, and what they do."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.app import App, run, words
from cli.output import print_json
from cli.values import GATEWAY, option_value

if TYPE_CHECKING:
    from agents.operating.reaches import Recorded
    from inventory.model import Allowance, Host

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option("--reach", metavar="URL", help="No agent runs on it: ssh://USER@ADDR[:PORT], tcp://ADDR, tls://ADDR."),
    click.option("--via", type=GATEWAY, metavar="GATEWAY", help="The gateway that reaches it."),
    click.option("--host-key", type=_FILE, metavar="FILE", help="Its public ssh host key: .pub or known_hosts lines."),
    click.option("--key", type=_FILE, metavar="FILE", help="Log in with this private key.  [default: a certificate]"),
    click.option("--allow-loopback", is_flag=True, help="It may be on the gateway's own machine (tcp, tls)."),
    click.option("--crypto", multiple=True, metavar="PROFILE", help="Old cryptography to allow; may be repeated."),
    click.option("--crypto-owner", metavar="WHO", help="Who answers for that."),
    click.option("--crypto-until", metavar="DATE", help="Its last day, like 2027-03-31."),
)


def reach_options(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def refuse_halves(reach: str | None, via: str | None, **others: object) -> None:
    """For a host that is not on record as one without an agent. Raises click.UsageError."""
    if reach is not None or via is not None or any(others.values()):
        given = "--reach" if reach is not None else "--via" if via is not None else "an option of a host without agent"
        raise click.UsageError(f"{given} needs both: --reach URL --via GATEWAY")


def record_agentless(
    app: App,
    record: Host,
    named: Collection[str],
    *,
    anew: bool,
    reach: str,
    via: str,
    host_key: Path | None,
    key: Path | None,
    allow_loopback: bool,
    crypto: tuple[str, ...],
    crypto_owner: str | None,
    crypto_until: str | None,
) -> None:
    """`host add NAME --reach URL --via GATEWAY`: nothing on stdout, for there is no token."""
    from agents.estate import operate
    from agents.operating.reaches import Wanted, add_agentless, parse_given, read_ca, read_host_keys, read_private_key

    with option_value("--reach"):
        url, ca = parse_given(reach)
    if ca is not None and app.owner is not None:
        from cli.home_owner import check_readable

        check_readable(app.owner, ca)
    wanted = Wanted(
        url=url,
        via=via,
        host_keys=read_host_keys(host_key, url, crypto) if host_key is not None else (),
        private_key=read_private_key(key) if key is not None else None,
        ca=read_ca(ca) if ca is not None else None,
        allow_loopback=allow_loopback,
        allowance=_allowance(crypto, crypto_owner, crypto_until),
        anew=anew,
    )

    async def work() -> Recorded:
        async with operate(app.home) as operator:
            return await add_agentless(operator, record, wanted, named=named)

    recorded = run(work)
    made = recorded.reach
    if app.is_json:
        print_json({"host": made.host, "via": made.gateway, "reach": made.url, "changed": recorded.is_news})
    if recorded.lifted:
        words(f"the revocation of {made.host} is lifted")
    if not recorded.is_news:
        words(f"{made.host} is as it was")
        return
    words(f"gateway {made.gateway} reaches {made.host} at {made.url}")
    if url.scheme == "ssh" and made.credential is None:
        what = f"it logs in as {url.user} with certificates of its own"
        words(f"{what}; let them in there: `meshbridge gateway ssh-ca {made.gateway}` prints the key to trust")


def _allowance(profiles: tuple[str, ...], owner: str | None, until: str | None) -> Allowance | None:
    from inventory.reach import parse_allowance

    if not profiles and owner is None and until is None:
        return None
    if not profiles or owner is None or until is None:
        raise click.UsageError("an allowance needs all of --crypto PROFILE, --crypto-owner WHO, --crypto-until DATE")
    with option_value("--crypto"):
        return parse_allowance(profiles, owner, until)
