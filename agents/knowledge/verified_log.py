"""I/O: the authority log of one registry, verified as far as it was read. The one way in which agents read it.

What the registry says is believed only once it continues what was verified before, and it starts with the genesis entry
that this home was made for. Nothing here writes.
"""

from __future__ import annotations

import msgspec
import trio

from inventory.authority import (
    AuthorityError,
    AuthorityFork,
    AuthorityState,
    Entry,
    SignedEntry,
    entry_key,
    genesis_fingerprint,
    read_head,
    read_log,
    verify_log,
)
from inventory.registries.interface import Registry


class VerifiedLog:
    """`state` and `latest` belong together and are replaced together.

    Args:
        registry: where the log is.
        genesis: fingerprint of the first entry, from domain.json.
        collects: also put what was verified into `unkept`, for somebody who keeps a copy and takes it from there.
    """

    def __init__(self, registry: Registry, genesis: str, *, collects: bool = False) -> None:
        self._registry = registry
        self._genesis = genesis
        self._collects = collects
        self.unkept: list[SignedEntry] = []
        self._one_at_a_time = trio.Lock()
        self.state = AuthorityState()
        self.latest: dict[str, SignedEntry] = {}
        """The newest entry of every key, removals included."""
        self.touched: frozenset[str] = frozenset()
        """Keys of the entries read since somebody last took them (`take_touched`)."""

    def take_touched(self) -> frozenset[str]:
        touched, self.touched = self.touched, frozenset()
        return touched

    async def refresh(self, source: Registry | None = None) -> bool:
        """Read and verify what is new; whether there was anything.

        Args:
            source: to read from another place than usual: a copy on disk.

        Raises:
            AuthorityError: the log does not verify, went back, or is another trust domain's. Nothing changed here.
            Unavailable: the registry does not answer.
        """
        async with self._one_at_a_time:
            new = await self._read_new(source or self._registry)
            if not new:
                return False
            state = verify_log(new, self.state)
            # Verified a line above; this reads them a second time only for their keys.
            keyed = {entry_key(msgspec.json.decode(signed.payload, type=Entry).body): signed for signed in new}
            self.state, self.latest = state, {**self.latest, **keyed}
            self.touched |= keyed.keys()
            if self._collects and source is None:
                self.unkept += new
            return True

    async def _read_new(self, source: Registry) -> list[SignedEntry]:
        new = await read_log(source, self.state.number)
        if new and self.state.number == 0 and genesis_fingerprint(new[0]) != self._genesis:
            raise AuthorityError(
                "the registry holds the log of another trust domain",
                number=1,
                hint="put this home's own registry back from its backup",
            )
        if not new:
            head = await read_head(source)
            if head is None:
                raise AuthorityError("the registry holds no log", hint="put the registry back from its backup")
            if head.number == self.state.number and head.hash != self.state.head:
                raise AuthorityFork("the registry holds another entry under this number", number=head.number)
        return new
