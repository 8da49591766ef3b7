"""I/O: asks one target once. Whatever the target does, the answer is an Outcome within the timeout.

It reads at most CHECK_READ_MAX bytes, follows nothing (C38), and connects to nothing but the target (H30). A timeout
covers the whole probe: no byte sent slowly extends it.
"""

from __future__ import annotations

import trio

from agents.checks.answers import Answer, Failed, Outcome, sample, why
from agents.checks.conversation import Connect, Conversation, connect_directly
from agents.checks.exec_probe import run_program
from agents.checks.ftp_probe import ask_ftp
from agents.checks.http_probe import ask_http
from agents.checks.kinds import (
    CheckSpec,
    ExchangeProbe,
    ExecProbe,
    FtpProbe,
    HttpProbe,
    Probe,
    Send,
    SshProbe,
    TcpProbe,
    TlsProbe,
)
from agents.checks.ssh_probe import ask_ssh
from agents.checks.tls_probe import ask_tls
from agents.checks.tn3270_probe import ask_tn3270
from inventory.endpoints import Endpoint

_CONNECTED = Answer()


async def run_probe(spec: CheckSpec, target: Endpoint, connect: Connect = connect_directly) -> Outcome:
    """One probe. Raises nothing but trio.Cancelled."""
    began = trio.current_time()
    reason, answer = "", None
    talk: Conversation | None = None
    try:
        with trio.move_on_after(spec.timeout) as scope:
            try:
                if isinstance(spec.probe, ExecProbe):
                    await run_program(spec.probe, target)
                    answer = _CONNECTED
                else:
                    talk = Conversation(await connect(target))
                    answer = await _ask(talk, spec.probe, target)
            except Failed as exc:
                reason = str(exc)
            except (OSError, trio.BrokenResourceError) as exc:
                reason = why(exc)
        seconds = trio.current_time() - began
        if answer is not None:
            if talk is not None and answer.farewell is not None:
                await talk.leave(answer.farewell)
            return Outcome(True, answer.note, seconds)
    finally:
        if talk is not None:
            await talk.close()
    if scope.cancelled_caught:
        reached = f"{talk.reached}, then " if talk is not None and talk.reached else ""
        reason = f"{reached}no answer within {spec.timeout:g} s"
    return Outcome(False, reason, seconds, scope.cancelled_caught)


async def _ask(talk: Conversation, probe: Probe, target: Endpoint) -> Answer:
    match probe:
        case TcpProbe():
            return _CONNECTED
        case HttpProbe():
            return await ask_http(talk, probe, target)
        case ExchangeProbe():
            return await _exchange(talk, probe)
        case TlsProbe():
            return await ask_tls(talk, probe)
        case SshProbe():
            return await ask_ssh(talk, probe)
        case FtpProbe():
            return await ask_ftp(talk)
        case ExecProbe():
            raise AssertionError("a program is asked without a connection")
        case _:
            return await ask_tn3270(talk, probe)


async def _exchange(talk: Conversation, probe: ExchangeProbe) -> Answer:
    unread = b""
    for number, step in enumerate(probe.steps, 1):
        if isinstance(step, Send):
            await talk.say(step.data)
            continue
        while step.data not in unread:
            more = await talk.read()
            if not more:
                raise Failed(f"step {number}: it closed, after {sample(unread)}")
            unread += more
        unread = unread.partition(step.data)[2]
    return _CONNECTED
