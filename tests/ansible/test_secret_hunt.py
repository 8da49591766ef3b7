"""I/O: the search for secrets finds each form of one that it knows, in a file among others and in text."""

from __future__ import annotations

from pathlib import Path

from bridge.identity import certificates
from bridge.identity.tokens import Token, format_token
from tests.support import secret_forms, secret_hunt
from tests.support.secret_forms import Secret

TOKEN = Token(
    trust_domain="t.internal",
    gateways=(("gw1", "192.0.2.1:7443"),),
    genesis="ab" * 32,
    role="host",
    name="vm1",
    invite="invite-1",
    # Line ends of every kind are in it, and bytes that are no text.
    secret=bytes(range(0x0C, 0x24)) + b"\r\xff\xfe\x85\x1c\x1d\x80\x81",
)


def secrets() -> list[Secret]:
    key = certificates.private_key_pem(certificates.generate_key())
    return [
        secret_forms.of_token("token", format_token(TOKEN)),
        secret_forms.of_key_file("key", key.encode()),
        secret_forms.of_text("password", "0b9c1f0e-87aa-4b2e-9d6f-1a2b3c4d5e6f"),
    ]


def test_c45_each_form_of_a_secret_is_found_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "innocent").write_bytes(bytes(range(256)) * 1000)
    wanted = secrets()
    for secret in wanted:
        for form in secret.needles:
            place = tmp_path / "guilty"
            place.write_bytes(b"\xff\0before" + form + b"after")
            assert secret_hunt.in_places(wanted, tmp_path) == {(secret.name, str(place))}
            assert secret_hunt.in_text([secret], "here", form.decode(errors="surrogateescape"))
    (tmp_path / "guilty").unlink()
    assert secret_hunt.in_places(wanted, tmp_path) == set()


def test_c45_a_key_file_is_found_by_each_line_that_holds_it() -> None:
    pem = certificates.private_key_pem(certificates.generate_key())
    secret = secret_forms.of_key_file("key", pem.encode())
    lines = pem.encode().split(b"\n")
    assert lines[1] in secret.needles and lines[2] in secret.needles
