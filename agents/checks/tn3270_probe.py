"""I/O: negotiates a 3270 session with a target, as far as a check goes, and leaves."""

from __future__ import annotations

import trio

from agents.checks.answers import Answer
from agents.checks.conversation import Conversation
from agents.checks.kinds import Tn3270Probe
from agents.checks.tn3270 import Negotiation
from bridge import limits


async def ask_tn3270(talk: Conversation, probe: Tn3270Probe) -> Answer:
    negotiation = Negotiation(probe)
    while not negotiation.passed and not negotiation.waits_for_a_screen:
        await _hear(talk, negotiation)
    with trio.move_on_after(limits.CHECK_TN3270_SCREEN):
        while not negotiation.passed:
            await _hear(talk, negotiation)
    return Answer(note=f"negotiated {negotiation.kind}", farewell=b"")


async def _hear(talk: Conversation, negotiation: Negotiation) -> None:
    data = await talk.read()
    if not data:
        raise negotiation.ended()
    await talk.say(negotiation.feed(data))
    talk.reached = negotiation.reached
