"""Pure: the negotiation of a 3270 session, as servers really lead it, and as they refuse it."""

from __future__ import annotations

import pytest

from agents.checks.answers import Failed
from agents.checks.kinds import Tn3270Probe
from agents.checks.tn3270 import Negotiation

IAC, SB, SE, EOR = b"\xff", b"\xff\xfa", b"\xff\xf0", b"\xff\xef"
DO, WILL, WONT, DONT = b"\xff\xfd", b"\xff\xfb", b"\xff\xfc", b"\xff\xfe"
BINARY, TYPE, END_OF_RECORD, START_TLS, E = b"\x00", b"\x18", b"\x19", b"\x2e", b"\x28"
SEND_DEVICE_TYPE = SB + E + b"\x08\x02" + SE
SEND_TYPE = SB + TYPE + b"\x01" + SE
ASSIGNED = SB + E + b"\x02\x04IBM-3278-2-E\x01TCP00012" + SE


def rejected(code: int) -> bytes:
    return SB + E + b"\x02\x06\x05" + bytes((code,)) + SE


def basic(negotiation: Negotiation) -> None:
    """As Hercules does it."""
    assert negotiation.feed(DO + TYPE) == WILL + TYPE
    assert negotiation.feed(SEND_TYPE) == SB + TYPE + b"\x00IBM-3278-2-E" + SE
    assert negotiation.feed(DO + END_OF_RECORD + WILL + END_OF_RECORD) == WILL + END_OF_RECORD + DO + END_OF_RECORD
    assert negotiation.kind == ""
    assert negotiation.feed(DO + BINARY + WILL + BINARY) == WILL + BINARY + DO + BINARY
    assert negotiation.kind == "TN3270"


def test_tn3270e_passes_with_an_lu_and_asks_for_nothing_more() -> None:
    negotiation = Negotiation(Tn3270Probe())
    assert negotiation.feed(DO + E) == WILL + E
    assert negotiation.feed(SEND_DEVICE_TYPE) == SB + E + b"\x02\x07IBM-3278-2-E" + SE
    assert not negotiation.passed
    assert negotiation.feed(ASSIGNED) == b""
    assert (negotiation.kind, negotiation.passed) == ("TN3270E", True)


def test_the_device_type_and_the_lu_are_asked_for_by_name() -> None:
    probe = Tn3270Probe(device="IBM-3287-1", lu="PRT1")
    negotiation = Negotiation(probe)
    negotiation.feed(DO + E)
    assert negotiation.feed(SEND_DEVICE_TYPE) == SB + E + b"\x02\x07IBM-3287-1\x01PRT1" + SE
    old = Negotiation(probe)
    old.feed(DO + TYPE)
    assert old.feed(SEND_TYPE) == SB + TYPE + b"\x00IBM-3287-1@PRT1" + SE


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, "negotiated TN3270E, no LU available: DEVICE-IN-USE"),
        (6, "negotiated TN3270E, no LU available: UNKNOWN-ERROR"),
        (7, "negotiated TN3270E, no LU available: UNSUPPORTED-REQ"),
        (3, "negotiated TN3270E, IBM-3278-2-E CICS1 refused: INV-NAME: it knows no LU of this name"),
        (4, "negotiated TN3270E, IBM-3278-2-E CICS1 refused: INV-DEVICE-TYPE: it does not serve this type of device"),
        (99, "negotiated TN3270E, no LU available: reason 99"),
    ],
)
def test_a_rejected_device_type_is_named(code: int, reason: str) -> None:
    negotiation = Negotiation(Tn3270Probe(lu="CICS1"))
    negotiation.feed(DO + E)
    negotiation.feed(SEND_DEVICE_TYPE)
    with pytest.raises(Failed) as caught:
        negotiation.feed(rejected(code))
    assert str(caught.value) == reason


def test_a_rejection_without_a_reason_is_one_too() -> None:
    negotiation = Negotiation(Tn3270Probe())
    with pytest.raises(Failed, match="no LU available: no reason given"):
        negotiation.feed(DO + E + SB + E + b"\x02\x06" + SE)


