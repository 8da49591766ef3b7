"""Pure: what ss, the netstats of Linux, AIX, Solaris and z/OS, and lsof print; what becomes of hostile text (H30)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from agents.discovery.listings import READERS, read_lsof, read_netstat, read_ss
from agents.discovery.proc_tables import inodes, read_proc
from agents.discovery.sockets import ANY, End, Look, Socket, parse_end, parse_state
from bridge import limits
from bridge.socket_rows import hex_end

SSH = Socket("listening", End(ANY, 22), None)
MQ = Socket("listening", End("10.1.0.7", 1414), None)
SESSION = Socket("open", End("10.1.0.7", 22), End("10.9.0.2", 50022))
DB2 = Socket("open", End("10.1.0.7", 40001), End("10.1.0.8", 50000))
SIX = Socket("open", End("2001:db8::7", 40002), End("2001:db8::8", 1414))


def plain(look: Look) -> list[Socket]:
    return [sock._replace(program="") for sock in look.sockets]


def programs(look: Look) -> list[str]:
    return [sock.program for sock in look.sockets]


SS = """\
State  Recv-Q Send-Q   Local Address:Port    Peer Address:Port Process
LISTEN 0      128            0.0.0.0:22           0.0.0.0:*     users:(("sshd",pid=812,fd=3))
LISTEN 0      128               [::]:22              [::]:*     users:(("sshd",pid=812,fd=4))
LISTEN 0      50            10.1.0.7:1414         0.0.0.0:*     users:(("amqrmppa",pid=9,fd=7),("amqrmppa",pid=8,fd=7))
ESTAB  0      0             10.1.0.7:22          10.9.0.2:50022 users:(("sshd: a (b) \\"c",pid=9,fd=4))
ESTAB  0      0    [::ffff:10.1.0.7]:40001 [::ffff:10.1.0.8]:50000
ESTAB  0      0        [2001:db8::7]:40002   [2001:db8::8]:1414 timer:(keepalive,1min,0)
UNCONN 0      0              0.0.0.0:68           0.0.0.0:*
"""


def test_ss() -> None:
    look = read_ss(SS)
    assert plain(look) == [SSH, MQ, SESSION, DB2, SIX]
    assert programs(look) == ["sshd", "amqrmppa", "sshd: a (b) \\", "", ""]
    assert not look.is_cut


def test_ss_of_other_versions() -> None:
    old = "State Recv-Q Send-Q Local Address:Port Peer Address:Port\nLISTEN  0 128 *:22 *:*\nLISTEN 0 128 :::22 :::*\n"
    assert plain(read_ss(old)) == [SSH]
    several = "Netid State Recv-Q Send-Q Local Address:Port\ntcp ESTAB 0 0 10.1.0.7%eth0:22 10.9.0.2:50022\n"
    assert plain(read_ss(several)) == [SESSION]


LINUX = """\
Active Internet connections (servers and established)
Proto Recv-Q Send-Q Local Address           Foreign Address         State       PID/Program name
tcp        0      0 0.0.0.0:22              0.0.0.0:*               LISTEN      812/sshd: /usr/sbin
tcp6       0      0 :::22                   :::*                    LISTEN      812/sshd: /usr/sbin
tcp        0      0 10.1.0.7:1414           0.0.0.0:*               LISTEN      -
tcp        0     36 10.1.0.7:22             10.9.0.2:50022          ESTABLISHED 913/sshd: ops
tcp6       0      0 ::ffff:10.1.0.7:40001   ::ffff:10.1.0.8:50000   ESTABLISHED 77/java
tcp6       0      0 2001:db8::7:40002       2001:db8::8:1414        CLOSE_WAIT  77/java
udp        0      0 0.0.0.0:68              0.0.0.0:*                           500/dhclient
Active UNIX domain sockets (servers and established)
Proto RefCnt Flags       Type       State         I-Node   Path
unix  2      [ ACC ]     STREAM     LISTENING     18213    /run/systemd/private
"""

AIX = """\
Active Internet connections (including servers)
PCB/ADDR         Proto Recv-Q Send-Q  Local Address      Foreign Address    (state)
f1000e0000180bb8 tcp        0      0  *.22               *.*                LISTEN
f1000e0000181bb8 tcp4       0      0  10.1.0.7.1414      *.*                LISTEN
f1000e0000182bb8 tcp4       0     48  10.1.0.7.22        10.9.0.2.50022     ESTABLISHED
f1000e0000183bb8 tcp4       0      0  10.1.0.7.40001     10.1.0.8.50000     FIN_WAIT_2
f1000e0000184bb8 tcp6       0      0  2001:db8::7.40002  2001:db8::8.1414   ESTABLISHED
f1000e0000185bb8 tcp4       0      0  10.1.0.7.22        10.9.0.9.50022     CLOSED
f1000e0000186200 udp        0      0  *.111              *.*
Active UNIX domain sockets
SADR/PCB         Type   Recv-Q Send-Q Inode            Conn             Refs             Nextref          Addr
f1000e000b0e6808 dgram       0      0 f1000b02a0a5b820                0                0                0 /dev/log
"""

SOLARIS = """\

UDP: IPv4
   Local Address        Remote Address      State
-------------------- -------------------- ----------
      *.111                               Idle
TCP: IPv4
   Local Address        Remote Address    Swind Send-Q Rwind Recv-Q    State
-------------------- -------------------- ----- ------ ----- ------ -----------
      *.*                  *.*                0      0 49152      0 IDLE
      *.22                 *.*                0      0 49152      0 LISTEN
10.1.0.7.1414              *.*                0      0 49152      0 LISTEN
10.1.0.7.22          10.9.0.2.50022       49640      0 49640      0 ESTABLISHED
10.1.0.7.40001       10.1.0.8.50000       49640      0 49640      0 TIME_WAIT

TCP: IPv6
   Local Address                     Remote Address                 Swind Send-Q Rwind Recv-Q   State      If
--------------------------------- --------------------------------- ----- ------ ----- ------ ----------- -----
      *.*                               *.*                             0      0 49152      0 IDLE
      *.22                              *.*                             0      0 49152      0 LISTEN
2001:db8::7.40002                 2001:db8::8.1414                  49640      0 49640      0 ESTABLISHED bge0

Active UNIX domain sockets
Address          Type       Vnode            Conn             Local Addr      Remote Addr
ffffffffb3fd8a88 stream-ord ffffffffb4cba580 00000000 /tmp/.X11-unix/X0
"""

ZOS = """\
MVS TCP/IP NETSTAT CS V2R5       TCPIP Name: TCPIP           00:20:01
User Id  Conn     Local Socket           Foreign Socket         State
-------  ----     ------------           --------------         -----
SSHD4    0000000B 0.0.0.0..22            0.0.0.0..0             Listen
CSQ9CHIN 00000046 10.1.0.7..1414         0.0.0.0..0             Listen
SSHD4    00003016 10.1.0.7..22           10.9.0.2..50022        Establsh
PAYJOB1  00003057 10.1.0.7..40001        10.1.0.8..50000        FinWait2
SYSLOGD1 00000050 0.0.0.0..514           *..*                   UDP
"""

ZOS_SIX = """\
MVS TCP/IP NETSTAT CS V2R5       TCPIP Name: TCPIP           13:47:39
User Id  Conn     State
-------  ----     -----
SSHD4    0000000B Listen
  Local Socket:   ::..22
  Foreign Socket: ::..0
CSQ9CHIN 00000046 Listen
  Local Socket:   10.1.0.7..1414
  Foreign Socket: 0.0.0.0..0
SSHD4    00003016 Establsh
  Local Socket:   ::ffff:10.1.0.7..22
  Foreign Socket: ::ffff:10.9.0.2..50022
PAYJOB1  00003057 ClosWait
  Local Socket:   10.1.0.7..40001
  Foreign Socket: 10.1.0.8..50000
PAYJOB1  00003058 Establsh
  Local Socket:   2001:db8::7..40002
  Foreign Socket: 2001:db8::8..1414
"""


@pytest.mark.parametrize("text", [LINUX, AIX, SOLARIS, ZOS_SIX], ids=["linux", "aix", "solaris", "zos with IPv6"])
def test_every_netstat_says_the_same(text: str) -> None:
    assert plain(read_netstat(text)) == [SSH, MQ, SESSION, DB2, SIX]


def test_the_netstat_of_zos_without_ipv6() -> None:
    look = read_netstat(ZOS)
    assert plain(look) == [SSH, MQ, SESSION, DB2]
    assert programs(look) == ["SSHD4", "CSQ9CHIN", "SSHD4", "PAYJOB1"]
    assert programs(read_netstat(ZOS_SIX)) == ["SSHD4", "CSQ9CHIN", "SSHD4", "PAYJOB1", "PAYJOB1"]


def test_the_netstat_of_linux_names_programs() -> None:
    assert programs(read_netstat(LINUX)) == ["sshd", "", "sshd", "java", "java"]


def test_a_netstat_with_owners() -> None:
    """Of illumos, with -u."""
    text = """TCP: IPv4
   Local Address        Remote Address      User    Pid       Command     Swind Send-Q Rwind Recv-Q    State
10.1.0.7.22          10.9.0.2.50022       root        531 sshd           134664     51  128872      0 ESTABLISHED
"""
    assert read_netstat(text).sockets == (SESSION._replace(program="sshd"),)


def test_lsof() -> None:
    text = """\
COMMAND   PID   USER   FD   TYPE             DEVICE SIZE/OFF NODE NAME
sshd      812   root    3u  IPv4              11111      0t0  TCP *:22 (LISTEN)
sshd      812   root    4u  IPv6              11112      0t0  TCP *:22 (LISTEN)
amqrmppa   98    mqm    7u  IPv4              11113      0t0  TCP 10.1.0.7:1414 (LISTEN)
sshd      913   root    4u  IPv4 0xf100020000c8dbb0      0t0  TCP 10.1.0.7:22->10.9.0.2:50022 (ESTABLISHED)
my\\x20db   77     db    9u  IPv6              11115      0t0  TCP 10.1.0.7:40001->10.1.0.8:50000 (CLOSE_WAIT)
java       77     db   10u  IPv6              11116      0t0  TCP [2001:db8::7]:40002->[2001:db8::8]:1414 (ESTABLISHED)
java       77     db   11u  IPv6              11117      0t0  TCP 10.1.0.7:40009->10.1.0.8:50000 (CLOSED)
java       77     db   12u  IPv6              11118      0t0  TCP no PCB, CANTSENDMORE, CANTRCVMORE
"""
    look = read_lsof(text)
    assert plain(look) == [SSH, MQ, SESSION, DB2, SIX]
    assert programs(look)[3] == "my\\x20db"


def proc_line(own: tuple[str, int], other: tuple[str, int], state: str, inode: int) -> bytes:
    import ipaddress

    ends = [hex_end(ipaddress.ip_address(address).packed, port).decode() for address, port in (own, other)]
    return f"   0: {ends[0]} {ends[1]} {state} 00000000:00000000 00:00000000 00000000  0        0 {inode} 1\n".encode()


def test_the_tables_of_the_kernel() -> None:
    text = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    text += proc_line(("0.0.0.0", 22), ("0.0.0.0", 0), "0A", 1)
    text += proc_line(("::", 22), ("::", 0), "0A", 2)
    text += proc_line(("10.1.0.7", 1414), ("0.0.0.0", 0), "0A", 3)
    text += proc_line(("10.1.0.7", 22), ("10.9.0.2", 50022), "01", 4)
    text += proc_line(("::ffff:10.1.0.7", 40001), ("::ffff:10.1.0.8", 50000), "06", 0)
    text += proc_line(("2001:db8::7", 40002), ("2001:db8::8", 1414), "08", 6)
    text += proc_line(("10.1.0.7", 50000), ("0.0.0.0", 0), "07", 7)
    look = read_proc(text, {1: "sshd", 4: "sshd"}.get)  # type: ignore[arg-type]
    assert plain(look) == [SSH, MQ, SESSION, DB2, SIX]
    assert inodes(text) == {1, 2, 3, 4, 6}


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("10.0.0.1:22", End("10.0.0.1", 22)),
        ("10.0.0.1.22", End("10.0.0.1", 22)),
        ("10.0.0.1..22", End("10.0.0.1", 22)),
        ("*.22", End(ANY, 22)),
        ("*:22", End(ANY, 22)),
        (":::22", End(ANY, 22)),
        ("::..22", End(ANY, 22)),
        ("*.*", End(ANY, 0)),
        ("0.0.0.0:*", End(ANY, 0)),
        ("::1:22", End("::1", 22)),
        ("::1.22", End("::1", 22)),
        ("[::1]:22", End("::1", 22)),
        ("[fe80::1]%eth0:22", End("fe80::1", 22)),
        ("fe80::1%en0.22", End("fe80::1", 22)),
        ("::FFFF:10.0.0.1..22", End("10.0.0.1", 22)),
        ("10.0.0.1:65536", None),
        ("10.0.0.1:-1", None),
        ("10.0.0.1:٢٢", None),
        ("host.corp:22", None),
        ("10.0.0:22", None),
        ("22", None),
        ("", None),
        ("..", None),
        (":", None),
    ],
)
def test_ends_in_every_spelling(text: str, end: End | None) -> None:
    assert parse_end(text) == end


def test_states_in_every_spelling() -> None:
    for text in ("ESTAB", "ESTABLISHED", "Establsh", "TIME-WAIT", "TIME_WAIT", "FIN_WAIT_2", "FIN-WAIT-1", "ClosWait"):
        assert parse_state(text) == "open"
    assert [parse_state(text) for text in ("LISTEN", "Listen", "SYN-SENT", "SYN_RCVD")] == [
        *("listening", "listening"),
        *("asking", "answering"),
    ]
    assert [parse_state(text) for text in ("IDLE", "CLOSED", "UNCONN", "UDP", "", "BOUND")] == [None] * 6


# --- hostile text -------------------------------------------------------------------------------------------------

LINES: dict[str, Callable[[int], str]] = {
    "ss": lambda n: f"ESTAB 0 0 10.1.{n >> 8 & 255}.{n & 255}:{n % 60000 + 1} 10.0.0.1:80",
    "onetstat": lambda n: f"JOB 0000000A 10.1.{n >> 8 & 255}.{n & 255}..{n % 60000 + 1} 10.0.0.1..80 Establsh",
    "netstat": lambda n: f"tcp4 0 0 10.1.{n >> 8 & 255}.{n & 255}.{n % 60000 + 1} 10.0.0.1.80 ESTABLISHED",
    "lsof": lambda n: (
        f"c 1 u 3u IPv4 1 0t0 TCP 10.1.{n >> 8 & 255}.{n & 255}:{n % 60000 + 1}->10.0.0.1:80 (CLOSED) TCP"
    ),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0" * 5000,
        "\x1b]0;owned\x07\x1b[2J tcp 0 0 \x1b[31m 10.0.0.1:1 LISTEN",
        "tcp " * 100_000,
        "TCP ((((" * 1000 + "\n",
        "tcp 0 0 " + "1" * 5000 + ".22 *.* LISTEN\n",
        "Local Socket: x\nForeign Socket: y\n" * 100,
        "JOB 0000000A Listen\nLocal Socket: 0.0.0.0..99999\nForeign Socket: 0.0.0.0..0",
        "tcp 0 0 ٣.1.1.1:1 *:* LISTEN\n² ² ² ² ² ² LISTEN",
        "10.0.0.1.1 10.0.0.2.2 ² ² ² ² ESTABLISHED\r\n",
        'LISTEN 0 0 a:1 b:* users:((("""""(((((',
        "\ud800 \udfff tcp",
    ],
    ids=range(12),
)
def test_h30_text_that_is_no_listing_is_none(name: str, text: str) -> None:
    assert all(len(sock.program) <= limits.DISCOVER_PROGRAM_MAX for sock in READERS[name](text).sockets)
    assert len(READERS[name](text).sockets) <= 1


def test_h30_a_box_with_very_many_sockets_is_read_so_far_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DISCOVER_SOCKETS_MAX", 100)
    for name in ("ss", "onetstat", "netstat"):
        look = READERS[name]("\n".join(LINES[name](n) for n in range(500)))
        assert (len(look.sockets), look.is_cut) == (100, True), name
    monkeypatch.setattr(limits, "DISCOVER_TEXT_MAX", 1000)
    look = read_ss("\n".join(LINES["ss"](n) for n in range(50)))
    assert look.is_cut and 10 < len(look.sockets) < 30


@pytest.mark.parametrize("name", READERS)
def test_h30_as_much_text_as_a_gateway_passes_on_is_read_in_a_moment(name: str) -> None:
    """A sixteenth of it, so that this test is one as well; the time grows with the text and not faster."""
    most = limits.DISCOVER_TEXT_MAX // 16
    for line in (LINES[name](7), "(" * 1000, "users:((" * 120, "tcp4 " * 200, " " * 1000):
        text = (line + "\n") * (most // (len(line) + 1))
        began = time.process_time()
        READERS[name](text)
        assert time.process_time() - began < 2.0
