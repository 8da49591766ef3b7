"""I/O: the option that says how many data workers a node has."""

from __future__ import annotations

import click

workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Data worker processes.  [default: one per core, at most 8]",
)


def worker_count(given: int | None) -> int:
    """How many data workers to run. Raises click.BadParameter."""
    from agents.data_workers import default_count
    from bridge.limits import WORKERS_MAX

    if given is not None and given > WORKERS_MAX:
        raise click.BadParameter(f"{given} is more than the {WORKERS_MAX} workers that a node may have")
    return given or default_count()
