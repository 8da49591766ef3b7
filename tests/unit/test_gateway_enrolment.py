"""Pure: a gateway enrols another one: who is given the issuer's key and who is not, and who renews a certificate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from agents import clock
from agents.control.enrolment import Enrolled, EnrolmentServer, EnrolmentWanted, Refused
from agents.control.reissue import reissue
from bridge.identity import certificates
from bridge.identity.certificates import PrivateKey
from bridge.identity.issuer import make_csr
from bridge.identity.sealing import SealKey
from bridge.identity.tokens import Token, secret_hash
from inventory.authority import GatewayBody, InviteBody, read_enrolment, revocation
from inventory.errors import Unavailable
from inventory.model import Gateway
from inventory.registries.interface import ANY, Change
from tests.support.enrolment import ADDRESS, INVITE, SECRET, Desk, open_desk

ISSUER_PEM = "-----BEGIN PRIVATE KEY-----\nthe issuer's\n"
SPIFFE = "spiffe://t.internal/gateway/gw2"
DESKS = (Gateway(name="gw1", address=ADDRESS),)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    path = tmp_path / "issuer.pem"
    path.touch(0o600)
    path.write_text(ISSUER_PEM)
    yield await open_desk(tmp_path, clock.now())


async def invite(desk: Desk, *, issuer: bool) -> Token:
    body = InviteBody(
        id=INVITE, role="gateway", name="gw2", secret_hash=secret_hash(SECRET), expires_at=int(desk.now + 600)
    )
    await desk.say(GatewayBody(gateway=Gateway(name="gw2", address="192.0.2.2:7443", issuer=issuer)), body)
    return desk.token("gw2", role="gateway")


async def answer(desk: Desk, token: Token, key: PrivateKey, seal_to: bytes | None) -> Enrolled | Refused:
    wanted = EnrolmentWanted(invite=token.invite, secret=token.secret, csr=make_csr(key), version="1", seal_to=seal_to)
    found: list[Enrolled | Refused] = []

    async def guest(stream: trio.abc.Stream) -> None:
        tls = await desk.tls(stream)
        await tls.send(wanted)
        found.append(await tls.receive(Enrolled | Refused))

    await desk.talk(guest)
    return found[0]


async def test_the_issuers_key_goes_sealed_to_whom_the_operator_signed_for_it(
    autojump_clock: MockClock, desk: Desk
) -> None:
    sealed_to, key = SealKey(), certificates.generate_key()
    enrolled = await answer(desk, await invite(desk, issuer=True), key, sealed_to.public)
    assert isinstance(enrolled, Enrolled) and enrolled.issuer is not None and enrolled.lifetime
    assert b"issuer's" not in enrolled.issuer and sealed_to.open(enrolled.issuer) == ISSUER_PEM
    records, _ = await desk.registry.read("")
    assert all(b"PRIVATE KEY" not in record.value for record in records.values())


async def test_nobody_else_is_given_the_issuers_key(autojump_clock: MockClock, desk: Desk) -> None:
    sealed_to = SealKey()
    token = await invite(desk, issuer=False)
    enrolled = await answer(desk, token, certificates.generate_key(), sealed_to.public)
    assert isinstance(enrolled, Enrolled) and enrolled.issuer is None
    host = await desk.invite("vm1", id="invite-2")
    enrolled = await answer(desk, host, certificates.generate_key(), sealed_to.public)
    assert isinstance(enrolled, Enrolled) and enrolled.issuer is None, "a host asks for it"


async def test_a_key_to_seal_to_that_is_none_is_refused(autojump_clock: MockClock, desk: Desk) -> None:
    token = await invite(desk, issuer=True)
    assert isinstance(await answer(desk, token, certificates.generate_key(), bytes(7)), Refused)


def other_desk(desk: Desk, *, issues: bool = True) -> EnrolmentServer:
    return EnrolmentServer(
        desk.domain.directory,
        desk.registry,
        desk.domain.issuer if issues else None,
        state=lambda: desk.log.state,
        latest=lambda: desk.log.latest,
        refresh=desk.log.refresh,
        now=lambda: desk.now,
    )


async def test_a_gateway_without_the_issuers_key_spends_no_token_and_says_so(
    autojump_clock: MockClock, desk: Desk
) -> None:
    token, key, issuing = await desk.invite(), certificates.generate_key(), desk.server
    desk.server = other_desk(desk, issues=False)
    refused = await answer(desk, token, key, None)
    assert isinstance(refused, Refused) and refused.code == "unavailable" and "ask another one" in refused.reason
    assert await read_enrolment(desk.registry, "host", "vm1") is None
    desk.server = issuing
    assert isinstance(await answer(desk, token, key, None), Enrolled), "the same token, at the next one"


async def asked(desk: Desk, token: Token, key: PrivateKey, chain: str) -> str:
    async with trio.open_nursery() as nursery:

        async def dial(_address: str, _port: int) -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()

            async def serve() -> None:
                async with theirs:
                    await desk.server.serve_stream(theirs, "198.51.100.7")

            nursery.start_soon(serve)
            return ours

        try:
            genesis = (await desk.start(token)).genesis
            return await reissue(DESKS, genesis, name="gw2", key=key, version="1", chain=chain, dial=dial)
        except Unavailable as exc:
            return exc.what
    raise AssertionError("unreachable")


async def test_a_gateway_is_renewed_by_what_it_was_given_before(autojump_clock: MockClock, desk: Desk) -> None:
    token, key = await invite(desk, issuer=False), certificates.generate_key()
    enrolled = await answer(desk, token, key, None)
    assert isinstance(enrolled, Enrolled)
    chain = await asked(desk, token, key, enrolled.chain)
    assert "BEGIN CERTIFICATE" in chain and chain != enrolled.chain
    await desk.log.refresh()
    await desk.say(revocation(desk.log.state, SPIFFE, keys=[], reason="removed"))
    assert "no enrolled gateway's" in await asked(desk, token, key, enrolled.chain)


async def test_whoever_writes_the_registry_becomes_no_gateway_by_it(autojump_clock: MockClock, desk: Desk) -> None:
    """The record of an enrolment is not signed."""
    token, key, thief = await invite(desk, issuer=False), certificates.generate_key(), certificates.generate_key()
    enrolled = await answer(desk, token, key, None)
    assert isinstance(enrolled, Enrolled)
    record = await desk.registry.get("enrolled/gateway/gw2")
    assert record is not None
    old, new = (certificates.key_hash(k.public_key()).encode() for k in (key, thief))
    await desk.registry.transact([Change("enrolled/gateway/gw2", ANY, record.value.replace(old, new))])
    for chain in (enrolled.chain, "", "nonsense"):
        assert "no enrolled gateway's" in await asked(desk, token, thief, chain)
