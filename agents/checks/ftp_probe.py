"""I/O: an FTP server's greeting, and a goodbye.

RFC 959, 4.2: a reply of several lines ends with a line that begins with its code and a space.
"""

from __future__ import annotations

import re

from agents.checks.answers import Answer, Failed, sample
from agents.checks.conversation import Conversation

_REPLY = re.compile(rb"([1-5]\d\d)(?: [^\r\n]*\r?\n|-(?:[^\n]*\n)*?\1 [^\r\n]*\r?\n)")
_START = re.compile(rb"[1-5]\d\d[ -]")


async def ask_ftp(talk: Conversation) -> Answer:
    data = b""
    while (reply := _REPLY.match(data)) is None:
        if len(data) >= 4 and not _START.match(data):
            raise Failed(f"it does not speak FTP: {sample(data)}")
        more = await talk.read()
        if not more:
            raise Failed(f"it closed, after {sample(data)}" if data else "it closed without a greeting")
        data += more
    if reply[1] != b"220":
        raise Failed(f"it answered {sample(reply[0].strip())}")
    return Answer(farewell=b"QUIT\r\n")
