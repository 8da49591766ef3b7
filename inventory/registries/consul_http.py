"""I/O: how requests reach Consul: py-consul over HTTP on trio. Every failure becomes one of our errors here, in words.

py-consul hands back what its transport returns, so methods that return coroutines make all of its calls awaitable. The
ACL token is in the client's own headers: py-consul would put it into bodies and URLs of some calls, and takes another
one from the environment. What comes back is not trusted: it is bounded in size and time and never followed elsewhere.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx2
import trio
from consul import base
from consul.exceptions import ConsulException

from inventory.errors import InputError, InternalError, Unavailable
from inventory.home import read_secret
from inventory.names import shown
from inventory.registries.consul_place import ConsulPlace, parse_address

ANSWER_TIMEOUT = 10.0
"""From a request to the end of its answer. A healthy Consul needs milliseconds, a whole registry a second or two."""
CONNECT_TIMEOUT = 4.0
"""For a connection with TLS: time for the first packet to be sent three times. Then the next address is tried."""
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A watch says nothing while it waits: a connection that died in silence is noticed within 11 s."""
_PASSED_ON_TO_NOBODY = ("No cluster leader", "node is not the leader", "rpc error getting client: failed to get conn")
"""How the words of a server begin that has found no leader to give the request to."""
_WELL = "see that it is well and can be reached from here"
ANSWER_MAX = 256 * 1024 * 1024
"""Bytes of one answer; an estate of 10,000 hosts is read in a quarter of it."""
TOKEN_MAX = 4096
CONNECTIONS_MAX = 64
"""Requests at once of one process; further ones wait for their turn within ANSWER_TIMEOUT."""
_QUOTED = 200
"""Characters of Consul's own words in an error of ours."""

T = TypeVar("T")
Params = Sequence[tuple[str, Any]]

_REFUSED = frozenset({401, 403})
_OVERLOADED = frozenset({429, 503})
_HAS_AN_ANSWER = frozenset({200, 404, 409})


class _NothingDone(Unavailable):
    """It is certain that the request had no effect, so it may be made of another server."""


class TrioTransport(base.HTTPClient):  # type: ignore[misc]  # py-consul has no types
    """Requests of one process to one Consul. One attempt each, at the first of its addresses that can be asked: as with
    the addresses of a name, each is tried once at most, and the next one only while nothing can have been done. The one
    that answered is kept; after any failure the next request begins at the one behind it."""

    def __init__(self, place: ConsulPlace, tls: ssl.SSLContext | None) -> None:
        super().__init__("unused", 0, scheme="unused")
        self.place = place
        client = httpx2.AsyncClient(
            # Neither a proxy nor a .netrc nor a CA bundle out of the environment: what counts is in domain.json.
            trust_env=False,
            transport=httpx2.AsyncHTTPTransport(
                verify=tls or False,
                trust_env=False,
                limits=httpx2.Limits(max_connections=CONNECTIONS_MAX),
                socket_options=_KEEPALIVE,
            ),
            # Compressed answers could be far larger than they seem.
            headers={"Accept-Encoding": "identity", "User-Agent": "meshbridge"},
            # One deadline for the whole of a request, below.
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT),
        )
        self._client = client
        self._servers = [_Server(address, client, self._refused) for address in place.addresses]
        self._at = 0
        self._read_token()

    def _read_token(self) -> None:
        if self.place.token_file is None:
            return
        path = Path(self.place.token_file)
        token = read_secret(path, TOKEN_MAX).strip()
        if not token or not token.isascii() or not token.decode().isprintable():
            raise InputError("this file holds no token", where=str(path), hint="put the ACL token into it, and no more")
        self._client.headers["X-Consul-Token"] = token.decode()

    def _refused(self, said: str, where: str) -> Unavailable:
        file = self.place.token_file
        if file is None:
            return Unavailable("Consul wants a token", where=where, hint="name its file with --consul-token-file")
        self._read_token()  # it may have been replaced in its file: the next attempt uses what is there now
        hint = f"put a token with the policy of docs/consul.md into {file}"
        return Unavailable(f"Consul refuses the token in {file}: {said}", where=where, hint=hint)

    # py-consul's five methods. `headers` would carry a token, which ours already does; nothing is read `raw`.

    async def get(self, callback: Any, path: str, params: Params = (), headers: Any = None, raw: bool = False) -> Any:
        return await self.ask("GET", callback, path, params)

    async def put(
        self, callback: Any, path: str, params: Params = (), data: str | bytes = "", headers: Any = None
    ) -> Any:
        return await self.ask("PUT", callback, path, params, data)

    async def delete(
        self, callback: Any, path: str, params: Params = (), data: str | bytes = "", headers: Any = None
    ) -> Any:
        return await self.ask("DELETE", callback, path, params, data)

    async def post(self, callback: Any, path: str, params: Params = (), data: str = "", headers: Any = None) -> Any:
        return await self.ask("POST", callback, path, params, data)

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(
        self,
        method: str,
        callback: Callable[[base.Response], T],
        path: str,
        params: Params = (),
        data: str | bytes = b"",
        *,
        waits: float = 0.0,
        late: float | None = None,
        reads: bool = False,
    ) -> T:
        """One request, and what `callback` makes of its answer.

        Args:
            waits: how long Consul may hold the answer back before it counts as late.
            late: how much later than that the answer may be there in full, ANSWER_TIMEOUT unless said.
            reads: whether it changes nothing although it is no GET, so that any failure of a server leads to the next.

        Raises:
            Unavailable: no answer, or one that says that Consul cannot or will not.
        """
        # All of them relative to a server, which comes before it.
        uri = self.uri(path, list(params)).removeprefix(self.base_uri)
        left = len(self._servers)
        while True:
            at = self._at
            try:
                return await self._servers[at].ask(
                    method, callback, uri, data, within=waits + (ANSWER_TIMEOUT if late is None else late)
                )
            except Unavailable as exc:
                left -= 1
                if self._at == at:  # else another request has moved on already
                    self._at = (at + 1) % len(self._servers)
                if left == 0 or not (reads or method == "GET" or isinstance(exc, _NothingDone)):
                    raise


