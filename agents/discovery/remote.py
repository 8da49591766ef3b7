"""Pure: the commands by which a host without an agent is asked for its sockets, and what their output means.

They are these and no others; each only reads. The first that the host has, and that prints what we know, is the one.
"""

from __future__ import annotations

import shlex

import msgspec

from agents.discovery.listings import READERS
from agents.discovery.sockets import Look
from bridge import limits
from inventory.errors import InputError
from inventory.names import shown

_ENVIRONMENT = ("env", "PATH=/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin", "LC_ALL=C")
"""What sshd gives a command may lack the directories of administrators' programs."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "ss": (*_ENVIRONMENT, "ss", "-tanp"),
    "onetstat": (*_ENVIRONMENT, "onetstat", "-a"),
    "netstat": (*_ENVIRONMENT, "netstat", "-an"),
    "lsof": (*_ENVIRONMENT, "lsof", "-nP", "-iTCP"),
}
"""In the order in which they are tried. z/OS alone has onetstat, and its netstat means something else by -n."""
_HARMLESS = bytes(byte if byte in b"\t\n" or 32 <= byte < 127 else ord("?") for byte in range(256))
_ERROR_SHOWN = 200


class Printed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one command, as the gateway tells it."""

    code: int | None = None
    out: str = ""
    err: str = ""
    is_cut: bool = False
    reason: str = ""
    """It could not be run, or was cut short."""


def printed(code: int | None, out: bytes, err: bytes, *, is_cut: bool, reason: str) -> Printed:
    """As it may be sent on: ASCII without control characters, of a size that an admin socket takes."""
    text = out[: limits.DISCOVER_TEXT_MAX].translate(_HARMLESS).decode("ascii")
    words = err[:_ERROR_SHOWN].translate(_HARMLESS).decode("ascii")
    return Printed(code=code, out=text, err=words, is_cut=is_cut, reason=reason)


def read_printed(program: str, answer: Printed) -> Look | None:
    """The sockets; None when these are none: the host has no such program, or another one of that name."""
    look = READERS[program](answer.out)
    if not look.sockets:
        return None
    return Look(look.sockets, is_cut=look.is_cut or answer.is_cut)


def why_not(program: str, answer: Printed) -> str:
    """In words, what kept a command that ran from saying anything."""
    if answer.code == 127 or answer.code == 126:
        return f"{program}: the host has none"
    err = answer.err.strip().replace("\n", "; ")
    return f"{program}: exit code {answer.code}" + (f", {shown(err)}" if err else ", nothing that can be read")


def known_program(text: str) -> str:
    """One of the commands. Raises InputError."""
    if text not in COMMANDS:
        raise InputError(f"{shown(text)} is not a command for this", hint=f"there are {', '.join(COMMANDS)}")
    return text


def command_line(program: str) -> str:
    """As the host's shell is given it."""
    return shlex.join(COMMANDS[program])
