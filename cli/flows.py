"""I/O: `meshbridge flows`: the streams that this node carried, from its own record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from cli.app import App, pass_app, run
from cli.output import moment, print_json_line, print_table, text

if TYPE_CHECKING:
    from bridge.flows import Flow

HEADERS = ("TIME", "RESULT", "SUBJECT", "SERVICE", "INSTANCE", "RULE", "VIA", "IN", "OUT", "MS", "REASON")


@click.command(epilog="Example: meshbridge flows --follow")
@click.option("--follow", is_flag=True, help="Go on with every stream that ends.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, metavar="N", help="The last N.")
@pass_app
def flows(app: App, follow: bool, limit: int) -> None:
    """The streams that this node carried, oldest first: who, to what, under which rule, how it ended.

    With -o json one object per line, as in flows.jsonl.
    """
    from agents.estate import load_config
    from bridge.flow_log import read_recent
    from inventory.errors import Unavailable

    load_config(app.home)
    try:
        if follow:
            run(lambda: _follow(app, limit))
        else:
            _print(app, read_recent(app.home, limit))
    except PermissionError as exc:
        hint = "run the command as the user that runs the agent"
        raise Unavailable(f"the flows cannot be read: {exc.strerror}", where=str(app.home), hint=hint) from None


async def _follow(app: App, limit: int) -> None:
    from contextlib import aclosing

    from bridge.flow_log import follow

    if not app.is_json:
        click.echo("  ".join(HEADERS))
    async with aclosing(follow(app.home, recent=limit)) as found:
        async for flow in found:
            if app.is_json:
                print_json_line(_fields(flow))
            else:
                click.echo("  ".join(text(cell) or "-" for cell in _row(flow)))


def _print(app: App, found: Iterable[Flow]) -> None:
    if app.is_json:
        for flow in found:
            print_json_line(_fields(flow))
        return
    print_table(HEADERS, map(_row, found))


def _fields(flow: Flow) -> dict[str, object]:
    """Every field, defaults included."""
    return {name: getattr(flow, name) for name in flow.__struct_fields__}


def _row(flow: Flow) -> tuple[object, ...]:
    subject = f"{flow.subject} ({flow.user})" if flow.user else flow.subject
    sizes = (flow.bytes_in, flow.bytes_out)
    return (
        moment(flow.ts),
        flow.result,
        subject,
        flow.service,
        flow.instance,
        flow.rule,
        flow.via,
        *sizes,
        flow.duration_ms,
        flow.reason,
    )
