"""I/O: `meshbridge discover`: what a box talks to, as a proposal. It changes nothing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from cli.app import App, pass_app_as_it_is, run, words
from cli.output import print_json
from cli.values import HOST, duration

if TYPE_CHECKING:
    from agents.operating.discovering import Subject


def _span(text: str) -> float:
    from bridge.limits import DISCOVER_LONGEST

    seconds = duration(text)
    if seconds > DISCOVER_LONGEST:
        raise click.BadParameter(f"at most {DISCOVER_LONGEST / 86400:.0f}d, not {text[:64]}")
    return seconds


@click.command(epilog="Example: meshbridge discover --for 1h > proposal.toml")
@click.option("--for", "seconds", type=_span, default="0s", metavar="TIME", help="Look for so long.  [default: once]")
@click.option("--host", "host", type=HOST, metavar="NAME", help="A host without agent, over ssh.  [default: this one]")
@click.option("--explain", is_flag=True, help="Say what would be read or run, and end.")
@pass_app_as_it_is
def discover(app: App, seconds: float, host: str | None, explain: bool) -> None:
    """What does this box talk to? Look at its TCP sockets, and propose services and rules for them.

    Prints a policy that allows nothing yet (every rule is only observed), with the `service add` lines to go with it,
    counts, and when each was seen first and last. Nothing is changed: read it, and take over what is right.
    """
    from agents.discovery.proposal import propose
    from agents.discovery.report import as_data, as_text
    from agents.operating.discovering import find_subject, watch
    from cli.home_owner import acting_as, become, owner_of

    owner = owner_of(app.home)
    if owner is not None and host is not None:
        become(owner)
        owner = None
    # Root alone sees whose the sockets of this machine are, and leaves nothing of its own in another user's home.
    with acting_as(owner):
        subject = run(partial(find_subject, app.home, host))
    if explain:
        _explain(app, subject, seconds)
        return
    seen = run(partial(watch, app.home, subject, seconds=seconds, say=words))
    proposal = propose(seen, subject.box, subject.whose)
    if app.is_json:
        print_json(as_data(proposal, seen, subject.box))
    else:
        click.echo(as_text(proposal, seen, subject.box), nl=False)


def _explain(app: App, subject: Subject, seconds: float) -> None:
    often = "once" if not seconds else f"every {subject.interval:.0f} s for {seconds:.0f} s"
    if app.is_json:
        print_json({"host": subject.box.name, "steps": subject.explain(), "often": often})
        return
    for line in subject.explain():
        click.echo(line)
    click.echo(f"{often}; nothing is written, there or here")
