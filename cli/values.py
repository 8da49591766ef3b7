"""Pure: what people write on the command line, as values. What belongs to the product's own grammar is parsed by it."""

from __future__ import annotations

import datetime
import re

import click

_DURATION = re.compile(r"(\d{1,9})(s|m|h|d)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    """`90s`, `10m`, `1h`, `1h30m`, `2d` as seconds. Raises click.BadParameter."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise click.BadParameter(f"{text[:64]!a} is not a duration; write it like 90s, 10m, 1h or 2d")
    return float(sum(int(number) * _SECONDS[unit] for number, unit in parts))


def moment(text: str) -> float:
    """An ISO date and time as unix seconds; without an offset it is UTC. Raises click.BadParameter."""
    try:
        parsed = datetime.datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        hint = "write it like 2026-11-23T04:00 or 2026-11-23T04:00+01:00"
        raise click.BadParameter(f"{text[:64]!a} is not a time; {hint}") from None


def parse_labels(pairs: tuple[str, ...]) -> dict[str, str]:
    """`K=V` pairs in canonical form. Raises InputError for a bad one, or a key given twice."""
    from inventory.errors import InputError
    from inventory.policy_rules import parse_label_pair

    labels: dict[str, str] = {}
    for pair in pairs:
        key, value = parse_label_pair(pair)
        if key in labels:
            raise InputError(f"the label {key} is given twice", where="--label")
        labels[key] = value
    return labels
