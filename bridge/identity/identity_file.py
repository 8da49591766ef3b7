"""I/O: a node's own identity: identity.pem, which holds the private key, the leaf and the intermediate in one file.

One file, written whole and renamed, so that after a crash at any moment the key and the certificate belong together
(F05). A new certificate is checked before it replaces the old one, so a gateway that answers nonsense costs a renewal,
not the identity. This file knows nothing of how certificates are asked for.
"""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from bridge import limits
from bridge.errors import PeerRefused
from bridge.identity import certificates
from bridge.identity.certificates import PrivateKey
from bridge.identity.verify import PeerIdentity, parse_peer, read_leaf
from inventory.errors import InputError, Unavailable
from inventory.home import read_secret, write_secret
from inventory.names import SpiffeId

_MEND = (
    "put the file back from a backup; a host can also be enrolled again: `host token NAME` in the operator's home, "
    "then `agent join` here"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is. `leaf` is what peers see; `chain_pem` is the leaf followed by the intermediate."""

    leaf: PeerIdentity
    chain_pem: str
    key: PrivateKey = field(repr=False)


def load_identity(path: Path) -> Identity:
    """The identity in `path`, whether or not it has expired.

    Raises:
        InputError: others can read the file, or it is not a key with its certificate.
        Unavailable: it is not there, or cannot be read.
    """
    where = str(path)
    try:
        content = read_secret(path)
    except Unavailable as exc:
        if path.parent.is_dir() and os.access(path.parent, os.X_OK) and not path.exists():
            raise Unavailable(exc.what, where=where, hint=_MEND) from None
        raise
    try:
        text = content.decode("ascii", "replace")
        chain = certificates.parse_certificates(text, where=where)
        return _identity(certificates.parse_private_key(text, where=where), chain, where)
    except InputError as exc:
        raise InputError(exc.what, where=where, hint=_MEND) from None


def store_identity(
    path: Path, key: PrivateKey, chain_pem: str, *, spiffe: SpiffeId, root_pem: str, now: float
) -> Identity:
    """Replaces the identity in `path`, once the new one is known to be ours.

    Args:
        chain_pem: leaf and intermediate, as the issuer answered.
        spiffe: the name it must carry; `root_pem` is the root it must lead to; `now` is unix seconds.

    Raises:
        InputError: the answer is no certificate for this key and name under this root. The old file is intact.
        Unavailable: the file cannot be written. The old file is intact.
    """
    chain = certificates.parse_certificates(chain_pem)
    identity = _identity(key, chain, str(path))
    if identity.leaf.spiffe != spiffe:
        raise InputError(f"the issuer answered with a certificate for {identity.leaf.spiffe}, not for {spiffe}")
    _check_issued_under(chain, certificates.parse_certificates(root_pem)[0])
    try:
        parse_peer(certificates.to_der(chain[0]), now)
    except PeerRefused as exc:
        raise InputError(exc.what, hint=exc.hint) from None
    write_secret(path, (certificates.private_key_pem(key) + identity.chain_pem).encode("ascii"))
    return identity


def renewal_at(leaf: PeerIdentity) -> float:
    """When to ask for the next certificate, in unix seconds: at half of its life, give or take RENEWAL_JITTER of it.

    The serial number decides where in that span, so the moment stays the same when the node restarts, and a thousand
    certificates of one second are not renewed in one second (F36).
    """
    issued = min(leaf.not_before + limits.CLOCK_TOLERANCE, leaf.not_after)
    share = 0.5 + limits.RENEWAL_JITTER * random.Random(leaf.serial).uniform(-1.0, 1.0)
    return issued + share * (leaf.not_after - issued)


def renewal_due(leaf: PeerIdentity, now: float) -> bool:
    """Whether to ask for the next certificate now. `now` is unix seconds."""
    return now >= renewal_at(leaf)


def _identity(key: PrivateKey, chain: list[x509.Certificate], where: str) -> Identity:
    try:
        leaf = read_leaf(certificates.to_der(chain[0]))
    except PeerRefused as exc:
        raise InputError(exc.what, where=where) from None
    if leaf.key != certificates.key_hash(key.public_key()):
        raise InputError("the key and the certificate do not belong together", where=where)
    return Identity(leaf, "".join(map(certificates.to_pem, chain)), key)


def was_issued(chain_pem: str, spiffe: SpiffeId, *, key: str, root_pem: str) -> bool:
    """Whether the root's issuer once gave this name to the key with this hash. It may have ended since."""
    try:
        chain = certificates.parse_certificates(chain_pem)
        _check_issued_under(chain, certificates.parse_certificates(root_pem)[0])
        leaf = read_leaf(certificates.to_der(chain[0]))
    except (InputError, PeerRefused):
        return False
    return (leaf.spiffe, leaf.key) == (spiffe, key)


def _check_issued_under(chain: list[x509.Certificate], root: x509.Certificate) -> None:
    try:
        for certificate, issuer in itertools.pairwise([*chain, root]):
            certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        raise InputError("the issuer answered with a certificate that does not lead to our root") from None
