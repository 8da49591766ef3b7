"""I/O: an sshd's banner and key exchange, up to its proof of the host key; nothing is authenticated.

It leaves by a disconnect message after a whole exchange: an sshd counts whoever does less as a scanner or a failed
login (F41), and how often it is asked is bounded where the check is parsed.
"""

from __future__ import annotations

from agents.checks.answers import Answer, Failed
from agents.checks.conversation import Conversation
from agents.checks.kinds import SshProbe
from agents.checks.ssh_exchange import GOODBYE, Exchange


async def ask_ssh(talk: Conversation, probe: SshProbe) -> Answer:
    exchange = Exchange()
    while exchange.host_key is None:
        data = await talk.read()
        if not data:
            raise exchange.ended()
        await talk.say(exchange.feed(data))
        talk.reached = exchange.reached
    if probe.key not in (None, exchange.host_key):
        await talk.leave(GOODBYE)
        raise Failed(f"its host key is {exchange.host_key}, not {probe.key}")
    return Answer(exchange.note, farewell=GOODBYE)
