"""Pure: the client's side of a TN3270 negotiation, as far as a check goes: RFC 1576 (TN3270) and 2355 (TN3270E).

Where the server offers TN3270E, the answer is whether it gives us an LU; nothing after that is negotiated, so that the
host behind it begins no session for a check (unless a screen is expected). In TN3270 without E the server has no words
for a refusal: the first screen says it, or the connection ends.
"""

from __future__ import annotations

import re

from agents.checks.answers import Failed, sample
from agents.checks.kinds import Tn3270Probe
from bridge import limits
from inventory.names import shown

_IAC, _DONT, _DO, _WONT, _WILL, _SB, _SE, _EOR = 255, 254, 253, 252, 251, 250, 240, 239
_BINARY, _TERMINAL_TYPE, _END_OF_RECORD, _TN3270E, _START_TLS = 0, 24, 25, 40, 46
_BASIC = (_BINARY, _END_OF_RECORD)
_TT_IS, _TT_SEND = 0, 1
_CONNECT, _DEVICE_TYPE, _FUNCTIONS, _IS, _REASON, _REJECT, _REQUEST, _SEND = 1, 2, 3, 4, 5, 6, 7, 8
_HEADER = 5
"""Bytes before the data of each TN3270E record."""
_REASONS = {
    0: "CONN-PARTNER: the LU to connect to is no terminal that has this partner",
    1: "DEVICE-IN-USE",
    2: "INV-ASSOCIATE",
    3: "INV-NAME: it knows no LU of this name",
    4: "INV-DEVICE-TYPE: it does not serve this type of device",
    5: "TYPE-NAME-ERROR: the LU of this name is of another type",
    6: "UNKNOWN-ERROR",
    7: "UNSUPPORTED-REQ",
}
_SAYS_NO_LU = re.compile(r"connection rejected.{,60}|no available \w+ device", re.IGNORECASE)
"""What Hercules shows instead of a screen when all of its devices are taken."""


