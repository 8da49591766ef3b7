"""Pure: a host whose certificate has ended gets another for its enrolled key, and nobody else does (F16)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from agents import clock
from agents.control.enrolment import EnrolmentServer
from agents.control.reissue import reissue
from bridge.identity import certificates
from bridge.identity.certificates import PrivateKey
from bridge.identity.verify import read_leaf
from inventory.authority import Enrolment, HostBody, Slice, read_enrolment, revocation
from inventory.errors import Unavailable
from inventory.model import Gateway, Host
from inventory.names import parse_spiffe_id
from tests.support.enrolment import ADDRESS, Desk, open_desk

VM1 = parse_spiffe_id("spiffe://t.internal/host/vm1")
GATEWAYS = (Gateway(name="gw1", address=ADDRESS),)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    yield await open_desk(tmp_path, clock.now())


async def asked(desk: Desk, known: Slice, key: PrivateKey, host: str = "vm1") -> str:
    """What a host gets that asks `desk` over a stream in memory."""
    async with trio.open_nursery() as nursery:

        async def dial(_address: str, _port: int) -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()

            async def serve() -> None:
                async with theirs:
                    await desk.server.serve_stream(theirs, "198.51.100.7")

            nursery.start_soon(serve)
            return ours

        try:
            return await reissue(GATEWAYS, known.genesis, name=host, key=key, version="1", dial=dial)
        except Unavailable as exc:
            return exc.what
    raise AssertionError("unreachable")


async def test_f16_a_host_that_was_off_too_long_comes_back_with_its_key(autojump_clock: MockClock, desk: Desk) -> None:
    token, key = await desk.invite(), certificates.generate_key()
    await desk.enrol(token, key)
    chain = await asked(desk, await desk.start(token), key)
    leaf = read_leaf(certificates.to_der(certificates.parse_certificates(chain)[0]))
    assert (leaf.spiffe, leaf.key) == (VM1, certificates.key_hash(key.public_key()))


async def test_f16_everybody_else_is_refused_in_the_same_words(autojump_clock: MockClock, desk: Desk) -> None:
    token, key = await desk.invite(), certificates.generate_key()
    await desk.enrol(token, key)
    known = await desk.start(token)
    other_key = await asked(desk, known, certificates.generate_key())
    unknown = await asked(desk, known, key, host="vm9")
    await desk.log.refresh()
    await desk.say(revocation(desk.log.state, str(VM1), keys=[], reason="stolen"))
    revoked = await asked(desk, known, key)
    assert "this key is no enrolled host's" in other_key
    assert other_key == unknown == revoked


async def test_f16_while_the_registry_is_away_a_host_comes_back_by_what_was_kept(
    autojump_clock: MockClock, desk: Desk
) -> None:
    token, key = await desk.invite(), certificates.generate_key()
    await desk.enrol(token, key)
    known = await desk.start(token)
    kept = {"vm1": await read_enrolment(desk.registry, "host", "vm1")}
    await desk.log.refresh()

    async def away() -> None:
        raise Unavailable("it is away")

    async def of(_role: str, host: str) -> Enrolment | None:
        return kept.get(host)

    desk.server = EnrolmentServer(
        desk.domain.directory,
        desk.registry,
        desk.domain.issuer,
        state=lambda: desk.log.state,
        latest=lambda: desk.log.latest,
        refresh=away,
        enrolled=of,
    )
    assert "BEGIN CERTIFICATE" in await asked(desk, known, key)
    assert "this key is no enrolled host's" in await asked(desk, known, certificates.generate_key())
    kept.clear()
    assert "this key is no enrolled host's" in await asked(desk, known, key)


async def test_f16_a_removed_host_does_not_come_back(autojump_clock: MockClock, desk: Desk) -> None:
    token, key = await desk.invite(), certificates.generate_key()
    await desk.enrol(token, key)
    await desk.say(HostBody(host=Host(name="vm1"), removed=True))
    assert "this key is no enrolled host's" in await asked(desk, await desk.start(token), key)


async def test_c10_an_agent_of_old_does_not_come_back_under_the_name_of_an_agentless_host(
    autojump_clock: MockClock, desk: Desk
) -> None:
    token, key = await desk.invite(), certificates.generate_key()
    await desk.enrol(token, key)
    await desk.say(HostBody(host=Host(name="vm1", via="gw1")))
    assert "this key is no enrolled host's" in await asked(desk, await desk.start(token), key)


async def test_f16_a_host_that_was_never_enrolled_gets_nothing(autojump_clock: MockClock, desk: Desk) -> None:
    token = await desk.invite()
    assert "this key is no enrolled host's" in await asked(desk, await desk.start(token), certificates.generate_key())
