"""Pure: the client's side of an SSH key exchange; the whole of it is tested against a real sshd (tests/e2e)."""

from __future__ import annotations

import pytest

from agents.checks.answers import Failed
from agents.checks.ssh_exchange import _KEX, GOODBYE, Exchange, _framed, _names, _prime, _string

BANNER = b"SSH-2.0-OpenSSH_9.2\r\n"
CURVE = ("curve25519-sha256",)


def init(kex: tuple[str, ...] = CURVE, keys: tuple[str, ...] = ("ssh-ed25519",)) -> bytes:
    ciphers = ("aes128-ctr",) * 2 + ("hmac-sha2-256",) * 2 + ("none",) * 2
    lists = (kex, keys, *((name,) for name in ciphers), (), ())
    return _framed(b"\x14" + bytes(16) + b"".join(map(_names, lists)) + bytes(5))


def test_it_speaks_after_the_version_and_not_before() -> None:
    exchange = Exchange()
    assert exchange.feed(b"Welcome to AIX\r\nSSH-2.0-") == b""
    said = exchange.feed(b"OpenSSH_6.0\r\n")
    assert said.startswith(b"SSH-2.0-meshbridge_check\r\n\x00\x00")
    assert exchange.reached == "its version is 'SSH-2.0-OpenSSH_6.0'"


@pytest.mark.parametrize("length", range(64))
def test_packets_are_whole_blocks_with_enough_padding(length: int) -> None:
    packet = _framed(bytes(length))
    assert len(packet) % 8 == 0
    assert packet[4] >= 4 and int.from_bytes(packet[:4]) == len(packet) - 4 == 1 + length + packet[4]


@pytest.mark.parametrize(("bits", "offset"), [(1024, 129093), (2048, 124476), (4096, 240904)])
def test_the_primes_are_those_of_the_rfcs(bits: int, offset: int) -> None:
    """By their first digits, and by being safe primes; tests/e2e has them agree with a real sshd's."""
    prime = _prime(bits, offset)
    assert prime.bit_length() == bits
    for number in (prime, (prime - 1) // 2):
        assert pow(3, number - 1, number) == 1
    assert hex(prime).startswith("0xffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"Exceeded MaxStartups\r\n", "refuses our address for now (PerSourcePenalties or MaxStartups)"),
        (b"Not allowed at this time\r\n", "refuses our address for now (PerSourcePenalties or MaxStartups)"),
        (b"SSH-1.5-old\r\n", "only an SSH before 2.0: 'SSH-1.5-old'"),
        (b"x" * 300, "it does not speak SSH: 'xxxx"),
        (b"hello\r\n" * 60, "it does not speak SSH: 'hello'"),
        (BANNER + init(kex=("sntrup",)), "no key exchange in common: it offers 'sntrup'"),
        (BANNER + init(keys=("ssh-dss",)), "no host key in common: it offers 'ssh-dss'"),
        (BANNER + b"\xff\xff\xff\xff\x04", "a packet of 4294967295 bytes"),
        (BANNER + b"\x00\x00\x00\x0c\xff", "a packet of 12 bytes with 255 of padding"),
        (BANNER + _framed(b"\x02") * 70, "more than 64 packets"),
        (BANNER + _framed(b"\x14short"), "a message 20 that ends too early"),
        (BANNER + _framed(b"\x06"), "a message 6 that does not belong there"),
        (BANNER + init() + init(), "a message 20 that does not belong there"),
        (BANNER + _framed(b"\x1f" + bytes(12)), "a message 31 that does not belong there"),
        (
            BANNER + _framed(b"\x01\x00\x00\x00\x02" + _string(b"Too many \x1b[2J authentication failures") + bytes(4)),
            r"it disconnects: 'Too many \x1b[2J authentication failures'",
        ),
        (BANNER + init() + _framed(b"\x1f" + _string(b"k") + _string(b"q" * 31) + _string(b"s")), "bad key exchange"),
        (BANNER + init() + _framed(b"\x1f" + _string(b"k") + _string(bytes(32)) + _string(b"s")), "bad key exchange"),
        (
            BANNER + init() + _framed(b"\x1f" + _string(b"k") + _string(b"\x09" + bytes(31)) + _string(b"s")),
            "does not prove its host key",
        ),
    ],
)
def test_h30_what_is_no_honest_sshd_is_named(said: bytes, reason: str) -> None:
    with pytest.raises(Failed) as caught:
        Exchange().feed(said)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_end_says_how_far_it_came() -> None:
    assert str(Exchange().ended()) == "it closed without a word"
    exchange = Exchange()
    exchange.feed(BANNER)
    assert str(exchange.ended()).endswith("'SSH-2.0-OpenSSH_9.2', then it closed in the middle of the key exchange")


def test_goodbye_is_a_disconnect_by_the_application() -> None:
    assert GOODBYE[5:10] == b"\x01\x00\x00\x00\x0b"


def test_old_methods_are_used_only_when_there_is_no_other() -> None:
    old = [method.old for method in _KEX.values()]
    assert old == sorted(old) and True in old
    exchange = Exchange()
    exchange.feed(BANNER + init(kex=("diffie-hellman-group1-sha1",), keys=("ssh-rsa",)))
    assert exchange.note == "it has only old algorithms: diffie-hellman-group1-sha1, ssh-rsa"
    modern = Exchange()
    modern.feed(BANNER + init(kex=("diffie-hellman-group1-sha1", "curve25519-sha256"), keys=("ssh-rsa", "ssh-ed25519")))
    assert modern.note == ""