def test_tn3270_without_e_waits_for_a_screen_and_passes_with_it() -> None:
    negotiation = Negotiation(Tn3270Probe())
    basic(negotiation)
    assert negotiation.waits_for_a_screen
    negotiation.feed(b"\xf5\x42" + "LOGON".encode("cp037") + EOR)
    assert negotiation.passed


def test_a_first_screen_that_says_no_device_is_no_lu() -> None:
    negotiation = Negotiation(Tn3270Probe())
    basic(negotiation)
    with pytest.raises(Failed, match="negotiated TN3270, no LU available: it shows 'Connection rejected, no avail"):
        negotiation.feed("5\x1dConnection rejected, no available 3270 device".encode("cp037") + EOR)


def test_a_server_that_closes_after_the_negotiation_had_no_lu() -> None:
    negotiation = Negotiation(Tn3270Probe())
    basic(negotiation)
    assert str(negotiation.ended()) == "negotiated TN3270, then it closed: no LU available"


def test_an_expected_screen_is_looked_for_in_its_code_page_and_across_screens() -> None:
    negotiation = Negotiation(Tn3270Probe(screen="CICS[1]".encode("cp273"), page="cp273"))
    basic(negotiation)
    negotiation.feed(b"\xf5\x42" + "LOGON".encode("cp273") + EOR)
    assert not negotiation.passed and not negotiation.waits_for_a_screen
    negotiation.feed("..CICS".encode("cp273"))
    negotiation.feed("[1]".encode("cp273") + EOR)
    assert negotiation.passed


def test_for_a_screen_tn3270e_is_negotiated_to_its_end() -> None:
    negotiation = Negotiation(Tn3270Probe(screen=b"\xc1"))
    negotiation.feed(DO + E)
    negotiation.feed(SEND_DEVICE_TYPE)
    assert negotiation.feed(ASSIGNED) == SB + E + b"\x03\x07" + SE
    assert negotiation.feed(SB + E + b"\x03\x04" + SE) == b""
    negotiation.feed(b"\x00\x00\x00\x00\xc1" + EOR)
    assert not negotiation.passed, "the header is no screen"
    negotiation.feed(b"\x00\x00\x00\x00\x00\xf5\xc1" + EOR)
    assert negotiation.passed


def test_other_options_are_declined_once_each() -> None:
    negotiation = Negotiation(Tn3270Probe())
    assert negotiation.feed(WILL + b"\x01" + DO + b"\x27") == DONT + b"\x01" + WONT + b"\x27"
    assert negotiation.feed((WILL + b"\x01") * 1000) == b""
    assert negotiation.feed(IAC + b"\xf1" + IAC + b"\xf6") == b""


def test_a_server_that_wants_tls_first_is_told_from_one_that_is_broken() -> None:
    negotiation = Negotiation(Tn3270Probe())
    assert negotiation.feed(DO + START_TLS) == WONT + START_TLS
    assert str(negotiation.ended()) == "it wants TLS before anything else (START_TLS)"
    assert str(Negotiation(Tn3270Probe()).ended()) == "it closed without a word"
    half = Negotiation(Tn3270Probe())
    half.feed(DO + TYPE + SEND_TYPE)
    assert str(half.ended()) == "it closed in the middle of the negotiation, after the terminal type"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it does not speak telnet: 'SSH-2.0-OpenSSH_9.2"),
        (b"220 \x1b[2J\r\n", r"it does not speak telnet: '220 \\x1b"),
        (DONT + TYPE, "not a TN3270 server"),
        (b"".join(WILL + bytes((i,)) for i in range(70)), "more than 64 telnet options"),
    ],
)
def test_h30_what_is_no_tn3270_server_is_named(said: bytes, reason: str) -> None:
    with pytest.raises(Failed, match=reason):
        Negotiation(Tn3270Probe()).feed(said)
