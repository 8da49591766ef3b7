"""I/O: one estate's part of Consul's KV: its transactions, its listing, its large values, and whether it is in use.

What all of them share is the fence: `live/about` says what this is, and a change is made only while it says so. See
`consul_wire` for the keys. Making such a part, filling it and giving it up is here too; what a registry does is not.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from consul import base

from inventory.errors import InputError, Unavailable
from inventory.names import shown
from inventory.registries import consul_wire as wire
from inventory.registries.consul_http import TrioConsul
from inventory.registries.consul_place import ConsulPlace
from inventory.strict_json import decode

WATCH_WAIT = 5
"""Seconds for which Consul holds a watch back; it adds up to a sixteenth. A rollback that fell between two questions,
and a server that lost the others and does not say so, go unnoticed for little longer."""
WATCH_LATE = 4.0
"""After that, for an answer of some keys that a healthy Consul has in milliseconds: one that takes requests and answers
none (stopped, cut off behind a proxy) is noticed within 10 s. Commands are more patient."""
AGAIN = "run the command again"

CONSISTENT = (("consistent", "1"),)
"""Asked of the leader, who makes sure that it still is: decisions are built on what is read."""

Operations = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Listed:
    entries: dict[str, wire.Entry]
    index: int


class ConsulStore:
    """Args:
    tls: for an https:// address.
    accepts_moved: also read what was moved away from here (to move it once more).
    """

    def __init__(self, place: ConsulPlace, tls: ssl.SSLContext | None, *, accepts_moved: bool = False) -> None:
        self.place = place
        self.prefix = place.prefix
        self.consul = TrioConsul(place, tls)
        self._http = self.consul.http
        self._accepts_moved = accepts_moved
        self._about: int | None = None
        """Version of live/about, once it was read."""

    @property
    def where(self) -> str:
        return f"{self.place.where} {self.prefix}"

    async def close(self) -> None:
        await self._http.close()

    # --- reading and changing -----------------------------------------------------------------------------------------

    async def read(self, trees: Sequence[str]) -> dict[str, wire.Entry]:
        """Every key that starts with one of `trees`, at one moment, live/about among them."""
        reads = [wire.read_tree(self.prefix + tree) for tree in (wire.ABOUT, *trees)]
        asked = wire.encode_operations(reads)
        entries = dict((await self._http.ask("PUT", _outcome, "/v1/txn", CONSISTENT, asked, reads=True)).entries)
        await self._check_about(entries)
        return entries

    async def live(self, *, index: int = 0, late: float | None = None) -> Listed:
        """What `live/` holds; with `index`, once Consul has news after it or has waited for long enough."""
        wait = (("index", str(index)), ("wait", f"{WATCH_WAIT}s")) if index else CONSISTENT
        waits = WATCH_WAIT * 17 / 16 if index else 0.0
        path = f"/v1/kv/{self.prefix}{wire.LIVE}"
        listed = await self._http.ask("GET", _listing, path, (("recurse", "1"), *wait), waits=waits, late=late)
        await self._check_about(listed.entries)
        return listed

    async def change(self, operations: Operations) -> wire.Outcome:
        """All of `operations` or none; `failed` counts in them.

        Raises:
            Unavailable: this is not the part that was opened any more.
        """
        if self._about is None:
            await self.live()
        fence = {"Verb": "check-index", "Key": self.prefix + wire.ABOUT, "Index": self._about}
        outcome = await self._transaction([fence, *operations])
        if outcome.failed is None:
            return outcome
        if outcome.failed.operation == 0:
            self._about = None
            await self.live()  # says what is wrong, if that can be seen
            raise Unavailable("the registry in Consul was replaced meanwhile", where=self.where, hint=AGAIN)
        return wire.Outcome({}, wire.Failure(outcome.failed.operation - 1, outcome.failed.what))

    async def _transaction(self, operations: Operations) -> wire.Outcome:
        return await self._http.ask("PUT", _outcome, "/v1/txn", (), wire.encode_operations(operations))

    # --- large values -------------------------------------------------------------------------------------------------

    async def value(self, entry: wire.Entry) -> bytes | None:
        """What a record says; None when its chunks are not there (any more).

        Raises:
            InputError: its manifest is none of ours.
        """
        if not entry.flags & wire.LARGE:
            return entry.value or b""
        manifest = wire.read_manifest(entry)
        pieces = []
        for number in range(manifest.chunks):
            key = self.prefix + wire.chunk_key(manifest, number)
            found = await self._http.ask("GET", _listing, f"/v1/kv/{key}", CONSISTENT)
            if key not in found.entries:
                return None
            pieces.append(found.entries[key].value or b"")
        return wire.join_chunks(manifest, pieces)

    async def write_chunks(self, value: bytes) -> wire.Manifest:
        manifest = wire.make_manifest(value)
        for number, chunk in enumerate(wire.chunks_of(value)):
            key = self.prefix + wire.chunk_key(manifest, number)
            if not await self._http.ask("PUT", _done, f"/v1/kv/{key}", (), chunk):
                raise Unavailable("Consul does not take a large value", where=self.where)
        return manifest

    async def remove_chunks(self, manifest: wire.Manifest) -> None:
        path = f"/v1/kv/{self.prefix}{wire.CHUNKS}{manifest.id}/"
        await self._http.ask("DELETE", _done, path, (("recurse", "1"),))

    async def chunk_ids(self) -> set[str]:
        """Of all large values of which there are pieces."""
        start = self.prefix + wire.CHUNKS
        keys = (("keys", "1"), ("separator", "/"), *CONSISTENT)
        found = await self._http.ask("GET", _keys, f"/v1/kv/{start}", keys)
        return {key.removeprefix(start).removesuffix("/") for key in found}

    async def remove_orphan(self, found: str, *, unchanged_since: int) -> bool:
        """Removes the pieces of one large value; not when a record was changed after this version of live/revision."""
        unchanged = {"Verb": "check-index", "Key": self.prefix + wire.REVISION, "Index": unchanged_since}
        remove = {"Verb": "delete-tree", "Key": f"{self.prefix}{wire.CHUNKS}{found}/"}
        return (await self.change([unchanged, remove])).failed is None

    # --- what this is -------------------------------------------------------------------------------------------------

    async def begin(self, *, over: str | None = None) -> None:
        """Makes an empty part here, in the state `filling`. What a killed command left unfinished is removed.

        Args:
            over: the state of a part that may be removed as well, because the caller has seen what is in it.

        Raises:
            InputError: there is a registry, or anything else, below the prefix.
        """
        found = await self._about_entry()
        hint = f"choose another --consul-prefix, or remove it with `consul kv delete -recurse {self.prefix}`"
        if found is None:
            keys = (("keys", "1"), ("separator", "/"))
            if await self._http.ask("GET", _is_there, f"/v1/kv/{self.prefix}", keys):
                raise InputError("there is something else below this prefix", where=self.where, hint=hint)
            first: list[Mapping[str, Any]] = [{"Verb": "check-not-exists", "Key": self.prefix + wire.ABOUT}]
        else:
            if wire.read_about(found).state not in ("filling", "moved", over):
                raise InputError("there is a registry below this prefix already", where=self.where, hint=hint)
            first = [{"Verb": "check-index", "Key": self.prefix + wire.ABOUT, "Index": found.modify_index}]
            trees = (wire.LIVE, wire.RECORDS, wire.CHUNKS)
            first += [{"Verb": "delete-tree", "Key": self.prefix + tree} for tree in trees]
        made = [wire.write(self.prefix + wire.ABOUT, _about("filling")), wire.write(self.prefix + wire.REVISION, b"")]
        if (await self._transaction([*first, *made])).failed is not None:
            raise Unavailable("another command is at work on this prefix", where=self.where, hint=AGAIN)
        self._about = None

    async def become(self, state: str) -> None:
        """`ready` once it is whole; `moved` when it takes no more changes, from nobody."""
        if self._about is None:
            await self.live()
        about = {**wire.write(self.prefix + wire.ABOUT, _about(state)), "Verb": "cas", "Index": self._about}
        if (await self._transaction([about])).failed is not None:
            raise Unavailable("another command is at work on this prefix", where=self.where, hint=AGAIN)
        self._about = None

    async def state(self) -> str | None:
        """`filling`, `ready` or `moved`; None when there is no registry below the prefix."""
        found = await self._about_entry()
        return None if found is None else wire.read_about(found).state

    async def _about_entry(self) -> wire.Entry | None:
        key = self.prefix + wire.ABOUT
        return (await self._http.ask("GET", _listing, f"/v1/kv/{key}", CONSISTENT)).entries.get(key)

    async def _check_about(self, entries: Mapping[str, wire.Entry]) -> None:
        """Raises unless this is a registry of ours that is in use."""
        # Consul hides from lists what the token may not read. Asked for the one key it says so, which raises here.
        entry = entries.get(self.prefix + wire.ABOUT) or await self._about_entry()
        if entry is None:
            raise Unavailable(
                "there is no registry below this prefix",
                where=self.where,
                hint="is this the right Consul? If so, restore its snapshot, or a backup of the registry",
            )
        if wire.read_about(entry).state == "moved" and not self._accepts_moved:
            raise Unavailable(
                "the registry was moved away from here", where=self.where, hint="use the home that it was moved with"
            )
        self._about = entry.modify_index


def damaged(key: str) -> InputError:
    what = "a large value is not whole in Consul"
    return InputError(what, where=shown(key), hint="restore a backup of the registry")


def _about(state: str) -> bytes:
    return msgspec.json.encode(wire.About(wire.FORMAT, state))


def _listing(response: base.Response) -> Listed:
    """Raises ValueError: not an answer of Consul's, which numbers all of them."""
    if "X-Consul-Index" not in response.headers or response.code == 409:
        raise ValueError("it has no index")
    entries = wire.read_listing(response.body) if response.code == 200 else {}
    return Listed(entries, max(int(response.headers["X-Consul-Index"]), 1))


def _keys(response: base.Response) -> list[str]:
    return decode(response.body, list[str], max_bytes=wire.ANSWER_MAX, what="keys") if response.code == 200 else []


def _is_there(response: base.Response) -> bool:
    return bool(response.code == 200)


def _outcome(response: base.Response) -> wire.Outcome:
    if response.code == 404:
        raise ValueError("it knows no transactions")
    return wire.read_outcome(response.body)


def _done(response: base.Response) -> bool:
    return bool(response.code == 200 and response.body.strip() == b"true")
