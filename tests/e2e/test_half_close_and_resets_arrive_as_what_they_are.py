"""I/O: F23: over a bad link, ten thousand transfers arrive byte for byte, each with its own kind of end.

    upload     the client sends and ends its side; the answer comes afterwards, all of it
    download   the server sends and ends its side; the client goes on sending, and all of that arrives
    abort      the client resets in the middle: the server sees a reset and no end of stream
    refusal    the server resets in the middle: the client does

The link cuts what goes between the nodes into odd pieces and stalls now and then (tests/support/chaos.py). Half of the
transfers go directly, half through the gateway. Data, kinds and sizes come from the seed and the transfer's number.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
import trio

from tests.support.estate import Estate
from tests.support.pair import start_pair_in_chaos

TRANSFERS = 5_000
AT_ONCE = 48
KINDS = ("upload", "upload", "upload", "download", "download", "download", "abort", "refusal")
CHAOS = ("--piece", "20000", "--stalls", "0.001", "--stall", "0.03")
PATIENCE = 60.0
_HEADER = struct.Struct(">I")
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Transfer:
    """What both ends of one transfer know of it."""

    number: int
    kind: str
    there: bytes
    back: bytes

    @classmethod
    def of(cls, seed: int, number: int) -> Transfer:
        chance = random.Random(f"{seed} {number}")
        kind = chance.choice(KINDS)
        sizes = [chance.randrange(1, 100_000) if chance.random() < 0.03 else chance.randrange(1, 3000) for _ in "ab"]
        return cls(number, kind, chance.randbytes(sizes[0]), chance.randbytes(sizes[1]))


class Transfers:
    """Both ends of all of them; `wrong` says what did not go as it should."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._server_saw: dict[int, trio.Event] = {}

    # --- the service ----------------------------------------------------------------------------------------------

    async def serve(self, stream: trio.SocketStream) -> None:
        head = await exactly(stream, _HEADER.size)
        if len(head) < _HEADER.size:
            return  # a health check
        transfer = Transfer.of(self._seed, _HEADER.unpack(head)[0])
        if transfer.kind == "upload":
            self._check(transfer, "what the client sent", await to_end(stream), transfer.there)
            await stream.send_all(transfer.back)
            await stream.send_eof()
        elif transfer.kind == "download":
            await stream.send_all(transfer.back)
            await stream.send_eof()
            self._check(transfer, "what came after our end", await to_end(stream), transfer.there)
        elif transfer.kind == "abort":
            got = await exactly(stream, len(transfer.there))
            self._check(transfer, "what came before the reset", got, transfer.there)
            await stream.send_all(b"!")
            await self._expect_reset(transfer, stream)
        else:
            self._check(transfer, "the question", await exactly(stream, len(transfer.there)), transfer.there)
            await stream.send_all(transfer.back)
            await exactly(stream, 1)  # the client has it all: a reset may drop what is under way
            reset(stream)
        self._saw(transfer).set()

    # --- the clients ----------------------------------------------------------------------------------------------

    async def run(self, place: tuple[str, int]) -> None:
        numbers = iter(range(TRANSFERS))
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._some, place, numbers)

    async def _some(self, place: tuple[str, int], numbers: Iterator[int]) -> None:
        for number in numbers:
            transfer = Transfer.of(self._seed, number)
            with trio.move_on_after(PATIENCE) as scope:
                try:
                    await self._one(place, transfer)
                except (trio.BrokenResourceError, OSError) as exc:
                    self.wrong.append(f"{transfer.number} {transfer.kind}: {exc!r} at the client")
            if scope.cancelled_caught:
                self.wrong.append(f"{transfer.number} {transfer.kind}: not within {PATIENCE:g} s")
            self.done[transfer.kind] += 1

    async def _one(self, place: tuple[str, int], transfer: Transfer) -> None:
        async with await trio.open_tcp_stream(*place) as stream:
            await stream.send_all(_HEADER.pack(transfer.number))
            if transfer.kind == "upload":
                await stream.send_all(transfer.there)
                await stream.send_eof()
                self._check(transfer, "the answer after our end", await to_end(stream), transfer.back)
            elif transfer.kind == "download":
                self._check(transfer, "what the server sent", await to_end(stream), transfer.back)
                await stream.send_all(transfer.there)
                await stream.send_eof()
            elif transfer.kind == "abort":
                await stream.send_all(transfer.there)
                await exactly(stream, 1)
                reset(stream)
            else:
                await stream.send_all(transfer.there)
                got = await exactly(stream, len(transfer.back))
                self._check(transfer, "what came before the reset", got, transfer.back)
                await stream.send_all(b"!")
                await self._expect_reset(transfer, stream)
            await self._saw(transfer).wait()

    # --- judging --------------------------------------------------------------------------------------------------

    def _saw(self, transfer: Transfer) -> trio.Event:
        return self._server_saw.setdefault(transfer.number, trio.Event())

    def _check(self, transfer: Transfer, what: str, got: bytes, expected: bytes) -> None:
        if got != expected:
            self.wrong.append(f"{transfer.number} {transfer.kind}: {what}: {len(got)} bytes of {len(expected)}")

    async def _expect_reset(self, transfer: Transfer, stream: trio.SocketStream) -> None:
        try:
            data = await stream.receive_some(4096)
        except trio.BrokenResourceError:
            return
        self.wrong.append(f"{transfer.number} {transfer.kind}: {data!r} where a reset should be")


async def exactly(stream: trio.SocketStream, size: int) -> bytes:
    got = bytearray()
    while len(got) < size and (data := await stream.receive_some(size - len(got))):
        got += data
    return bytes(got)


async def to_end(stream: trio.SocketStream) -> bytes:
    got = bytearray()
    while data := await stream.receive_some(65536):
        got += data
    return bytes(got)


def reset(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    stream.socket.close()


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through the gateway"])
def test_f23_every_byte_and_every_kind_of_end_arrives(estate: Estate, direct: bool, seed: int) -> None:
    transfers = Transfers(seed)

    async def all_of_them() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, guarded, listeners)
            start = partial(start_pair_in_chaos, estate, {"it": f"127.0.0.1:{port}"}, seed, *CHAOS, direct=direct)
            pair = await trio.to_thread.run_sync(start)
            began = time.monotonic()
            place = await trio.to_thread.run_sync(pair.place, "it")
            await transfers.run(place)
            print(f"{transfers.done.total()} transfers within {time.monotonic() - began:.1f} s: {dict(transfers.done)}")
            paths = await trio.to_thread.run_sync(pair.tunnel_paths)
            assert set(paths) == {"direct" if direct else "through gw1"}
            nursery.cancel_scope.cancel()

    async def guarded(stream: trio.SocketStream) -> None:
        try:
            await transfers.serve(stream)
        except (trio.BrokenResourceError, OSError) as exc:
            transfers.wrong.append(f"{exc!r} at the server")

    trio.run(all_of_them)
    assert transfers.done.total() == TRANSFERS
    assert not transfers.wrong, (len(transfers.wrong), transfers.wrong[:5])