class _Server:
    """One server that is asked, once for each call."""

    def __init__(self, address: str, client: httpx2.AsyncClient, refused: Callable[[str, str], Unavailable]) -> None:
        parsed = parse_address(address)
        host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
        self._base = f"{parsed.scheme}://{host}:{parsed.port}"
        self._address = address
        self._client = client
        self._refused = refused

    async def ask(
        self, method: str, callback: Callable[[base.Response], T], uri: str, data: str | bytes, *, within: float
    ) -> T:
        with trio.move_on_after(within):
            status, headers, body = await self._exchange(method, self._base + uri, data)
            if status not in _HAS_AN_ANSWER:
                raise self._refusal(status, body)
            try:
                return callback(base.Response(status, headers, body))
            except (ConsulException, InputError, ValueError, RecursionError) as exc:
                raise self._no_consul(shown(str(exc)[:_QUOTED])[1:-1]) from None
        raise Unavailable(f"Consul does not answer within {within:.0f} s", where=self._address, hint=_WELL)

    async def _exchange(self, method: str, url: str, data: str | bytes) -> tuple[int, httpx2.Headers, bytes]:
        pieces, size = [], 0
        try:
            async with self._client.stream(method, url, content=data or None) as answer:
                async for piece in answer.aiter_raw():
                    pieces.append(piece)
                    size += len(piece)
                    if size > ANSWER_MAX:
                        # Its next read then ends all the generators that are stacked below us, which leaving would not.
                        await answer.aclose()
                return answer.status_code, answer.headers, b"".join(pieces)
        except httpx2.ConnectTimeout:
            what = f"Consul does not answer within {CONNECT_TIMEOUT:.0f} s"
            raise _NothingDone(what, where=self._address, hint=_WELL) from None
        except httpx2.ConnectError as exc:
            raise _NothingDone(
                f"Consul cannot be reached: {_cause(exc)}",
                where=self._address,
                hint="start it, or see that this is its address (and --consul-ca its CA)",
            ) from None
        except httpx2.HTTPError as exc:
            if size > ANSWER_MAX:
                raise self._no_consul(f"it has more than {ANSWER_MAX} bytes") from None
            raise Unavailable(
                f"the connection to Consul broke: {_cause(exc)}",
                where=self._address,
                hint="run the command again, and look first whether the change was made",
            ) from None

    def _refusal(self, status: int, body: bytes) -> Unavailable:
        said, where = shown(body.decode(errors="replace").strip()[:_QUOTED])[1:-1], self._address
        if status in _REFUSED:
            return self._refused(said, where)
        if status in _OVERLOADED:
            what = f"Consul takes no more requests now ({status})"
            return Unavailable(what, where=where, hint="wait; if it stays so, see docs/consul.md, sizing")
        if status == 413:
            what = "Consul does not take a request of this size"
            return Unavailable(what, where=where, hint="set limits.txn_max_req_len and kv_max_value_size to 524288")
        if status >= 500:
            kind = _NothingDone if said.startswith(_PASSED_ON_TO_NOBODY) else Unavailable
            hint = "see `consul operator raft list-peers`: is there a leader?"
            return kind(f"Consul cannot answer: {status} {said}", where=where, hint=hint)
        return self._no_consul(f"{status} {said}")

    def _no_consul(self, why: str) -> Unavailable:
        what = f"this is no answer of a Consul: {why}"
        return Unavailable(what, where=self._address, hint="see that the address is Consul's HTTP API")


class TrioConsul(base.Consul):  # type: ignore[misc]
    """py-consul's whole API, each call to be awaited."""

    http: TrioTransport

    def __init__(self, place: ConsulPlace, tls: ssl.SSLContext | None) -> None:
        if (tls is None) != (parse_address(place.address).scheme == "http"):
            raise InternalError(f"{place.address} is asked with the wrong kind of TLS")
        self._place, self._tls = place, tls
        super().__init__("unused", 0, scheme="unused", verify=True)
        # py-consul takes one out of the environment, before any that it is given.
        self.token = None

    def http_connect(self, *_: Any, **__: Any) -> TrioTransport:
        return TrioTransport(self._place, self._tls)


async def answer(call: Any) -> Any:
    """What a call of py-consul, which believes to be synchronous, gives when awaited."""
    return await cast(Awaitable[Any], call)


def _cause(exc: BaseException) -> str:
    """The operating system's or TLS's own words, below those of the libraries."""
    below: BaseException | None = exc
    text = str(exc)
    while below is not None:
        if isinstance(below, ssl.SSLCertVerificationError):
            return f"its certificate does not verify: {below.verify_message}"
        if isinstance(below, OSError) and below.errno:
            text = os.strerror(below.errno)
        # trio tries every address of a name, and puts what each of them said into a group.
        inner = below.exceptions[-1] if isinstance(below, BaseExceptionGroup) else None
        below = inner or below.__cause__ or below.__context__
    return shown(text[:_QUOTED])[1:-1] or type(exc).__name__
