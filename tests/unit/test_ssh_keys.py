"""Pure: host keys and private keys as operators give them, what is sealed, and certificates of a gateway's ssh CA."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from bridge import limits
from bridge.identity.seal_keys import GatewaySealKey, seal_credential
from bridge.identity.ssh_ca import SshCa
from bridge.identity.ssh_keys import fingerprint, parse_host_keys, parse_user_key, shown_keys
from inventory.errors import InputError
from tests.support.authority import HOST_KEY

OTHER = HOST_KEY[:-4] + "PnAT"
LOCKED = (
    b"-----BEGIN OPENSSH PRIVATE KEY-----\n"
    b"b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABCYNubSLr\n"
    b"GRVfvgRIJa9nd/AAAAEAAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIKT9I1BGgEkQUJEj\n"
    b"Kd5Xz/jRzMa3xspIPHYpqs1o6ATvAAAAkBocWUfMdNnyK6VKAaew9AVDuiSlk64UamUEWj\n"
    b"Ydu60HAAH4k7vDWubQSgt82fFX2BAdU48rXXTYAApVKZTCJFYL0qnsCYFEV1rcpGMln+QG\n"
    b"uO0BkodaEmnqTeLU075uskGOHjgt0zOjX9JwAP9ilA50ahrXJzYyWcveRqbBalwGUkzS4e\n"
    b"hCDscylN1dkGMFog==\n"
    b"-----END OPENSSH PRIVATE KEY-----\n"
)
"""By ssh-keygen, with a passphrase."""
NOW = 1_800_000_000.0


def public(key: PrivateKeyTypes) -> str:
    made = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)  # type: ignore[union-attr]
    return made.decode()


def private(key: PrivateKeyTypes) -> bytes:
    how = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, how)


def read(text: str | bytes, address: str = "192.0.2.7", port: int = 22) -> tuple[str, ...]:
    return parse_host_keys(text if isinstance(text, bytes) else text.encode(), address, port, where="keys")


def hashed(name: str) -> str:
    digest = hmac.new(b"salt", name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(b'salt').decode()}|{base64.b64encode(digest).decode()}"


@pytest.mark.parametrize(
    ("text", "port"),
    [
        (HOST_KEY, 22),
        (HOST_KEY + " root@aix1\n", 22),
        (f"# 192.0.2.7:22 SSH-2.0-OpenSSH_9.2\n192.0.2.7 {HOST_KEY}\n", 22),
        (f"[192.0.2.7]:2022 {HOST_KEY}\n192.0.2.7 {OTHER}\n", 2022),
        (f"aix1,192.0.2.7 {HOST_KEY}\r\nother {OTHER}\n", 22),
        (f"{hashed('192.0.2.7')} {HOST_KEY}\n{hashed('192.0.2.8')} {OTHER}\n", 22),
    ],
)
def test_host_keys_are_read_from_what_people_have(text: str, port: int) -> None:
    assert read(text, port=port) == (HOST_KEY,)


def test_a_certificate_authority_for_host_keys_keeps_its_mark() -> None:
    assert read(f"@cert-authority * {HOST_KEY}") == (f"@cert-authority {HOST_KEY}",)
    assert shown_keys(read(f"@cert-authority * {HOST_KEY}")) == [f"{fingerprint(HOST_KEY)} (certificate authority)"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no host key"),
        (f"192.0.2.8 {HOST_KEY}", "other hosts only"),
        (f"[192.0.2.7]:2022 {HOST_KEY}", "other hosts only"),
        (f"@revoked * {HOST_KEY}", "pins nothing"),
        ("192.0.2.7 ssh-ed25519 AAAA", "not a public key"),
        ("192.0.2.7 ssh-ed25519", "not a public key"),
        ("192.0.2.7 rot13 AAAA", "of type"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "private key"),
        (b"\xff\xfe\x00", "not text"),
        ("192.0.2.7 " + "x" * 20_000, "bytes"),
    ],
)
def test_h34_lines_that_pin_nothing_are_refused_with_their_number(text: str | bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read(text)
    assert "keys" in caught.value.where


def test_h33_a_weak_host_key_is_refused() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    with pytest.raises(InputError, match="1024 bits is too weak") as caught:
        read(f"192.0.2.7 {public(weak)}")
    assert "ssh-keygen" in caught.value.hint
    old = parse_host_keys(public(weak).encode(), "192.0.2.7", 22, where="keys", rsa_bits_min=1024)
    assert old == (public(weak),)


def test_how_to_get_a_host_key_is_said_with_its_port() -> None:
    with pytest.raises(InputError) as caught:
        read("", port=2022)
    assert "ssh-keyscan -p 2022 192.0.2.7" in caught.value.hint


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
    ],
)
def test_private_keys_come_in_one_format_whatever_they_were_in(key: PrivateKeyTypes) -> None:
    pkcs8 = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (private(key), pkcs8):
        found = serialization.load_ssh_private_key(parse_user_key(content, where="key"), None)
        assert public(found) == public(key)  # type: ignore[arg-type]


def test_h33_private_keys_that_are_of_no_use_are_refused_and_not_quoted() -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    weak = rsa.generate_private_key(65537, 1024)
    old = dsa.generate_private_key(1024).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    cases = [
        (LOCKED, "has a passphrase"),
        (pem, "has a passphrase"),
        (HOST_KEY.encode(), "is a public key"),
        (b"hunter2", "not a private key"),
        (private(weak), "too weak"),
        (old, "of this type"),
    ]
    for content, words in cases:
        with pytest.raises(InputError, match=words) as caught:
            parse_user_key(content, where="key")
        assert "hunter2" not in str(caught.value) and caught.value.hint


def test_what_is_sealed_is_opened_by_its_gateway_for_its_host_only() -> None:
    ours, theirs = GatewaySealKey.generate(), GatewaySealKey.generate()
    sealed = seal_credential(b"the key", "aix1", ours.public)
    assert GatewaySealKey.from_bytes(ours.to_bytes()).open(sealed, "aix1") == b"the key"
    for key, text, host in (
        (theirs, sealed, "aix1"),
        (ours, sealed, "aix2"),
        (ours, sealed[:-8], "aix1"),
        (ours, "!", "aix1"),
        (ours, "A" * (limits.CREDENTIAL_MAX + 1), "aix1"),
    ):
        with pytest.raises(InputError) as caught:
            key.open(text, host)
        assert "the key" not in str(caught.value)
    with pytest.raises(InputError):
        seal_credential(b"the key", "aix1", "00")
    with pytest.raises(InputError, match="not a seal key"):
        GatewaySealKey.from_bytes(b"zz")


def test_c14_a_certificate_has_one_principal_and_an_hour() -> None:
    ca, user = SshCa.generate(), ed25519.Ed25519PrivateKey.generate()
    made = SshCa.from_bytes(ca.to_bytes()).certify(public(user), "bridge", gateway="gw1", now=NOW)
    found = serialization.load_ssh_public_identity(made.line.encode())
    assert isinstance(found, serialization.SSHCertificate)
    found.verify_cert_signature()
    assert public_of(found) == ca.line
    assert found.valid_principals == [b"bridge"] and list(found.extensions) == [b"permit-port-forwarding"]
    assert found.valid_before == made.ends and found.valid_before - found.valid_after <= 3600
    assert found.valid_after <= NOW < found.valid_before
    with pytest.raises(InputError, match="principal"):
        ca.certify(public(user), "", gateway="gw1", now=NOW)
    with pytest.raises(InputError, match="Ed25519"):
        ca.certify(public(rsa.generate_private_key(65537, 2048)), "bridge", gateway="gw1", now=NOW)
    with pytest.raises(InputError, match="certificate authority"):
        SshCa.from_bytes(b"x")


def public_of(certificate: serialization.SSHCertificate) -> str:
    made = certificate.signature_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return made.decode()
