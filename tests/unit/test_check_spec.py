"""Pure: how checks are written, and what is refused where."""

from __future__ import annotations

import re

import pytest

from agents.checks.kinds import (
    CheckSpec,
    ExchangeProbe,
    ExecProbe,
    Expect,
    FtpProbe,
    HttpProbe,
    Send,
    SshProbe,
    TcpProbe,
    TlsProbe,
    Tn3270Probe,
)
from agents.checks.spec import parse_check
from bridge import limits
from inventory.endpoints import Endpoint
from inventory.errors import InputError

TARGET = Endpoint("10.0.0.1", 80)
KEY = "SHA256:" + "a" * 42 + "/"


def parse(text: str) -> CheckSpec:
    return parse_check(text, target=TARGET, allow_exec=True)


def test_no_check_is_a_plain_connect() -> None:
    assert parse_check(None) == parse_check("tcp") == CheckSpec(probe=TcpProbe())


@pytest.mark.parametrize(
    ("text", "probe"),
    [
        ("tcp:10.0.0.1:80", TcpProbe()),
        ("http:/", HttpProbe("/")),
        ("http:/a?b=c&expect=200-299", HttpProbe("/a?b=c", ((200, 299),))),
        ("http:/a?expect=200,204,300-302", HttpProbe("/a", ((200, 200), (204, 204), (300, 302)))),
        ("http:/a?expect=1xx&b=c".replace("1xx", "ok"), HttpProbe("/a?expect=ok&b=c")),
        ("http://10.0.0.1:80/up", HttpProbe("/up")),
        ("exec:/bin/true", ExecProbe(("/bin/true",))),
        ("exec:/bin/sh -c 'exit 1; echo $x' \"a b\"", ExecProbe(("/bin/sh", "-c", "exit 1; echo $x", "a b"))),
        ('expect:"220 "', ExchangeProbe((Expect(b"220 "),))),
        (r'send:"\r\n" expect:"a;b\"\\"', ExchangeProbe((Send(b"\r\n"), Expect(b'a;b"\\')))),
        (r'send:"\x00\xFFa\0\t"  expect:"x"', ExchangeProbe((Send(b"\x00\xffa\0\t"), Expect(b"x")))),
        ("tls", TlsProbe()),
        ("tls:10.0.0.1:80;name=db.corp;warn=30", TlsProbe(name="db.corp", warn=30)),
        ("tls;warn=0", TlsProbe(warn=0)),
        ("ssh", SshProbe()),
        (f"ssh;key={KEY}", SshProbe(key=KEY)),
        ("ftp", FtpProbe()),
        ("tn3270:10.0.0.1:80", Tn3270Probe()),
        ("tn3270;device=IBM-3279-4-E;lu=CHECK01", Tn3270Probe(device="IBM-3279-4-E", lu="CHECK01")),
        (r'tn3270;screen="A;\"\x0a"', Tn3270Probe(screen=b"\xc1\x5e\x7f\x0a")),
        ('tn3270;screen="[";ebcdic=cp273', Tn3270Probe(screen=b"\x63", page="cp273")),
        (r'send:"A\n\x0a" expect:"é";ebcdic=cp037', ExchangeProbe((Send(b"\xc1\x25\x0a"), Expect(b"\x51")))),
    ],
)
def test_probes(text: str, probe: object) -> None:
    assert parse(text).probe == probe


