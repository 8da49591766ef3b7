"""Pure: join tokens. One line of text that a person carries from the operator's machine to a new node.

    mb1_ <base64url without padding of: msgpack of the fields in fixed order, then 4 bytes of its SHA-256>

The four bytes tell a slip of the clipboard from a token that a gateway refuses; they protect nothing. There is exactly
one text for a token: anything that decodes to the same fields but is written differently is refused (C20). The secret
never appears in a message, a log or a repr; at the gateways only its hash is kept.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

import msgspec

from bridge import limits
from inventory.endpoints import parse_endpoint
from inventory.errors import InputError
from inventory.names import ROLES, Role, parse_dotted, parse_gateway, shown

PREFIX = "mb1_"
SECRET_BYTES = 32
GATEWAYS_MAX = 32
_CHECK_BYTES = 4
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_INVITE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_HINT = "copy the whole token again, or make a new one with `meshbridge host token NAME`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a new node needs to find and believe its estate.

    gateways: (name, ADDR:PORT) pairs, at least one. genesis: hex SHA-256 of the genesis entry's payload.
    role and name are what the invite is bound to; they are here for messages, the gateway decides by the invite.
    """

    trust_domain: str
    gateways: tuple[tuple[str, str], ...]
    genesis: str
    role: Role
    name: str
    invite: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Raises InputError: a field is not in canonical form."""
        _same(self.trust_domain, parse_dotted(self.trust_domain, "trust domain"))
        if self.role not in ROLES or self.role == "operator":
            raise InputError(f"a token cannot be for role {shown(self.role)}")
        _same(self.name, parse_gateway(self.name) if self.role == "gateway" else parse_dotted(self.name, "host name"))
        if not 1 <= len(self.gateways) <= GATEWAYS_MAX:
            raise InputError(f"a token names from 1 to {GATEWAYS_MAX} gateways, not {len(self.gateways)}")
        for gateway, address in self.gateways:
            _same(gateway, parse_gateway(gateway))
            _same(address, str(parse_endpoint(address)))
        if not _HEX_SHA256.fullmatch(self.genesis):
            raise InputError("the fingerprint in the token is not a SHA-256")
        if not _INVITE_ID.fullmatch(self.invite):
            raise InputError("the invite in the token is not an id")
        if len(self.secret) != SECRET_BYTES:
            raise InputError(f"the secret in the token has {len(self.secret)} bytes, not {SECRET_BYTES}")


class _Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    trust_domain: str
    gateways: tuple[tuple[str, str], ...]
    genesis: bytes
    role: Role
    name: str
    invite: str
    secret: bytes


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


def secret_hash(secret: bytes) -> str:
    """Hex SHA-256: what an invite stores. A plain hash is enough for 256 random bits."""
    return hashlib.sha256(secret).hexdigest()


def is_secret(secret: bytes, expected_hash: str) -> bool:
    """Whether `secret` is the one an invite stores the hash of, in constant time (C21)."""
    return hmac.compare_digest(secret_hash(secret).encode(), expected_hash.encode())


def format_token(token: Token) -> str:
    """The one text of a token. Raises InputError when it would be longer than TOKEN_MAX_CHARS."""
    wire = _Wire(
        token.trust_domain,
        token.gateways,
        bytes.fromhex(token.genesis),
        token.role,
        token.name,
        token.invite,
        token.secret,
    )
    payload = msgspec.msgpack.encode(wire)
    text = PREFIX + base64.urlsafe_b64encode(payload + _check(payload)).rstrip(b"=").decode("ascii")
    if len(text) > limits.TOKEN_MAX_CHARS:
        raise InputError(f"the token would have {len(text)} characters, at most {limits.TOKEN_MAX_CHARS} are allowed")
    return text


def parse_token(text: str) -> Token:
    """The token in `text`, with white space around it dropped once and nothing else repaired.

    Raises:
        InputError: too long, not a token, damaged, or not in canonical form (C20, H10). Never quotes the token.
    """
    if len(text) > limits.TOKEN_MAX_CHARS + 2:
        raise _unusable(f"it has {len(text)} characters, at most {limits.TOKEN_MAX_CHARS} are allowed")
    body = text.strip(" \t\r\n")
    if not body.startswith(PREFIX):
        raise _unusable(f"it does not start with {PREFIX}")
    encoded = body[len(PREFIX) :]
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _unusable("it has characters that no token has, or lacks some") from None
    payload, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if not hmac.compare_digest(_check(payload), check):
        raise _unusable("it is damaged: its checksum does not match")
    try:
        wire = msgspec.msgpack.decode(payload, type=_Wire)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _unusable("it is not of a form this version knows") from None
    token = Token(
        trust_domain=wire.trust_domain,
        gateways=wire.gateways,
        genesis=wire.genesis.hex(),
        role=wire.role,
        name=wire.name,
        invite=wire.invite,
        secret=wire.secret,
    )
    if format_token(token) != body:
        raise _unusable("it is not in canonical form")
    return token


def _check(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_CHECK_BYTES]


def _same(given: str, canonical: str) -> None:
    if given != canonical:
        raise InputError(f"{shown(given)} in the token is not in canonical form")


def _unusable(reason: str) -> InputError:
    return InputError(f"the token cannot be used: {reason}", hint=_HINT)
