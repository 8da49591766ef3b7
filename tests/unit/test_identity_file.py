"""The identity on disk: one file, replaced only by something better, renewed at its own moment (F05, F36)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bridge import limits
from bridge.identity import certificates
from bridge.identity.identity_file import load_identity, renewal_at, renewal_due, store_identity
from bridge.identity.issuer import make_csr
from bridge.identity.verify import PeerIdentity
from inventory.errors import InputError, Unavailable
from tests.support.memory_tls import TrustDomain

NOW = 1_800_000_000.0


@pytest.fixture
def domain(tmp_path: Path) -> TrustDomain:
    (tmp_path / "made").mkdir()
    return TrustDomain(tmp_path / "made", NOW)


def stored(domain: TrustDomain, path: Path, *, now: float = NOW) -> str:
    key = certificates.generate_key()
    chain = domain.issuer.issue(make_csr(key), domain.spiffe("host/vm1"), now=now).chain_pem
    store_identity(path, key, chain, spiffe=domain.spiffe("host/vm1"), root_pem=domain.root_pem, now=now)
    return chain


def test_an_identity_goes_to_disk_and_back(domain: TrustDomain, tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    chain = stored(domain, path)
    identity = load_identity(path)
    assert identity.chain_pem == chain
    assert identity.leaf.spiffe == domain.spiffe("host/vm1")
    assert identity.leaf.key == certificates.key_hash(identity.key.public_key())
    assert path.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in repr(identity)


def test_f05_the_pair_always_matches(domain: TrustDomain, tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    for _ in range(3):
        chain = stored(domain, path)
        assert load_identity(path).chain_pem == chain
        assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["identity.pem"]
    other = certificates.private_key_pem(certificates.generate_key())
    path.write_text(other + chain)
    with pytest.raises(InputError, match="do not belong together"):
        load_identity(path)


@pytest.mark.parametrize("fault", ["key", "name", "root", "leaf only", "expired", "nonsense"])
def test_a_bad_answer_leaves_the_old_identity(domain: TrustDomain, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "identity.pem"
    before = stored(domain, path)
    (tmp_path / "other").mkdir()
    other = TrustDomain(tmp_path / "other", NOW)
    key = certificates.generate_key()
    signer = other if fault == "root" else domain
    name = "host/vm2" if fault == "name" else "host/vm1"
    chain = signer.issuer.issue(make_csr(key), signer.spiffe(name), now=NOW).chain_pem
    if fault == "leaf only":
        chain = certificates.to_pem(certificates.parse_certificates(chain)[0])
    with pytest.raises(InputError):
        store_identity(
            path,
            certificates.generate_key() if fault == "key" else key,
            "nonsense" if fault == "nonsense" else chain,
            spiffe=domain.spiffe("host/vm1"),
            root_pem=domain.root_pem,
            now=NOW + 2 * limits.CERTIFICATE_LIFETIME if fault == "expired" else NOW,
        )
    assert load_identity(path).chain_pem == before


def test_an_expired_identity_can_still_be_read(domain: TrustDomain, tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    stored(domain, path, now=NOW - 10 * limits.CERTIFICATE_LIFETIME)
    assert load_identity(path).leaf.not_after < NOW


def test_what_is_no_identity_says_where(domain: TrustDomain, tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    with pytest.raises(Unavailable):
        load_identity(path)
    for content in (b"", b"nonsense", b"\xff\xfe", domain.root_pem.encode()):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(InputError) as caught:
            load_identity(path)
        assert caught.value.where == str(path)
    path.chmod(0o644)
    with pytest.raises(InputError) as caught:
        load_identity(path)
    assert caught.value.hint == f"chmod 600 {path}"


def leaf(domain: TrustDomain, serial: int, lifetime: float = limits.CERTIFICATE_LIFETIME) -> PeerIdentity:
    return PeerIdentity(domain.spiffe("host/vm1"), "00" * 32, serial, NOW + lifetime, NOW - limits.CLOCK_TOLERANCE)


def test_f36_a_thousand_certificates_of_one_second_are_renewed_spread_out(domain: TrustDomain) -> None:
    numbers = random.Random(36)
    moments = [renewal_at(leaf(domain, numbers.getrandbits(159))) for _ in range(1000)]
    life = limits.CERTIFICATE_LIFETIME
    assert all(0.4 * life <= moment - NOW <= 0.6 * life for moment in moments)
    slices = [0] * 20
    for moment in moments:
        slices[min(19, int((moment - NOW - 0.4 * life) / (0.2 * life) * 20))] += 1
    assert max(slices) <= 2 * (1000 / 20)


def test_renewal_is_due_at_one_moment_for_ever(domain: TrustDomain) -> None:
    of = leaf(domain, 12345)
    moment = renewal_at(of)
    assert moment == renewal_at(leaf(domain, 12345))
    assert not renewal_due(of, moment - 1)
    assert renewal_due(of, moment)


def test_a_short_life_is_not_renewed_at_once(domain: TrustDomain) -> None:
    assert 4 <= renewal_at(leaf(domain, 1, lifetime=10)) - NOW <= 6
    assert renewal_due(leaf(domain, 1, lifetime=-1), NOW)
