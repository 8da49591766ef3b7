"""I/O: a gateway's certificates: those that it issues, if it was given the issuer's key, and its own.

A gateway without the key refuses and says so; whoever asked goes to the next one.
"""

from __future__ import annotations

from pathlib import Path

from agents import clock
from agents.control.reissue import reissue
from agents.estate import Home, HomeConfig
from agents.knowledge.ledger import Ledger
from agents.node import VERSION
from bridge.errors import clock as clock_words
from bridge.identity.identity_file import Identity
from bridge.identity.issuer import IssuanceRecord, Issuer, make_csr
from bridge.logs import get_logger
from inventory.authority import DomainBody, verify_entry
from inventory.errors import Unavailable
from inventory.home import read_secret
from inventory.names import SpiffeId

log = get_logger()


def issued(record: IssuanceRecord) -> None:
    log.info("certificate issued", spiffe_id=record.spiffe_id, serial=record.serial, key=record.key)


class Issuing:
    """`issuer` is None where this gateway was not given the key. Raises MeshError for a key that cannot be used."""

    def __init__(self, home: Path, config: HomeConfig, ledger: Ledger) -> None:
        path = Home(home).issuer
        self.issuer = Issuer.from_pem(read_secret(path).decode(), where=str(path)) if path.exists() else None
        self._config = config
        self._ledger = ledger

    @property
    def not_after(self) -> float:
        """The end of the issuer's certificate, unix seconds; 0 where there is none."""
        return self.issuer.not_after if self.issuer is not None else 0.0

    @property
    def ends(self) -> str:
        """When the issuer's certificate ends, in words; empty where there is none."""
        return clock_words(self.issuer.not_after) if self.issuer is not None else ""

    def issue(self, csr: bytes, spiffe: SpiffeId) -> str:
        """A chain in PEM. Raises Unavailable: this gateway does not issue. InputError: the request is refused."""
        if self.issuer is None:
            raise Unavailable("it does not hold the issuer's key")
        made = self.issuer.issue(csr, spiffe, now=clock.now(), lifetime=self._config.certificate_lifetime)
        issued(made.record)
        return made.chain_pem

    async def renewed(self, identity: Identity, me: SpiffeId) -> str:
        """A new chain in PEM for this gateway itself: by its own hand, or by another gateway's.

        Raises:
            Unavailable: no gateway gave one.
        """
        if self.issuer is not None:
            return self.issue(make_csr(identity.key), me)
        genesis = verify_entry(self._ledger.latest["domain"]).body
        assert isinstance(genesis, DomainBody)
        others = [g for name, g in sorted(self._ledger.state.gateways.items()) if name != me.name]
        others.sort(key=lambda gateway: not gateway.issuer)
        return await reissue(others, genesis, name=me.name, key=identity.key, version=VERSION, chain=identity.chain_pem)