class Negotiation:
    """Feed it what the server says; it gives what to answer.

    Raises (from `feed` and `ended`):
        Failed: no session will come of it; the text is the reason.
    """

    def __init__(self, probe: Tn3270Probe) -> None:
        self._probe = probe
        self._buffer = bytearray()
        self._answered: set[tuple[int, int]] = set()
        """(verb, option) of the server's that were answered; each is once, so that no two ends argue for ever."""
        self._agreed: set[tuple[int, int]] = set()
        self._typed = False
        self._record = bytearray()
        self._heard = False
        self.kind = ""
        """`TN3270E` or `TN3270` once negotiated."""
        self.passed = False
        """Nothing more has to be heard."""

    @property
    def reached(self) -> str:
        """How far it came, should no more be heard."""
        if not self.kind:
            return ""
        return f"negotiated {self.kind}" + (", but no screen shows what is expected" if self._probe.screen else "")

    @property
    def waits_for_a_screen(self) -> bool:
        """It was negotiated without E: a screen would prove more, but not every host sends one unasked."""
        return self.kind == "TN3270" and not self.passed and self._probe.screen is None

    def feed(self, data: bytes) -> bytes:
        self._heard = self._heard or bool(data)
        self._buffer += data
        out = b""
        while not self.passed:
            taken = self._step()
            if taken is None:
                break
            out += taken
        return out

    def ended(self) -> Failed:
        """The server has closed."""
        if self.kind:
            return Failed(f"negotiated {self.kind}, then it closed: no LU available")
        if (_DO, _START_TLS) in self._answered:
            return Failed("it wants TLS before anything else (START_TLS)")
        if not self._heard:
            return Failed("it closed without a word")
        return Failed(f"it closed in the middle of the negotiation{self._what_was_agreed()}")

    def _what_was_agreed(self) -> str:
        return ", after the terminal type" if self._typed else ""

    # --- taking apart ---------------------------------------------------------------------------------------------

    def _step(self) -> bytes | None:
        """Takes one command or a piece of data from the buffer; None when more must be read."""
        data = self._buffer
        if not data:
            return None
        if data[0] != _IAC:
            end = data.find(_IAC)
            self._take(self._cut(len(data) if end < 0 else end))
            return b""
        if len(data) < 2:
            return None
        verb = data[1]
        if verb in (_DO, _DONT, _WILL, _WONT):
            if len(data) < 3:
                return None
            return self._option(verb, self._cut(3)[2])
        if verb == _SB:
            end = data.find(bytes((_IAC, _SE)), 2)
            if end < 0:
                return None
            return self._told(self._cut(end + 2)[2:-2].replace(b"\xff\xff", b"\xff"))
        self._cut(2)
        if verb == _IAC:
            self._take(b"\xff")
        elif verb == _EOR:
            self._screen(bytes(self._record))
            self._record.clear()
        return b""  # anything else (NOP, AYT, DM) asks nothing of a check

    def _cut(self, size: int) -> bytes:
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        return piece

    def _take(self, data: bytes) -> None:
        """Data outside commands: part of a record, or, before there are any, what another kind of server says."""
        if not self.kind and not self._answered:
            raise Failed(f"it does not speak telnet: {sample(data)}")
        if self.kind:
            self._record += data

    # --- answering ------------------------------------------------------------------------------------------------

    def _option(self, verb: int, option: int) -> bytes:
        if (verb, option) in self._answered:
            return b""
        if len(self._answered) >= limits.CHECK_TELNET_MAX:
            raise Failed(f"it raises more than {limits.CHECK_TELNET_MAX} telnet options")
        self._answered.add((verb, option))
        if verb == _DO:
            wanted = option in (_TN3270E, _TERMINAL_TYPE, *_BASIC)
            return self._agree(_DO, option, _WILL if wanted else _WONT)
        if verb == _WILL:
            return self._agree(_WILL, option, _DO if option in _BASIC else _DONT)
        if option == _TERMINAL_TYPE and verb == _DONT:
            raise Failed("it asks for no terminal type: not a TN3270 server")
        return b""  # it takes back an offer; we hold it to none

    def _agree(self, verb: int, option: int, answer: int) -> bytes:
        if answer in (_DO, _WILL):
            self._agreed.add((verb, option))
            self._look_whether_basic()
        return bytes((_IAC, answer, option))

    def _look_whether_basic(self) -> None:
        """RFC 1576, 3: a terminal type, and then end of record and binary in both directions."""
        if self._typed and all((verb, option) in self._agreed for verb in (_DO, _WILL) for option in _BASIC):
            self.kind = self.kind or "TN3270"

    def _told(self, data: bytes) -> bytes:
        if data[:1] == bytes((_TERMINAL_TYPE,)) and data[1:] == bytes((_TT_SEND,)):
            self._typed = True
            self._look_whether_basic()
            lu = f"@{self._probe.lu}" if self._probe.lu else ""  # RFC 1646, 3
            return _sub(bytes((_TERMINAL_TYPE, _TT_IS)) + f"{self._probe.device}{lu}".encode("ascii"))
        if data[:1] == bytes((_TN3270E,)):
            return self._told_e(data[1:])
        return b""

    def _told_e(self, data: bytes) -> bytes:
        if data[:2] == bytes((_SEND, _DEVICE_TYPE)):
            lu = bytes((_CONNECT,)) + self._probe.lu.encode("ascii") if self._probe.lu else b""
            return _sub(bytes((_TN3270E, _DEVICE_TYPE, _REQUEST)) + self._probe.device.encode("ascii") + lu)
        if data[:2] == bytes((_DEVICE_TYPE, _REJECT)):
            raise Failed(self._refused(data[2:]))
        if data[:2] == bytes((_DEVICE_TYPE, _IS)):
            self.kind = "TN3270E"
            self.passed = self._probe.screen is None
            return b"" if self.passed else _sub(bytes((_TN3270E, _FUNCTIONS, _REQUEST)))
        if data[:2] == bytes((_FUNCTIONS, _REQUEST)):
            return _sub(bytes((_TN3270E, _FUNCTIONS, _IS)))  # none of them
        return b""

    def _refused(self, data: bytes) -> str:
        code = data[1] if len(data) >= 2 and data[0] == _REASON else None
        words = "no reason given" if code is None else _REASONS.get(code, f"reason {code}")
        if code in (3, 4, 5):  # nothing that another moment would change
            asked = f"{self._probe.device}{' ' + self._probe.lu if self._probe.lu else ''}"
            return f"negotiated TN3270E, {asked} refused: {words}"
        return f"negotiated TN3270E, no LU available: {words}"

    # --- the first screens ----------------------------------------------------------------------------------------

    def _screen(self, record: bytes) -> None:
        if self.kind == "TN3270E":
            record = record[_HEADER:]
        if not self.kind or not record:
            return
        said = _SAYS_NO_LU.search(_text(record, self._probe.page))
        if said is not None:
            raise Failed(f"negotiated {self.kind}, no LU available: it shows {shown(said[0])}")
        self.passed = self._probe.screen is None or self._probe.screen in record


def _sub(data: bytes) -> bytes:
    return bytes((_IAC, _SB)) + data.replace(b"\xff", b"\xff\xff") + bytes((_IAC, _SE))


def _text(record: bytes, page: str) -> str:
    """The letters of a screen; orders and addresses between them become spaces."""
    text = "".join(char if char.isascii() and char.isprintable() else " " for char in record.decode(page, "replace"))
    return " ".join(text.split())
