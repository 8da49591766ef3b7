"""F42, C33 to C36, H33: whatever an ssh server sends, the worker says within 5 s what is wrong with it, in words that
are safe to print; its other hosts do not notice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.workers.ssh_messages import LastHop
from tests.support.debian_programs import Program
from tests.support.estate import Estate
from tests.support.hostile_sshd import LOGGED_IN, RAW, HostileSshd
from tests.support.ssh_worker import NotOpened, SshWorkerUnderTest
from tests.support.sshd import Sshd, keygen

NOTICED = 5.0
Honest = tuple[LastHop, SshWorkerUnderTest, Path, Sshd]
WORDS = {
    "silent": ("protocol", "said no ssh version"),
    "stall": ("protocol", "did not finish the key exchange"),
    "banner": ("protocol", "before the login was over|Too many banner lines"),
    "line": ("protocol", "Banner line too long|before the login was over"),
    "trickle": ("protocol", "said no ssh version within 4.5 s"),
    "http": ("protocol", "no ssh server that we can speak to: it says 'HTTP/1.1 400"),
    "escape": ("protocol", "no ssh server that we can speak to"),
    "kexstall": ("protocol", "did not finish the key exchange"),
    "huge": ("protocol", "Max packet size exceeded"),
    "ignores": ("protocol", "before the login was over|did not finish"),
    "ext": ("protocol", "ssh protocol|before the login was over"),
    "early": ("protocol", "ssh protocol"),
    "denier": ("authentication", "does not let user somebody in with our key; its banner says"),
    "truncator": ("algorithms", "offers no encryption algorithm that is allowed; it offers chacha20"),
    "flood": ("protocol", "floods us with messages that carry nothing"),
    "asker": ("protocol", "floods us with messages that carry nothing|does not read what it is sent"),
}


@pytest.fixture(scope="module")
def honest(openssh: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Honest]:
    """A worker with a host that behaves."""
    directory = tmp_path_factory.mktemp("ssh")
    with (
        Estate(directory) as estate,
        Sshd(directory / "box", estate.free_port()) as box,
        SshWorkerUnderTest(directory / "w") as worker,
    ):
        key = box.new_user_key()
        hop = worker.hop(box, key)
        worker.know(hop)
        worker.wait("box", "up")
        yield hop, worker, key, box


@pytest.mark.parametrize("kind", WORDS)
def test_f42_c35_it_is_given_up_within_5_s_with_its_reason(honest: Honest, kind: str) -> None:
    box, worker, key, _sshd = honest
    with HostileSshd(kind) as hostile:
        worker.longest_silence = 0.0
        began = time.monotonic()
        after = len(worker.history)
        worker.know(box, worker.hop(hostile, key, name=kind))  # type: ignore[arg-type]
        state = worker.wait(kind, "down", after=after)
        took = time.monotonic() - began
        cause, words = WORDS[kind]
        print(f"{kind}: {state.cause}: {state.reason} ({took:.1f} s, loop late by {worker.longest_silence:.2f} s)")
        assert state.cause == cause, state
        assert any(word in state.reason for word in words.split("|")), state
        assert state.reason.isascii() and state.reason.isprintable() and len(state.reason) < 700
        assert took < NOTICED + 1
        assert worker.states["box"].state == "up" and worker.states["box"].connects == 1
        with pytest.raises(NotOpened, match="is down"):
            worker.ask(kind, "127.0.0.1:1")
        worker.know(box)
    assert not worker.notices


@pytest.mark.parametrize("kind", sorted({*RAW, *LOGGED_IN} - WORDS.keys()))
def test_f42_c35_what_it_does_to_a_channel_ends_that_channel(honest: Honest, kind: str) -> None:
    box, worker, key, _sshd = honest
    with HostileSshd(kind) as hostile:
        worker.know(box, worker.hop(hostile, key, name=kind))  # type: ignore[arg-type]
        worker.wait(kind, "up")
        if kind in ("mute", "opener"):
            with pytest.raises(NotOpened, match=r"did not connect to|connection refused at the host"):
                worker.ask(kind, "127.0.0.1:1")
        elif kind == "window":
            with worker.ask(kind, "127.0.0.1:1") as stream:
                sent = _send_until_stuck(stream.sock)
                assert sent < 4 << 20, "what a host does not take waits at the sender"
        else:
            with worker.ask(kind, "127.0.0.1:1") as stream, pytest.raises(ConnectionResetError):
                stream.read_to_end()
            assert "Window exceeded" in worker.wait(kind, "down").reason
        assert worker.states["box"].state == "up" and worker.states["box"].connects == 1
        worker.know(box)
    assert not worker.notices


def _send_until_stuck(sock: object) -> int:
    sent = 0
    sock.settimeout(1.0)  # type: ignore[attr-defined]
    try:
        while sent < 16 << 20:
            sent += sock.send(bytes(1 << 16))  # type: ignore[attr-defined]
    except TimeoutError:
        pass
    return sent


def test_h33_a_changed_unknown_or_weak_host_key_each_has_its_own_words(honest: Honest, tmp_path: Path) -> None:
    box, worker, key, sshd = honest
    other = " ".join(keygen(tmp_path / "other").split()[:2])
    kind = " ".join(keygen(tmp_path / "ecdsa", "ecdsa").split()[:2])
    weak = " ".join(keygen(tmp_path / "weak", "rsa", "-b", "1024").split()[:2])
    ca = "@cert-authority " + other
    hops = {
        "changed": worker.hop(sshd, key, name="changed", host_keys=(other,)),
        "kind": worker.hop(sshd, key, name="kind", host_keys=(kind,)),
        "weak": worker.hop(sshd, key, name="weak", host_keys=(weak,)),
        "nocert": worker.hop(sshd, key, name="nocert", host_keys=(ca,)),
    }
    worker.know(box, *hops.values())
    said = {name: worker.wait(name, "down").reason for name in hops}
    print(said)
    assert "shows another host key than the one that was signed" in said["changed"]
    assert "SHA256:" in said["changed"]
    assert "has no host key of a kind that was signed; it offers ssh-ed25519" in said["kind"]
    assert "weak host key: RSA with 1024 bits" in said["weak"]
    assert "has no host key of a kind that was signed" in said["nocert"]
    worker.know(box)
