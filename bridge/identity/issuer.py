"""Pure: the issuer. It turns a key into a certificate for a name that somebody else decided on.

Of a certificate request (PKCS#10, RFC 2986) only the public key is used, after its signature has shown that the asker
holds the private one. A request that asks for more, by any attribute or extension, is refused rather than trimmed, so
that an attempt is seen (C06). The issuer keeps no record: it returns one with every certificate for the caller to log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from bridge import limits
from bridge.identity import certificates
from bridge.identity.certificates import PrivateKey, PublicKey
from inventory.errors import AnswerIsNo, InputError
from inventory.names import SpiffeId, parse_spiffe_id, shown


@dataclass(frozen=True, slots=True)
class IssuanceRecord:
    """One certificate issued, for the log: compare it with what hosts present. Times are unix seconds."""

    serial: str
    spiffe_id: str
    key: str
    not_after: float
    at: float


@dataclass(frozen=True, slots=True)
class Issued:
    """`chain_pem` is the leaf followed by the intermediate."""

    chain_pem: str
    record: IssuanceRecord


@dataclass(frozen=True, slots=True)
class RequestedKey:
    """All that is taken from a certificate request."""

    public_key: PublicKey
    key: str
    """Hex SHA-256, as `certificates.key_hash`: what enrolment records before it issues."""


def make_csr(key: PrivateKey) -> bytes:
    """A request in DER that asks for nothing but a certificate for `key`."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.DER)


def read_csr(csr_der: bytes) -> RequestedKey:
    """The key of a request, once everything about the request is as `make_csr` makes it.

    Raises:
        InputError: "certificate request refused: reason" (H09).
    """
    if len(csr_der) > limits.CSR_MAX_BYTES:
        raise _refused(f"it has {len(csr_der)} bytes, at most {limits.CSR_MAX_BYTES} are allowed")
    try:
        request = x509.load_der_x509_csr(csr_der)
    except Exception:
        raise _refused("it cannot be read") from None
    public_key = _key_of(request)
    if not _signature_holds(request):
        raise _refused("its signature is not by its key")
    if not _asks_for_nothing(request):
        raise _refused("it asks for names or extensions of its own", hint="the issuer writes every name itself")
    return RequestedKey(public_key, certificates.key_hash(public_key))


def refuse_foreign_key(key: str, spiffe: SpiffeId, holder: str | None) -> None:
    """A key belongs to one name for ever: two hosts with one key could not be told apart, nor revoked apart (H09).

    Args:
        key: the hash of the key asked for; `holder` is the SPIFFE ID that has it on record, if any.

    Raises:
        AnswerIsNo: another name holds it.
    """
    if holder is not None and holder != str(spiffe):
        raise AnswerIsNo(f"the key {key[:16]}… of {spiffe} is already the key of another node", hint="make a new key")


class Issuer:
    """Signs leaves with the intermediate's key."""

    def __init__(self, key: PrivateKey, certificate: x509.Certificate) -> None:
        """Raises InputError: they are not a pair, or the certificate is not limited to one trust domain."""
        if certificates.key_hash(key.public_key()) != _hash_of(certificate):
            raise InputError("the issuer's key and certificate are not a pair")
        trust_domain = certificates.constrained_domain(certificate)
        if trust_domain is None:
            raise InputError("the issuer's certificate is not limited to one trust domain")
        self.trust_domain = trust_domain
        self.not_after = certificate.not_valid_after_utc.timestamp()
        self._key = key
        self._certificate = certificate

    @classmethod
    def from_pem(cls, pem: str, *, where: str = "") -> Issuer:
        """From the text of issuer.pem: the intermediate's key and certificate. Raises InputError."""
        return cls(
            certificates.parse_private_key(pem, where=where), certificates.parse_certificates(pem, where=where)[0]
        )

    def issue(
        self,
        csr_der: bytes,
        spiffe_id: SpiffeId,
        *,
        now: float,
        lifetime: float = limits.CERTIFICATE_LIFETIME,
        holder_of: Callable[[str], str | None] | None = None,
    ) -> Issued:
        """A certificate for the request's key in the name of `spiffe_id`, which the caller has authorised.

        Args:
            now: unix seconds; `lifetime` is in seconds and is cut to the issuer's own.
            holder_of: key hash to the SPIFFE ID that has this key on record, or None.

        Raises:
            InputError: the request is refused, or the name is not canonical or not of this trust domain (C09).
            AnswerIsNo: the key belongs to another name.
        """
        spiffe = parse_spiffe_id(str(spiffe_id))
        asked = read_csr(csr_der)
        if holder_of is not None:
            refuse_foreign_key(asked.key, spiffe, holder_of(asked.key))
        leaf = certificates.create_leaf(
            asked.public_key, spiffe, issuer_key=self._key, issuer=self._certificate, now=now, lifetime=lifetime
        )
        record = IssuanceRecord(
            serial=f"{leaf.serial_number:x}",
            spiffe_id=str(spiffe),
            key=asked.key,
            not_after=leaf.not_valid_after_utc.timestamp(),
            at=now,
        )
        return Issued(certificates.to_pem(leaf) + certificates.to_pem(self._certificate), record)


def _hash_of(certificate: x509.Certificate) -> str | None:
    key = certificate.public_key()
    return certificates.key_hash(key) if isinstance(key, PublicKey) else None


def _key_of(request: x509.CertificateSigningRequest) -> PublicKey:
    try:
        key = request.public_key()
    except Exception:  # an unknown kind of key, or one too small for the parser
        raise _refused("its key is not ECDSA P-256") from None
    if not isinstance(key, PublicKey) or not certificates.is_p256(key):
        raise _refused(f"its key is not ECDSA P-256 but {shown(type(key).__name__)}")
    return key


def _signature_holds(request: x509.CertificateSigningRequest) -> bool:
    try:
        return request.is_signature_valid
    except Exception:  # an unknown algorithm
        return False


def _asks_for_nothing(request: x509.CertificateSigningRequest) -> bool:
    try:
        return len(request.attributes) == 0
    except Exception:  # attributes that cannot even be read
        return False


def _refused(reason: str, *, hint: str = "") -> InputError:
    return InputError(f"certificate request refused: {reason}", hint=hint)
