from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from asyncssh.encryption import GCMEncryption
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from agents.ssh.packets import HEAD, GcmPackets

CIPHERS = [("aes128-gcm", 16), ("aes256-gcm", 32)]
Slow = Callable[[], GCMEncryption]


def pair(cipher: str, size: int, counter: int = 7) -> tuple[Slow, GcmPackets]:
    """asyncssh's object, as many as are wanted, and ours, for the same keys."""
    key, iv = os.urandom(size), os.urandom(4) + counter.to_bytes(8, "big")
    return lambda: GCMEncryption.new(cipher, key, iv), GcmPackets(key, iv)


@pytest.mark.parametrize(("cipher", "size"), CIPHERS)
@given(data=st.lists(st.binary(max_size=300), min_size=1, max_size=5), most=st.integers(1, 200))
def test_what_is_sealed_here_asyncssh_opens(cipher: str, size: int, data: list[bytes], most: int) -> None:
    """The slow twin: every packet is opened as asyncssh opens what comes from a server, one by one."""
    make, ours = pair(cipher, size)
    theirs = make()
    out: list[bytes] = []
    counted = sum(ours.seal_data(5, memoryview(part), most, out) for part in data)
    stream, found, plain = b"".join(out), b"", 0
    while stream:
        length = int.from_bytes(stream[:4], "big")
        assert length % 16 == 0
        first, rest, mac = stream[:16], stream[16 : 4 + length], stream[4 + length : 20 + length]
        packet = theirs.decrypt_packet(0, first, rest, 4, mac)
        assert packet is not None
        padding, kind, channel, count = HEAD.unpack_from(packet)
        assert (kind, channel) == (94, 5)
        assert padding >= 4 and HEAD.size + count + padding == len(packet)
        assert 0 < count <= most
        found += packet[HEAD.size : HEAD.size + count]
        plain += len(packet)
        stream = stream[20 + length :]
    assert found == b"".join(data)
    assert counted == plain


@pytest.mark.parametrize(("cipher", "size"), CIPHERS)
@given(packets=st.lists(st.binary(min_size=16, max_size=200), min_size=1, max_size=5))
def test_both_give_and_take_the_same_bytes(cipher: str, size: int, packets: list[bytes]) -> None:
    make, ours = pair(cipher, size, counter=2**64 - 2)  # the counter runs over, and the fixed part stays
    theirs, opener = make(), GcmPackets(*_secrets(make()))
    for packet in packets:
        header = len(packet).to_bytes(4, "big")
        sealed = b"".join(theirs.encrypt_packet(0, header, packet))
        assert b"".join(ours.encrypt_packet(0, header, packet)) == sealed
        assert opener.open(memoryview(sealed)) == packet


def _secrets(made: GCMEncryption) -> tuple[bytes, bytes]:
    return made._cipher._key, made._cipher._iv


@given(where=st.integers(0, 51), bit=st.integers(0, 7))
def test_a_changed_bit_anywhere_is_noticed(where: int, bit: int) -> None:
    make, ours = pair("aes128-gcm", 16)
    sealed = bytearray(b"".join(make().encrypt_packet(0, (32).to_bytes(4, "big"), bytes(32))))
    sealed[where] ^= 1 << bit
    with pytest.raises(InvalidTag):
        ours.open(memoryview(sealed))
    other = GcmPackets(*_secrets(make()))
    assert other.decrypt_packet(0, bytes(sealed[:16]), bytes(sealed[16:36]), 4, bytes(sealed[36:])) is None


def test_a_packet_that_was_opened_already_is_handed_over_once() -> None:
    make, ours = pair("aes128-gcm", 16)
    theirs = make()
    first, second = (b"".join(theirs.encrypt_packet(0, (32).to_bytes(4, "big"), text * 32)) for text in (b"a", b"b"))
    ours.ready = ours.open(memoryview(first))
    assert ours.decrypt_packet(0, first[:16], first[16:36], 4, first[36:]) == b"a" * 32
    assert ours.decrypt_packet(0, second[:16], second[16:36], 4, second[36:]) == b"b" * 32
