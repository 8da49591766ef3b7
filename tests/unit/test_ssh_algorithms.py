from __future__ import annotations

import base64

import pytest
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from agents.ssh.algorithms import CBC, SHA1, HostKeys, Suite, old_ones, sort_host_keys, suite_for
from inventory.errors import InputError
from inventory.reach import SSH_PROFILES


def line(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(*form).decode()


ED25519 = line(ed25519.Ed25519PrivateKey.generate())
RSA = line(rsa.generate_private_key(65537, 2048))
WEAK = line(rsa.generate_private_key(65537, 1024))
ECDSA = line(ec.generate_private_key(ec.SECP256R1()))
ALLOWED: tuple[tuple[str, ...], ...] = ((), (SHA1,), (CBC,), (SHA1, CBC))


def suite(*lines: str, allowed: tuple[str, ...] = ()) -> Suite:
    return suite_for(sort_host_keys(lines, allowed), allowed)


def test_the_profiles_are_those_that_an_operator_signs() -> None:
    assert {SHA1, CBC} == set(SSH_PROFILES)


@pytest.mark.parametrize("allowed", ALLOWED)
def test_c33_what_prefix_truncation_works_on_is_never_offered(allowed: tuple[str, ...]) -> None:
    found = suite(ED25519, allowed=allowed)
    assert not any("chacha" in name or "arcfour" in name for name in found.ciphers)
    if any("cbc" in name for name in found.ciphers):
        assert not any("etm" in name for name in found.macs)
    assert not any("group-exchange" in name for name in found.kex), "the server chooses how long we calculate"


def test_without_an_allowance_nothing_old_is_offered_and_aes_gcm_comes_first() -> None:
    found = suite(ED25519, RSA)
    assert old_ones((*found.kex, *found.ciphers, *found.macs, *found.signatures, *found.host_keys)) == ()
    assert found.ciphers[0] == "aes128-gcm@openssh.com"
    assert not any("sha1" in name for name in (*found.kex, *found.macs)) and "ssh-rsa" not in found.host_keys


def test_an_allowance_adds_what_it_names_at_the_end_and_it_is_told_when_in_use() -> None:
    old = suite(RSA, allowed=(SHA1, CBC))
    new = suite(RSA)
    assert old.kex[: len(new.kex)] == new.kex and old.ciphers[: len(new.ciphers)] == new.ciphers
    assert old_ones(("curve25519-sha256", "aes128-cbc", "hmac-sha1", "ssh-rsa")) == (
        "aes128-cbc",
        "hmac-sha1",
        "ssh-rsa",
    )
    assert suite(RSA, allowed=(CBC,)).kex == new.kex


@pytest.mark.parametrize("allowed", ALLOWED)
def test_the_library_has_nearly_all_of_them_so_no_name_is_misspelt(allowed: tuple[str, ...]) -> None:
    found = suite(ED25519, allowed=allowed)
    known = {name.decode() for name in (*get_kex_algs(), *get_encryption_algs(), *get_mac_algs())}
    assert {*found.kex, *found.ciphers, *found.macs} - known <= {"mlkem768x25519-sha256"}


def test_host_key_algorithms_follow_the_signed_keys() -> None:
    assert suite(ED25519).host_keys == ("ssh-ed25519",)
    assert suite(ECDSA).host_keys == ("ecdsa-sha2-nistp256",)
    assert suite(RSA).host_keys == ("rsa-sha2-512", "rsa-sha2-256")
    assert suite(RSA, allowed=(SHA1,)).host_keys == ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")
    assert suite(ED25519, RSA).host_keys == ("ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256")
    certified = suite(f"@cert-authority {ED25519}").host_keys
    assert certified[0] == "ssh-ed25519-cert-v01@openssh.com" and all("-cert-" in name for name in certified)


def test_h33_weak_and_senseless_host_keys_are_refused_in_words() -> None:
    with pytest.raises(InputError, match="weak host key: RSA with 1024 bits, at least 2048"):
        sort_host_keys([WEAK], ())
    assert sort_host_keys([WEAK, f"@cert-authority {ED25519}"], (SHA1,)) == HostKeys((WEAK,), (ED25519,))
    with pytest.raises(InputError, match="no host key was signed"):
        sort_host_keys([], ())
    for wrong in ("ssh-ed25519 AAAA", "ssh-ed25519 \x1b[2J", f"ssh-ed25519 {base64.b64encode(bytes(40)).decode()}", ""):
        with pytest.raises(InputError, match="not a public key") as caught:
            sort_host_keys([wrong], ())
        assert str(caught.value).isprintable()
