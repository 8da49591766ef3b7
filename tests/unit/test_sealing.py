"""Pure: the issuer's key is opened by whom it was sealed to and by nobody else, and never shows itself."""

from __future__ import annotations

import pytest

from bridge.identity.sealing import PUBLIC_BYTES, SealKey, seal
from inventory.errors import InputError

SECRET = "-----BEGIN PRIVATE KEY-----\nMIG\n"


def test_what_was_sealed_is_opened_by_its_holder_alone() -> None:
    ours, other = SealKey(), SealKey()
    sealed = seal(SECRET, ours.public)
    assert b"PRIVATE" not in sealed and ours.open(sealed) == SECRET
    assert seal(SECRET, ours.public) != sealed, "each time anew"
    for wrong in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), b"", bytes(len(sealed)), bytes(1 << 20)):
        with pytest.raises(InputError) as caught:
            ours.open(wrong)
        assert "MIG" not in str(caught.value)
    with pytest.raises(InputError, match="another key"):
        other.open(sealed)


@pytest.mark.parametrize("public", [b"", bytes(PUBLIC_BYTES - 1), bytes(PUBLIC_BYTES + 1), bytes(PUBLIC_BYTES)])
def test_nothing_is_sealed_to_what_is_no_key(public: bytes) -> None:
    with pytest.raises(InputError):
        seal(SECRET, public)
