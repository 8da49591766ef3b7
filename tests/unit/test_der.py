"""Counting names and extensions by tags and lengths alone: exact at the limits, and a ValueError for anything else."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from bridge.identity import certificates
from bridge.identity.der import check_counts
from tests.support.hostile_certificates import mint, uri


def with_names(count: int) -> bytes:
    key = certificates.generate_key()
    names = [uri(f"a:{number}") for number in range(count)]
    certificate = mint(
        public_key=key.public_key(),
        issuer_key=key,
        issuer_name=x509.Name([]),
        names=names,
        not_before=0,
        not_after=1,
    )
    return certificates.to_der(certificate)


@pytest.mark.parametrize("count", [0, 1, 8])
def test_up_to_the_limit(count: int) -> None:
    check_counts(with_names(count), extensions_max=6, names_max=8)


def test_above_the_limit() -> None:
    with pytest.raises(ValueError, match="more than 8 names"):
        check_counts(with_names(9), extensions_max=6, names_max=8)
    with pytest.raises(ValueError, match="more than 5 extensions"):
        check_counts(with_names(1), extensions_max=5, names_max=8)


_GOOD = with_names(8)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_value_error(data: bytes) -> None:
    for candidate in (data, b"\x30" + data, _GOOD[: len(data) * 8] + data):
        try:
            check_counts(candidate, extensions_max=6, names_max=8)
        except ValueError:
            continue


@given(st.integers(0, len(_GOOD) - 1))
def test_a_certificate_cut_short_is_noticed(length: int) -> None:
    with pytest.raises(ValueError, match=r"cut short|bad length"):
        check_counts(_GOOD[:length], extensions_max=6, names_max=8)
