from __future__ import annotations

import socket

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.ssh.reasons import Heard, why_failed, why_lost, why_not_opened
from bridge.tunnels.frames import Code
from inventory.errors import InputError

HEARD = Heard("10.0.0.1:22", "batch", connected=True, version="SSH-2.0-x", key="ssh-ed25519 SHA256:abc")
NEW = Heard("10.0.0.1:22", "batch")
FULL = Heard("10.0.0.1:22", "batch", connected=True, early=b"Exceeded MaxStartups\r\n")
OTHER_KEYS = Heard(
    "10.0.0.1:22", "batch", connected=True, version="SSH-2.0-x",
    offers={"key exchange": ("a",), "host key": ("ssh-ed25519",)}, wanted={"key exchange": ("a",), "host key": ("b",)},
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "heard", "cause", "words"),
    [
        (ConnectionRefusedError(111, "x"), NEW, "unreachable", "nothing listens at 10.0.0.1:22"),
        (OSError(113, "No route to host"), NEW, "unreachable", "cannot be reached: No route to host"),
        (socket.gaierror(-2, "Name or service not known"), NEW, "unreachable", "cannot be resolved"),
        (TimeoutError(), NEW, "unreachable", "does not answer"),
        (asyncssh.ConnectionLost("x"), FULL, "refused", "takes no connection now"),
        (asyncssh.ConnectionLost("x"), OTHER_KEYS, "key", "has no host key of a kind that was signed"),
        (asyncssh.ConnectionLost("x"), HEARD, "lost", "during the login"),
        (asyncssh.HostKeyNotVerifiable("Host key is not trusted for host x"), HEARD, "key", "another host key"),
        (asyncssh.HostKeyNotVerifiable("Certificate expired for host x"), HEARD, "key", "host certificate"),
        (asyncssh.PermissionDenied("x"), HEARD, "authentication", "does not let user batch in"),
        (InputError("the credential was sealed to another key"), HEARD, "local", "sealed to another key"),
        (asyncssh.ProtocolError("Bad packet"), HEARD, "protocol", "broke the ssh protocol: Bad packet"),
        (ZeroDivisionError(), HEARD, "protocol", "could not be understood: ZeroDivisionError"),
    ],
)
def test_each_failure_has_its_cause_and_its_words(error: Exception, heard: Heard, cause: str, words: str) -> None:
    why = why_failed(error, heard)
    assert (why.cause, words in why.reason) == (cause, True), why


@given(said=st.text(max_size=40), early=st.binary(max_size=40), banner=st.text(max_size=20))
def test_h33_nothing_that_a_host_says_acts_on_a_terminal(said: str, early: bytes, banner: str) -> None:
    heard = Heard("10.0.0.1:22", "batch", connected=True, early=early, banner=ascii(banner)[:200])
    errors: list[Exception] = [
        asyncssh.ProtocolError(said),
        asyncssh.KeyExchangeFailed(said),
        asyncssh.ConnectionLost(""),
    ]
    errors += [
        asyncssh.HostKeyNotVerifiable(said),
        asyncssh.PermissionDenied(said),
        asyncssh.ProtocolNotSupported(said),
    ]
    for text in (
        *(why_failed(error, heard).reason for error in errors),
        *(why_lost(error, "x:22").reason for error in (*errors, OSError(5, said))),
        *(why_not_opened(asyncssh.ChannelOpenError(code, said), "h", "t:1")[1] for code in range(6)),
    ):
        assert text.isascii() and text.isprintable() and len(text) < 1200


def test_sshds_refusal_of_a_channel_is_told_in_its_own_words() -> None:
    prohibited = why_not_opened(asyncssh.ChannelOpenError(1, "open failed"), "box", "127.0.0.1:80")
    assert prohibited[0] is Code.CONNECT_FAILED
    assert "PermitOpen/AllowTcpForwarding does not let it" in prohibited[1]
    refused = why_not_opened(asyncssh.ChannelOpenError(2, "Connection refused"), "box", "127.0.0.1:80")
    assert refused[1].startswith("connection refused at the host")
