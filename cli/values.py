"""Pure: what people write on the command line, as values. What belongs to the product's own grammar is parsed by it.

An option's value that cannot be parsed is a mistake in using the command (exit code 2); what parses and then does not
fit the estate, and files that cannot be used, are bad input (64).
"""

from __future__ import annotations

import datetime
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

_DURATION = re.compile(r"(\d{1,9})(s|m|h|d)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    """`90s`, `10m`, `1h`, `1h30m`, `2d` as seconds. Raises click.BadParameter."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise click.BadParameter(f"{text[:64]!a} is not a duration; write it like 90s, 10m, 1h or 2d")
    return float(sum(int(number) * _SECONDS[unit] for number, unit in parts))


def token_lifetime(text: str) -> float:
    """A duration that a token may have. Raises click.BadParameter."""
    from bridge.limits import TOKEN_LIFETIME_MAX

    seconds = duration(text)
    if not 1 <= seconds <= TOKEN_LIFETIME_MAX:
        raise click.BadParameter(f"a token is good for 1s to {TOKEN_LIFETIME_MAX / 86400:.0f}d, not {text[:64]}")
    return seconds


def moment(text: str) -> float:
    """An ISO date and time as unix seconds; without an offset it is UTC. Raises click.BadParameter."""
    try:
        parsed = datetime.datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        hint = "write it like 2026-11-23T04:00 or 2026-11-23T04:00+01:00"
        raise click.BadParameter(f"{text[:64]!a} is not a time; {hint}") from None


def grammar(parser: str, *, keeps_text: bool = False) -> Callable[[str], Any]:
    """The type of an option whose value is in the product's own grammar.

    Args:
        parser: `module:function`, imported when there is a value to parse.
        keeps_text: the command gets what was written, once it is known to be good.
    """
    module, _, function = parser.partition(":")

    def value(text: str) -> Any:
        with option_value():
            parsed = getattr(importlib.import_module(module), function)(text)
        return text if keeps_text else parsed

    return value


@contextmanager
def option_value(option: str | None = None) -> Iterator[None]:
    """What is refused in here is refused as the value of the option (that being parsed, if none is named).

    Raises:
        click.BadParameter: for an InputError.
    """
    from inventory.errors import InputError

    try:
        yield
    except InputError as exc:
        what = f"{exc.what}; {exc.hint}" if exc.hint else exc.what
        raise click.BadParameter(what, param_hint=f"'{option}'" if option else None) from None


LABEL = grammar("inventory.policy_rules:parse_label_pair")
DOMAIN = grammar("inventory.names:parse_domain")
HOST = grammar("inventory.names:parse_host")
SITE = grammar("inventory.names:parse_site")
GATEWAY = grammar("inventory.names:parse_gateway")
SOURCE = grammar("inventory.clients:parse_source_text")
PUBLISHED = grammar("inventory.clients:parse_published", keeps_text=True)
SERVICE = grammar("inventory.names:parse_service")
PORT = grammar("inventory.endpoints:parse_port")
ENDPOINT = grammar("inventory.endpoints:parse_endpoint", keeps_text=True)
LISTEN = grammar("inventory.endpoints:parse_listen", keeps_text=True)
SLICE = grammar("bridge.dns.addresses:parse_slice", keeps_text=True)
TARGET = grammar("inventory.endpoints:parse_target")
BOUND = click.IntRange(1, 100_000)
"""How many streams at once or in a second: up to the bridge's GOVERNOR_BOUND_MAX."""
USER = grammar("inventory.policy_rules:parse_user")


def labels_of(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Raises InputError for a key that is given twice."""
    from inventory.errors import InputError

    labels: dict[str, str] = {}
    for key, value in pairs:
        if key in labels:
            raise InputError(f"the label {key} is given twice", where="--label")
        labels[key] = value
    return labels
