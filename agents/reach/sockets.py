"""I/O: a gateway asks an ssh host what its TCP sockets are, by one of a few commands that only read."""

from __future__ import annotations

from agents.discovery.remote import COMMANDS, Printed, known_program, printed
from agents.reach.reaching import Reaching
from bridge import limits


async def sockets_of(reaching: Reaching, host: str, program: str) -> Printed:
    """What one of COMMANDS printed there.

    Raises:
        InputError: it is none of them.
        Unavailable: the host is not reached by ssh from here, or does not answer.
    """
    ran = await reaching.run_on(host, COMMANDS[known_program(program)], limits.DISCOVER_COMMAND_TIMEOUT)
    return printed(ran.code, ran.out, ran.err, is_cut=ran.truncated, reason=ran.reason)
