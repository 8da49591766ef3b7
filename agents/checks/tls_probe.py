"""I/O: a TLS handshake with a target, and the days that its certificate has left.

Whose signature the certificate has is not looked at, and old versions are spoken: nothing is said over this connection,
and whether an old server is up is a question that a check may ask. Callers judge it by their own rules.
"""

from __future__ import annotations

import datetime
import ssl

from cryptography import x509

from agents import clock
from agents.checks.answers import Answer, Failed
from agents.checks.conversation import Conversation
from agents.checks.kinds import TlsProbe
from bridge.identity.contexts import probe_client
from inventory.names import shown

_DAY = 86400.0


async def ask_tls(talk: Conversation, probe: TlsProbe) -> Answer:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = probe_client().wrap_bio(incoming, outgoing, server_hostname=probe.name)
    while not _handshake(tls):
        await talk.say(outgoing.read())
        more = await talk.read()
        if not more:
            raise Failed("it closed in the middle of the TLS handshake")
        incoming.write(more)
    await talk.say(outgoing.read())  # the end of ours: without it the server sees a broken handshake
    note = _judge(tls.getpeercert(binary_form=True), probe.warn)
    _say_goodbye(tls)
    return Answer(note, farewell=outgoing.read())


def _handshake(tls: ssl.SSLObject) -> bool:
    """Whether it is complete."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError as exc:
        raise Failed(f"no TLS handshake: {_why(exc)}") from None
    return True


def _why(exc: ssl.SSLError) -> str:
    words = (exc.reason or "").replace("_", " ").lower()
    return shown(words)[1:-1] or "it failed"


def _judge(der: bytes | None, warn: int) -> str:
    """What to say of its certificate. Raises Failed when it is not valid now."""
    if not der:
        return "without a certificate"
    try:
        certificate = x509.load_der_x509_certificate(der)
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError as exc:
        raise Failed(f"its certificate cannot be read: {shown(str(exc))[1:-1]}") from None
    now = datetime.datetime.fromtimestamp(clock.now(), datetime.UTC)
    if now > ends:
        raise Failed(f"its certificate ended on {ends:%Y-%m-%d %H:%M} UTC")
    if now < begins:
        raise Failed(f"its certificate begins on {begins:%Y-%m-%d %H:%M} UTC")
    left = int((ends - now).total_seconds() // _DAY)
    days = f"in {left} day{'' if left == 1 else 's'}, " if left < warn else ""
    return f"certificate ends {days}on {ends:%Y-%m-%d}"


def _say_goodbye(tls: ssl.SSLObject) -> None:
    try:
        tls.unwrap()
    except ssl.SSLError:
        pass  # ours is in the buffer now; theirs is waited for by whoever leaves
