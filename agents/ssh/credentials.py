"""I/O: with what the ssh worker logs in: a key that was sealed to this gateway, or a certificate for a key of its own.

Sealed keys are opened here, in this process only, when a connection is made. The worker's own key is made at its start
and never leaves it; the supervisor certifies its public half, for one principal and an hour at a time (C14).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncssh

from agents.clock import now
from agents.workers.ssh_messages import Certificate, CertificateNeeded, LastHop
from bridge import limits
from bridge.identity.seal_keys import GatewaySealKey
from inventory.errors import InputError, Unavailable

SEAL_KEY = "seal.key"

KeyPairs = list[asyncssh.SSHKeyPair]


class Credentials:
    """Args:
    ask: sends a CertificateNeeded.
    """

    def __init__(self, home: Path, ask: Callable[[CertificateNeeded], Awaitable[None]]) -> None:
        self._ask = ask
        self._own = asyncssh.generate_private_key("ssh-ed25519", comment="")
        self._certificates: dict[str, Certificate] = {}
        self._waiting: dict[str, asyncio.Future[Certificate]] = {}
        try:
            self._seal_key: GatewaySealKey | None = GatewaySealKey.from_bytes((home / SEAL_KEY).read_bytes())
        except (OSError, InputError):
            self._seal_key = None  # said when it is needed

    @property
    def public_key(self) -> str:
        return self._own.export_public_key("openssh").decode("ascii").strip()

    async def for_host(self, hop: LastHop) -> KeyPairs:
        """What to log in with. Raises InputError, Unavailable."""
        if hop.credential is not None:
            return [self._opened(hop.credential, hop.host)]
        found = await self._certificate(hop.user)
        certificate = asyncssh.import_certificate(found.certificate)
        return list(asyncssh.load_keypairs([(self._own, certificate)]))

    def _opened(self, sealed: str, host: str) -> asyncssh.SSHKeyPair:
        if self._seal_key is None:
            raise InputError(f"this gateway has no {SEAL_KEY} that could open the key for {host}")
        try:
            key = asyncssh.import_private_key(self._seal_key.open(sealed, host))
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
            raise InputError(f"what was sealed for {host} is not a private key") from None
        return asyncssh.load_keypairs([key])[0]

    async def _certificate(self, principal: str) -> Certificate:
        """One with at least half of its life left, if there is any."""
        known = self._certificates.get(principal)
        if known is not None and known.ends - now() > limits.SSH_CERTIFICATE_LIFETIME / 2:
            return known
        waiting = self._waiting.get(principal)
        if waiting is None:
            waiting = self._waiting[principal] = asyncio.get_running_loop().create_future()
            await self._ask(CertificateNeeded(principal=principal))
        try:
            return await asyncio.wait_for(asyncio.shield(waiting), limits.SSH_CERTIFICATE_WAIT)
        except TimeoutError:
            if known is not None and known.ends > now():
                return known
            raise Unavailable("this gateway's ssh CA does not answer") from None

    def forget(self) -> None:
        """Nothing is opened or logged in with from here on."""
        self._seal_key = None
        self._certificates.clear()

    def heard(self, message: Certificate) -> None:
        waiting = self._waiting.pop(message.principal, None)
        if message.certificate:
            self._certificates[message.principal] = message
        if waiting is None or waiting.done():
            return
        if message.certificate:
            waiting.set_result(message)
        else:
            waiting.set_exception(Unavailable(message.reason or "this gateway's ssh CA gives no certificate"))
            waiting.exception()  # nobody may be waiting any more
