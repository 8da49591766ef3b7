"""Pure: a secret in every form in which it could turn up: as it is, in hex, in base64 wherever it begins, in JSON."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from bridge.identity.tokens import parse_token

PART_MIN = 12
"""Bytes. What is shorter is found by chance."""
TOKEN = re.compile(rb"mb1_[A-Za-z0-9_-]{40,}")


@dataclass(frozen=True)
class Secret:
    """What must not be found. It never prints more than its name."""

    name: str
    needles: frozenset[bytes]

    def __repr__(self) -> str:
        return f"<{self.name}>"


def of_text(name: str, text: str) -> Secret:
    """A password or an opaque token."""
    return Secret(name, _parts({text.strip().encode(), *_forms(text.strip().encode())}))


def of_token(name: str, text: str) -> Secret:
    """An enrolment token: as it is, and the secret in it without the rest."""
    whole = text.strip().encode()
    return Secret(name, _parts({whole, *_forms(whole), *_forms(parse_token(text).secret)}))


def of_key_file(name: str, content: bytes) -> Secret:
    """A private key: its file's lines that hold it, and the key alone."""
    inner = _private_part(content)
    return Secret(name, _parts({*_forms(inner), *_lines_with(content, inner)}))


def _forms(raw: bytes) -> set[bytes]:
    found = {raw, raw.hex().encode(), raw.hex().upper().encode()}
    for shift in range(3):
        # In the middle of something longer only those characters are its own that no neighbour has a bit in.
        whole = base64.b64encode(b"\0" * shift + raw)
        own = whole[4 * (shift > 0) : (shift + len(raw)) // 3 * 4]
        found |= {own, own.replace(b"+", b"-").replace(b"/", b"_"), own.replace(b"/", b"\\/")}
    return found | {json.dumps(raw.decode("latin-1"))[1:-1].encode(), repr(raw)[2:-1].encode()}


def _parts(needles: set[bytes]) -> frozenset[bytes]:
    """In one line each, as they are searched for: what a secret of any bytes has in one piece."""
    return frozenset(part for needle in needles for part in re.split(rb"[\n\0]", needle) if len(part) >= PART_MIN)


def _private_part(content: bytes) -> bytes:
    if content.startswith(b"meshbridge operator key"):
        return base64.urlsafe_b64decode(content.split()[-1] + b"==")
    if b"BEGIN OPENSSH" in content:
        ssh = serialization.load_ssh_private_key(content, None)
        assert isinstance(ssh, ed25519.Ed25519PrivateKey)
        return ssh.private_bytes_raw()
    if b"BEGIN PRIVATE KEY" in content:
        pem = serialization.load_pem_private_key(content[: content.index(b"-----END PRIVATE KEY")] + _END, None)
        assert isinstance(pem, ec.EllipticCurvePrivateKey)
        return pem.private_numbers().private_value.to_bytes(32, "big")
    return bytes.fromhex(content.decode())


_END = b"-----END PRIVATE KEY-----\n"


def _lines_with(content: bytes, inner: bytes) -> set[bytes]:
    """Of a PEM file: those lines in which there is enough of the key."""
    found = re.search(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(.*?)\n-----END", content, re.DOTALL)
    if found is None:
        return set()
    lines = found[1].split(b"\n")
    begin = base64.b64decode(found[1]).index(inner)
    kept, at = set(), 0
    for line in lines:
        end = at + len(line) * 3 // 4
        if min(end, begin + len(inner)) - max(at, begin) >= PART_MIN:
            kept.add(line)
        at = end
    return kept
