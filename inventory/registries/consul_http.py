"""I/O: how requests reach Consul: py-consul over HTTP on trio. Every failure becomes one of our errors here, in words.

py-consul hands back what its transport returns, so methods that return coroutines make all of its calls awaitable. The
ACL token is in the client's own headers: py-consul would put it into bodies and URLs of some calls, and takes another
one from the environment. What comes back is not trusted: it is bounded in size and time and never followed elsewhere.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

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


class TrioTransport(base.HTTPClient):  # type: ignore[misc]  # py-consul has no types
    """Requests of one process to one Consul. One attempt each."""

    def __init__(self, place: ConsulPlace, tls: ssl.SSLContext | None) -> None:
        address = parse_address(place.address)
        host = f"[{address.host}]" if ":" in address.host else address.host
        super().__init__(host, address.port, address.scheme)
        self.place = place
        self._client = httpx2.AsyncClient(
            verify=tls or False,
            # Neither a proxy nor a .netrc nor a CA bundle out of the environment: what counts is in domain.json.
            trust_env=False,
            # Compressed answers could be far larger than they seem.
            headers={"Accept-Encoding": "identity", "User-Agent": "meshbridge"},
            timeout=None,  # one deadline for the whole of a request, below
            limits=httpx2.Limits(max_connections=CONNECTIONS_MAX),
        )
        self._read_token()

    def _read_token(self) -> None:
        if self.place.token_file is None:
            return
        path = Path(self.place.token_file)
        token = read_secret(path, TOKEN_MAX).strip()
        if not token or not token.isascii() or not token.decode().isprintable():
            raise InputError("this file holds no token", where=str(path), hint="put the ACL token into it, and no more")
        self._client.headers["X-Consul-Token"] = token.decode()

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
    ) -> T:
        """One request, and what `callback` makes of its answer.

        Args:
            waits: how long Consul may hold the answer back before it counts as late.

        Raises:
            Unavailable: no answer, or one that says that Consul cannot or will not.
        """
        with trio.move_on_after(waits + ANSWER_TIMEOUT):
            status, headers, body = await self._exchange(method, path, params, data)
            if status not in _HAS_AN_ANSWER:
                self._refuse(status, body)
            try:
                return callback(base.Response(status, headers, body))
            except (ConsulException, InputError, ValueError, RecursionError) as exc:
                raise self._no_consul(shown(str(exc)[:_QUOTED])[1:-1]) from None
        raise Unavailable(
            f"Consul does not answer within {waits + ANSWER_TIMEOUT:.0f} s",
            where=self.place.address,
            hint="see that it is well and can be reached from here",
        )

    async def _exchange(
        self, method: str, path: str, params: Params, data: str | bytes
    ) -> tuple[int, httpx2.Headers, bytes]:
        pieces, size = [], 0
        try:
            async with self._client.stream(method, self.uri(path, list(params)), content=data or None) as answer:
                async for piece in answer.aiter_raw():
                    pieces.append(piece)
                    size += len(piece)
                    if size > ANSWER_MAX:
                        # Its next read then ends all the generators that are stacked below us, which leaving would not.
                        await answer.aclose()
                return answer.status_code, answer.headers, b"".join(pieces)
        except httpx2.ConnectError as exc:
            raise Unavailable(
                f"Consul cannot be reached: {_cause(exc)}",
                where=self.place.address,
                hint="start it, or see that this is its address (and --consul-ca its CA)",
            ) from None
        except httpx2.HTTPError as exc:
            if size > ANSWER_MAX:
                raise self._no_consul(f"it has more than {ANSWER_MAX} bytes") from None
            raise Unavailable(
                f"the connection to Consul broke: {_cause(exc)}",
                where=self.place.address,
                hint="run the command again, and look first whether the change was made",
            ) from None

    def _refuse(self, status: int, body: bytes) -> NoReturn:
        said = shown(body.decode(errors="replace").strip()[:_QUOTED])[1:-1]
        where, file = self.place.address, self.place.token_file
        if status in _REFUSED:
            if file is None:
                raise Unavailable("Consul wants a token", where=where, hint="name its file with --consul-token-file")
            self._read_token()  # it may have been replaced in its file: the next attempt uses what is there now
            raise Unavailable(
                f"Consul refuses the token in {file}: {said}",
                where=where,
                hint=f"put a token with the policy of docs/consul.md into {file}",
            )
        if status in _OVERLOADED:
            what = f"Consul takes no more requests now ({status})"
            raise Unavailable(what, where=where, hint="wait; if it stays so, see docs/consul.md, sizing")
        if status == 413:
            what = "Consul does not take a request of this size"
            raise Unavailable(what, where=where, hint="set limits.txn_max_req_len and kv_max_value_size to 524288")
        if status >= 500:
            what = f"Consul cannot answer: {status} {said}"
            raise Unavailable(what, where=where, hint="see `consul operator raft list-peers`: is there a leader?")
        raise self._no_consul(f"{status} {said}")

    def _no_consul(self, why: str) -> Unavailable:
        return Unavailable(
            f"this is no answer of a Consul: {why}",
            where=self.place.address,
            hint="see that the address is Consul's HTTP API",
        )


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
