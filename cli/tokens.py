"""I/O: what the commands share that make a token or are given one."""

from __future__ import annotations

import sys

import click

from cli.values import token_lifetime

ttl_option = click.option(
    "--ttl",
    type=token_lifetime,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="How long the token is good.",
)


def read_token(made_by: str) -> str:
    """From stdin: one line at most, and never more than a token can be. Raises InputError when nothing comes."""
    from bridge import limits
    from inventory.errors import InputError

    text = sys.stdin.read(limits.TOKEN_MAX_CHARS + 3)
    if not text.strip():
        raise InputError("no token came on stdin", hint=f"see what `meshbridge {made_by}` said; it prints the token")
    return text