def test_options() -> None:
    assert parse("ssh").interval == limits.CHECK_INTERVAL_SSH and parse("ssh;interval=5s").interval == 5.0
    for dear in ("tls", "ftp", "tn3270"):
        assert (parse(dear).interval, parse(dear).timeout) == (limits.CHECK_INTERVAL_DEAR, limits.CHECK_TIMEOUT_DEAR)
    assert parse("tcp;interval=500ms;timeout=1m;rise=3;fall=20") == CheckSpec(interval=0.5, timeout=60, rise=3, fall=20)
    assert parse("tcp;interval=2") == parse("tcp;interval=2s") == CheckSpec(interval=2.0)


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ("", 1, "not a check"),
        ("TCP", 1, "not a check"),
        ("gopher:/x", 1, "not a check"),
        ("tcp;", 5, "not an option"),
        ("tcp;intervall=2", 5, "not an option"),
        ("tcp;interval=2;interval=3", 16, "given twice"),
        ("tcp;interval=0", 5, "not a time"),
        ("tcp;interval=2h", 5, "not a time"),
        ("tcp;interval=-1", 5, "not a time"),
        ("tcp;interval=nan", 5, "not a time"),
        ("tcp;interval=1e3", 5, "not a time"),
        ("tcp;interval=٣", 5, "not a time"),
        ("tcp;timeout=99999999", 5, "not a time"),
        ("tcp;rise=0", 5, "not a number"),
        ("tcp;fall=²", 5, "not a number"),
        ("tcp;ebcdic=cp037", 5, "ebcdic= is for send and expect and tn3270 only"),
        ("tcp;warn=3", 5, "warn= is for tls only"),
        ("tls;lu=A", 5, "lu= is for tn3270 only"),
        ("tls;warn=-1", 5, "not a number of days"),
        ("tls;warn=1000", 5, "not a number of days"),
        ("tls;name=a_b", 5, "a_b"),
        ("ssh;key=MD5:00", 5, "not a fingerprint"),
        ("ssh;interval=1s", 5, "not a time from 5 s"),
        ("ssh:10.0.0.2:80", 5, "own target"),
        ("tn3270:", 8, "not ADDR:PORT"),
        ("tn3270;device=ibm 3278", 8, "not a device type"),
        ("tn3270;lu=a", 8, "not an LU"),
        ("tn3270;screen=A", 8, "not a text"),
        ('tn3270;screen=""', 8, "not a text"),
        ('tn3270;screen="ab€"', 18, "not in cp037"),
        ('expect:"x";ebcdic=utf-16', 12, "code page"),
        ("http:", 6, "must start with /"),
        ("http:health", 6, "must start with /"),
        ("http:/a b", 6, "%NN"),
        ("http:/a\r\nX: y", 6, "%NN"),
        ("http:/é", 6, "%NN"),
        ("http:/a?expect=", 16, "not a status"),
        ("http:/a?expect=200-", 16, "not a status"),
        ("http:/a?expect=299-200", 16, "not a status"),
        ("http:/a?expect=600", 16, "not a status"),
        ("exec:", 6, "absolute"),
        ("exec:true", 6, "absolute"),
        ("exec:/bin/sh -c 'x", 17, "never closed"),
        ('send:"x', 6, "never closed"),
        ("send:x", 1, 'not send:"'),
        ('send:"x" quit:"y"', 10, 'not send:"'),
        ('expect:"x"expect:"y"', 1, 'not send:"'),
        ('expect:""', 9, "empty"),
        ('send:"x"', 1, "nothing is expected"),
        (r'expect:"ab\q"', 11, "not an escape"),
        (r'expect:"ab\xg0"', 11, "not an escape"),
        ('expect:"abé"', 11, "not in ascii"),
        ("tcp;" + "x" * 5000, 1, "characters"),
        ('expect:"x" ' * 100, 1, "steps"),
    ],
)
def test_what_is_refused_and_where(text: str, position: int, what: str) -> None:
    with pytest.raises(InputError, match=re.escape(what)) as caught:
        parse(text)
    assert caught.value.where == f"check, character {position}"


@pytest.mark.parametrize(
    "text",
    [
        "http://169.254.169.254:80/latest/meta-data",
        "http://127.0.0.1:80/",
        "http://10.0.0.1:81/",
        "http://[::ffff:10.0.0.1]:80/",
        "http://user@10.0.0.1:80/",
        "http://10.0.0.1/",
        "tcp:10.0.0.2:80",
        "tcp:gw.corp:22",
    ],
)
def test_c38_a_check_reaches_only_the_instances_own_target(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


def test_c38_without_a_known_target_no_address_may_be_named() -> None:
    with pytest.raises(InputError):
        parse_check("http://10.0.0.1:80/")


def test_exec_is_refused_unless_the_source_may_name_programs() -> None:
    with pytest.raises(InputError, match=r"services\.toml"):
        parse_check("exec:/bin/true")
