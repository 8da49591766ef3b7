"""Pure: every listing of sockets says what was put into it, among whatever else, and any text at all is taken."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from agents.discovery.listings import READERS
from agents.discovery.proc_tables import read_proc
from agents.discovery.seen import Seen
from agents.discovery.sockets import ANY, End, Look, Socket
from bridge.socket_rows import hex_end

PORTS = st.integers(1, 65535)
ADDRESSES = st.one_of(
    st.integers(1, 2**32 - 1).map(lambda number: str(ipaddress.IPv4Address(number))),
    st.integers(2**64, 2**128 - 1).map(lambda number: str(ipaddress.IPv6Address(number))),
)
ENDS = st.builds(End, ADDRESSES, PORTS)
HERE = st.builds(End, st.one_of(st.just(ANY), ADDRESSES), PORTS)
LISTENING = st.builds(Socket, st.just("listening"), HERE, st.none(), st.just(""))
OPEN = st.builds(Socket, st.sampled_from(["open", "asking", "answering"]), ENDS, ENDS, st.just(""))
SOCKETS = st.lists(st.one_of(LISTENING, OPEN), max_size=8, unique_by=lambda sock: (sock.own, sock.other))
JUNK = st.lists(st.text(st.characters(exclude_characters="\n"), max_size=40), max_size=5)

POOL = [
    *(
        Socket("listening", End(address, port), None)
        for address in (ANY, "10.0.0.1", "127.0.0.1")
        for port in (20, 22, 80)
    ),
    *(
        Socket("open", End(own, here), End(other, there))
        for own, other in (("10.0.0.1", "10.0.0.2"), ("127.0.0.1", "127.0.0.1"), ("10.0.0.1", "10.0.0.1"))
        for here in (20, 22, 80, 40000)
        for there in (20, 22, 40000, 50000)
    ),
]

STATES = {
    "ss": {"listening": "LISTEN", "open": "CLOSE-WAIT", "asking": "SYN-SENT", "answering": "SYN-RECV"},
    "netstat": {"listening": "LISTEN", "open": "ESTABLISHED", "asking": "SYN_SENT", "answering": "SYN_RCVD"},
    "onetstat": {"listening": "Listen", "open": "Establsh", "asking": "SynSent", "answering": "SynRcvd"},
}


def colon(end: End | None) -> str:
    if end is None:
        return "0.0.0.0:*"
    return str(end)


def dotted(end: End | None, dots: str = ".") -> str:
    if end is None:
        return f"*{dots}*"
    return f"{end.address or '*'}{dots}{end.port}"


def ss(sock: Socket) -> str:
    return f"{STATES['ss'][sock.state]} 0 0 {colon(sock.own)} {colon(sock.other)}"


def aix(sock: Socket) -> str:
    return f"tcp4 0 0 {dotted(sock.own)} {dotted(sock.other)} {STATES['netstat'][sock.state]}"


def solaris(sock: Socket) -> str:
    return f"{dotted(sock.own)} {dotted(sock.other)} 49640 0 49640 0 {STATES['netstat'][sock.state]}"


def zos(sock: Socket) -> str:
    own, other = dotted(sock.own, ".."), dotted(sock.other, "..")
    return f"JOB1 0000002A {own} {other} {STATES['onetstat'][sock.state]}"


def zos_long(sock: Socket) -> str:
    lines = ("  Local Socket:   " + dotted(sock.own, ".."), "  Foreign Socket: " + dotted(sock.other, ".."))
    return "\n".join((f"JOB1 0000002A {STATES['onetstat'][sock.state]}", *lines))


def lsof(sock: Socket) -> str:
    name = colon(sock.own) if sock.other is None else f"{colon(sock.own)}->{colon(sock.other)}"
    return f"prog 1 root 3u IPv4 77 0t0 TCP {name} ({STATES['netstat'][sock.state]})"


FORMATS = [
    ("ss", ss),
    ("netstat", aix),
    ("netstat", solaris),
    ("onetstat", zos),
    ("onetstat", zos_long),
    ("lsof", lsof),
]


@given(st.sampled_from(FORMATS), SOCKETS, JUNK)
def test_what_is_listed_is_read_among_whatever_else(form: tuple, sockets: list[Socket], junk: list[str]) -> None:
    name, written = form
    lines = [written(sock) for sock in sockets]
    for number, line in enumerate(junk):
        lines.insert(number * 2, "# " + line)
    found = [sock._replace(program="") for sock in READERS[name]("\n".join(lines)).sockets]
    assert found == sockets


@given(
    st.sampled_from(sorted(READERS)), st.text(), st.lists(st.sampled_from(["tcp4", "TCP", "*.22", "LISTEN", "1", "\n"]))
)
def test_any_text_is_taken(name: str, text: str, words: list[str]) -> None:
    for sock in READERS[name](text + " ".join(words)).sockets:
        assert 0 < sock.own.port < 65536
        assert (sock.other is None) == (sock.state == "listening")


@given(SOCKETS)
def test_the_kernels_own_table_is_read(sockets: list[Socket]) -> None:
    states = {"listening": "0A", "open": "01", "asking": "02", "answering": "03"}

    def end(value: End | None, like: End) -> str:
        wanted = value or End("", 0)
        nobody = "::" if ":" in like.address else "0.0.0.0"
        return hex_end(ipaddress.ip_address(wanted.address or nobody).packed, wanted.port).decode()

    rows = [
        f" 0: {end(s.own, s.own)} {end(s.other, s.own)} {states[s.state]} 0:0 00:0 0 0 0 {n + 1} 1"
        for n, s in enumerate(sockets)
    ]
    assert list(read_proc("\n".join(rows).encode()).sockets) == sockets
    assert read_proc(b"\xff\x00" + "\n".join(rows).encode()[::-1]) is not None


@given(st.lists(st.lists(st.sampled_from(POOL), max_size=8, unique=True), min_size=1, max_size=4))
def test_every_connection_is_counted_once_in_one_place(looks: list[list[Socket]]) -> None:
    seen = Seen()
    for number, sockets in enumerate(looks):
        seen.add(Look(tuple(sockets)), float(number + 1))
    pairs = [{(s.own, s.other) for s in sockets if s.other is not None} for sockets in looks]
    began = sum(len(now - before) for before, now in zip([set(), *pairs], pairs, strict=False))
    peers = [*seen.uses.values(), *seen.used.values()]
    # What is within the box is counted where it connects from, and not where it is accepted.
    assert sum(peer.connections for peer in peers) + seen.ftp_data + seen.within <= began
    for peer in peers:
        assert 1 <= peer.first <= peer.last <= len(looks) and peer.connections >= 1
