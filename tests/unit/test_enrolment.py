"""Pure: the enrolment exchange over streams in memory: who gets in, what a refusal tells, what a guest can cost."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio
import trio.lowlevel
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from trio.testing import MockClock

from agents import clock
from agents.control.enrolment import (
    PREFACE,
    TOKEN_REFUSED,
    Enrolled,
    EnrolmentWanted,
    GenesisWanted,
    Refused,
)
from agents.knowledge.key_holders import claim_key, keys_of
from bridge import limits
from bridge.errors import PeerError, PeerRefused
from bridge.identity import certificates
from bridge.identity.issuer import IssuanceRecord, make_csr
from bridge.identity.verify import PeerIdentity, read_leaf
from inventory.authority import (
    AuthorityError,
    GatewayBody,
    HostBody,
    closing_invites,
    read_enrolment,
    read_refusals,
    revocation,
)
from inventory.errors import AnswerIsNo
from inventory.model import Gateway, Host
from inventory.names import parse_spiffe_id
from tests.support.enrolment import INVITE, Desk, open_desk
from tests.support.memory_tls import TrustDomain

VM1 = parse_spiffe_id("spiffe://t.internal/host/vm1")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    yield await open_desk(tmp_path, clock.now())


def leaf_of(enrolled: Enrolled) -> PeerIdentity:
    return read_leaf(certificates.to_der(certificates.parse_certificates(enrolled.chain)[0]))


# --- the honest way ---------------------------------------------------------------------------------------------------


async def test_a_token_becomes_an_identity(autojump_clock: MockClock, desk: Desk) -> None:
    token, key = await desk.invite(), certificates.generate_key()
    enrolled = await desk.enrol(token, key)
    leaf = leaf_of(enrolled)
    assert (leaf.spiffe, leaf.key) == (VM1, certificates.key_hash(key.public_key()))
    state = (await desk.start(token)).applied(enrolled.entries).state
    assert set(state.hosts) == {"vm1"}
    assert set(state.gateways) == {"gw1"}


async def test_the_server_returns_what_it_issued_for_the_log(autojump_clock: MockClock, desk: Desk) -> None:
    token = await desk.invite()
    answers: list[Enrolled | Refused] = []

    async def guest(stream: trio.abc.Stream) -> None:
        tls = await desk.tls(stream)
        csr = make_csr(certificates.generate_key())
        await tls.send(EnrolmentWanted(invite=token.invite, secret=token.secret, csr=csr, version="1"))
        answers.append(await tls.receive(Enrolled | Refused))

    record = await desk.talk(guest)
    assert isinstance(record, IssuanceRecord)
    assert record.spiffe_id == str(VM1)
    assert isinstance(answers[0], Enrolled)


async def test_a_token_works_the_moment_it_is_signed(autojump_clock: MockClock, desk: Desk) -> None:
    token = await desk.invite()
    assert INVITE not in desk.log.state.invites, "the gateway has not looked yet"
    await desk.enrol(token, certificates.generate_key())


async def test_f04_the_same_key_may_come_again_and_gets_the_same_name(autojump_clock: MockClock, desk: Desk) -> None:
    token, key = await desk.invite(), certificates.generate_key()
    for _ in range(3):
        enrolled = await desk.enrol(token, key)
        assert isinstance(enrolled, Enrolled)
    assert await keys_of(desk.registry, VM1) == [certificates.key_hash(key.public_key())]


# --- refusals ---------------------------------------------------------------------------------------------------------


async def expired(desk: Desk) -> None:
    await desk.invite(ttl=60)
    desk.now += 61


async def used(desk: Desk) -> None:
    await desk.enrol(await desk.invite(), certificates.generate_key())


async def removed(desk: Desk) -> None:
    await desk.invite()
    await desk.say(HostBody(host=Host(name="vm1"), removed=True))


async def revoked(desk: Desk) -> None:
    await desk.invite()
    await desk.log.refresh()
    await desk.say(revocation(desk.log.state, str(VM1), keys=[], reason="stolen"))


async def replaced(desk: Desk) -> None:
    await desk.invite()
    await desk.invite(id="invite-2", secret=bytes(32))


async def restored(desk: Desk) -> None:
    """From a backup that was made before the token was used."""
    await desk.invite()
    await desk.log.refresh()
    await desk.registry.transact(closing_invites(desk.log.state.invites.values(), desk.now))


async def agentless(desk: Desk) -> None:
    """The name was given to a host on which no agent runs, after the token was made."""
    await desk.invite()
    await desk.say(HostBody(host=Host(name="vm1", via="gw1")))


async def unknown(desk: Desk) -> None:
    return


async def wrong(desk: Desk) -> None:
    await desk.invite(secret=b"x" * 32)


CASES = [wrong, unknown, used, expired, removed, agentless, revoked, replaced, restored]
WORDS = [
    "wrong secret",
    "",
    "used at",
    "expired at",
    "was removed",
    "no agent runs on it",
    "is revoked: stolen",
    "newer token",
    "restored",
]


@pytest.mark.parametrize("prepare", CASES)
async def test_h10_c20_every_bad_token_gets_the_same_words_at_the_same_moment(
    autojump_clock: MockClock, desk: Desk, prepare: Callable[[Desk], Awaitable[None]]
) -> None:
    await prepare(desk)
    before = trio.current_time()
    answer = await desk.raw_question(desk.token())
    assert answer == Refused(code="token", reason=TOKEN_REFUSED)
    assert trio.current_time() - before == pytest.approx(limits.ENROLMENT_REFUSAL_TIME)


@pytest.mark.parametrize(("prepare", "word"), list(zip(CASES, WORDS, strict=True)))
async def test_h10_the_cause_is_recorded_for_the_operator_only(
    autojump_clock: MockClock, desk: Desk, prepare: Callable[[Desk], Awaitable[None]], word: str
) -> None:
    await prepare(desk)
    await desk.raw_question(desk.token(), remote="198.51.100.66:1234")
    refusals = await read_refusals(desk.registry, INVITE)
    if not word:
        assert not refusals, "a guess at an invite that does not exist must not fill the registry"
        return
    assert [refusal.source for refusal in refusals] == ["198.51.100.66:1234"]
    assert word in refusals[0].reason


async def test_h10_a_refused_node_is_told_what_to_do(autojump_clock: MockClock, desk: Desk) -> None:
    await desk.invite()
    with pytest.raises(AnswerIsNo, match="token refused") as caught:
        await desk.enrol(desk.token(secret=bytes(32)), certificates.generate_key())
    assert "host token" in caught.value.hint


async def test_h10_a_token_for_another_host_gives_only_what_its_invite_names(
    autojump_clock: MockClock, desk: Desk
) -> None:
    await desk.invite("vm1")
    enrolled = await desk.raw_question(desk.token("vm2"))
    assert isinstance(enrolled, Enrolled)
    leaf = leaf_of(enrolled)
    assert leaf.spiffe == VM1


async def test_c19_fifty_guests_with_one_token_are_one_identity(autojump_clock: MockClock, desk: Desk) -> None:
    token = await desk.invite()
    answers: list[Enrolled | Refused] = []

    async def guest(number: int) -> None:
        answers.append(await desk.raw_question(token, remote=f"198.51.100.{number}"))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(guest, number)
    assert sum(isinstance(answer, Enrolled) for answer in answers) == 1
    refusals = await read_refusals(desk.registry, token.invite)
    assert len(refusals) == 49
    winner = await read_enrolment(desk.registry, "host", "vm1")
    assert winner is not None
    assert len({winner.source, *(refusal.source for refusal in refusals)}) == 50
    assert await keys_of(desk.registry, VM1) == [winner.key], "keys that were refused are nobody's"


# --- requests ---------------------------------------------------------------------------------------------------------


def extra_name() -> bytes:
    """A request that asks for a name of its own (C06)."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://t.internal/gateway/gw1")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(certificates.generate_key(), hashes.SHA256()).public_bytes(Encoding.DER)


def rsa_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def bad_signature() -> bytes:
    good = bytearray(make_csr(certificates.generate_key()))
    good[-1] ^= 1
    return bytes(good)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (extra_name, "names or extensions"),
        (rsa_key, "not ECDSA P-256"),
        (bad_signature, "signature"),
        (lambda: b"nonsense", "cannot be read"),
        (lambda: bytes(limits.CSR_MAX_BYTES + 1), "at most"),
    ],
)
async def test_h09_c06_a_bad_request_is_refused_by_name_and_spends_nothing(
    autojump_clock: MockClock, desk: Desk, make: Callable[[], bytes], word: str
) -> None:
    token = await desk.invite()
    answer = await desk.raw_question(token, make())
    assert isinstance(answer, Refused)
    assert answer.code == "request"
    assert word in answer.reason
    await desk.enrol(token, certificates.generate_key())


async def test_h09_the_key_of_another_host_is_refused_and_spends_nothing(autojump_clock: MockClock, desk: Desk) -> None:
    key = certificates.generate_key()
    await desk.enrol(await desk.invite("vm2", id="invite-2"), key)
    token = await desk.invite()
    answer = await desk.raw_question(token, make_csr(key))
    assert isinstance(answer, Refused)
    assert answer.code == "key"
    assert "another node" in answer.reason
    assert "vm2" not in answer.reason, "a guest learns of no other host"
    await desk.enrol(token, certificates.generate_key())


async def test_c16_a_revoked_key_never_comes_back(autojump_clock: MockClock, desk: Desk) -> None:
    key = certificates.generate_key()
    await desk.enrol(await desk.invite(), key)
    keys = await keys_of(desk.registry, VM1)
    await desk.say(revocation(desk.log.state, str(VM1), keys=keys, reason="stolen"))
    await desk.log.refresh()
    await desk.say(revocation(desk.log.state, str(VM1), keys=keys, reason="stolen", lifted=True))
    token = await desk.invite(id="invite-2")
    answer = await desk.raw_question(token, make_csr(key))
    assert isinstance(answer, Refused)
    assert (answer.code, "revoked" in answer.reason) == ("key", True)
    await desk.enrol(token, certificates.generate_key())


async def test_h09_a_bad_request_with_a_wrong_secret_is_a_wrong_secret(autojump_clock: MockClock, desk: Desk) -> None:
    await desk.invite()
    answer = await desk.raw_question(desk.token(secret=bytes(32)), b"nonsense")
    assert answer == Refused(code="token", reason=TOKEN_REFUSED)


async def test_a_key_belongs_to_one_name(autojump_clock: MockClock, desk: Desk) -> None:
    key = "ab" * 32
    await claim_key(desk.registry, key, VM1, now=1)
    await claim_key(desk.registry, key, VM1, now=2)
    with pytest.raises(AnswerIsNo, match="another node"):
        await claim_key(desk.registry, key, parse_spiffe_id("spiffe://t.internal/host/vm2"), now=3)


# --- the gateway proves who it is -------------------------------------------------------------------------------------


async def test_another_trust_domain_is_refused_by_its_fingerprint(autojump_clock: MockClock, desk: Desk) -> None:
    token = dataclasses.replace(desk.token(), genesis="0" * 64)
    with pytest.raises(AuthorityError, match="another trust domain"):
        await desk.start(token)


async def test_an_impostor_with_the_genesis_entry_but_another_issuer_never_hears_the_secret(
    autojump_clock: MockClock, desk: Desk, tmp_path: Path
) -> None:
    token = await desk.invite()
    directory = tmp_path / "impostor"
    directory.mkdir()
    impostor = TrustDomain(directory, desk.now).identity("gateway/gw1")
    impostor.replace(desk.domain.directory / "identity.pem")
    with pytest.raises(PeerError, match="unknown issuer"):
        await desk.enrol(token, certificates.generate_key())
    assert not await read_refusals(desk.registry, token.invite)


async def test_h06_a_host_that_plays_gateway_never_hears_the_secret(autojump_clock: MockClock, desk: Desk) -> None:
    token = await desk.invite()
    desk.domain.identity("host/vm9").replace(desk.domain.directory / "identity.pem")
    with pytest.raises(PeerRefused, match="role host may not enrol hosts"):
        await desk.enrol(token, certificates.generate_key())


async def test_a_gateway_that_the_token_does_not_name_never_hears_the_secret(
    autojump_clock: MockClock, desk: Desk
) -> None:
    token = await desk.invite()
    await desk.say(GatewayBody(gateway=Gateway(name="gw2", address="192.0.2.2:7443")))
    desk.domain.identity("gateway/gw2").replace(desk.domain.directory / "identity.pem")
    with pytest.raises(PeerError, match="answers there, not gw1"):
        await desk.enrol(token, certificates.generate_key())


# --- what a guest can cost --------------------------------------------------------------------------------------------


async def mute(stream: trio.abc.Stream, desk: Desk) -> None:
    return


async def half_a_preface(stream: trio.abc.Stream, desk: Desk) -> None:
    await stream.send_all(PREFACE[:2])


async def no_tls(stream: trio.abc.Stream, desk: Desk) -> None:
    await stream.send_all(PREFACE)


async def no_question(stream: trio.abc.Stream, desk: Desk) -> None:
    await desk.tls(stream)


async def half_a_question(stream: trio.abc.Stream, desk: Desk) -> None:
    tls = await desk.tls(stream)
    await tls._stream.send_all(b"\x00\x00")


@pytest.mark.parametrize("stall", [mute, half_a_preface, no_tls, no_question, half_a_question])
async def test_c23_c24_one_deadline_covers_every_stage(
    autojump_clock: MockClock, desk: Desk, stall: Callable[[trio.abc.Stream, Desk], Awaitable[None]]
) -> None:
    before = trio.current_time()

    async def guest(stream: trio.abc.Stream) -> None:
        await stall(stream, desk)
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            while await stream.receive_some():
                pass
            raise AssertionError

    assert await desk.talk(guest) is None
    assert trio.current_time() - before <= limits.PREAUTH_TIMEOUT + 2.1, "the deadline, and a moment to say goodbye"


async def test_c24_time_that_passed_before_counts(autojump_clock: MockClock, desk: Desk) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    before = trio.current_time()
    assert await desk.server.serve_stream(theirs, "x", waited=9.0) is None
    assert trio.current_time() - before == pytest.approx(1.0)
    await ours.aclose()


async def test_c25_a_question_in_clear_reaches_no_parser(autojump_clock: MockClock, desk: Desk) -> None:
    token = await desk.invite()
    wanted = EnrolmentWanted(
        invite=token.invite, secret=token.secret, csr=make_csr(certificates.generate_key()), version="1"
    )
    body = msgspec.json.encode(wanted)

    async def guest(stream: trio.abc.Stream) -> None:
        await stream.send_all(PREFACE + len(body).to_bytes(4, "big") + body)

    assert await desk.talk(guest) is None
    assert await read_enrolment(desk.registry, "host", "vm1") is None


async def test_c26_a_flood_of_tiny_records_ends_long_before_the_deadline(
    autojump_clock: MockClock, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0
    # The same rule with a smaller number, because every record takes the test's time too.
    monkeypatch.setattr(limits, "ENROLMENT_GUEST_BYTES", 16 * limits.KIB)

    async def guest(stream: trio.abc.Stream) -> None:
        nonlocal sent
        tls = await desk.tls(stream)
        await tls._stream.send_all(limits.ENROLMENT_MAX_BYTES.to_bytes(4, "big"))
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            while sent < limits.ENROLMENT_MAX_BYTES:
                await tls._stream.send_all(b"x")
                sent += 1
                await trio.testing.wait_all_tasks_blocked()

    before = trio.current_time()
    assert await desk.talk(guest) is None
    assert sent < limits.ENROLMENT_GUEST_BYTES / 20
    assert trio.current_time() - before < limits.PREAUTH_TIMEOUT


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"enrol","invite":NaN}',
        b'{"type":"genesis","extra":1}',
        b'{"type":"issue","csr":""}',
        b"[" * 10_000,
        b"",
        b"\xff\xfe",
    ],
)
async def test_c22_h14_h16_only_the_two_questions_are_answered(
    autojump_clock: MockClock, desk: Desk, body: bytes
) -> None:
    async def guest(stream: trio.abc.Stream) -> None:
        tls = await desk.tls(stream)
        await tls._stream.send_all(len(body).to_bytes(4, "big") + body)
        with pytest.raises(PeerError):
            await tls.receive(Refused)

    assert await desk.talk(guest) is None


async def test_a_message_longer_than_allowed_is_not_waited_for(autojump_clock: MockClock, desk: Desk) -> None:
    before = trio.current_time()

    async def guest(stream: trio.abc.Stream) -> None:
        tls = await desk.tls(stream)
        await tls._stream.send_all((limits.ENROLMENT_MAX_BYTES + 1).to_bytes(4, "big"))
        with pytest.raises(PeerError):
            await tls.receive(Refused)

    await desk.talk(guest)
    assert trio.current_time() - before < limits.PREAUTH_TIMEOUT


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", b"MBE2\n", b"MBE1 \n", b"\x16\x03\x01"])
async def test_h01_something_else_on_the_port_is_turned_away(
    autojump_clock: MockClock, desk: Desk, first: bytes
) -> None:
    async def guest(stream: trio.abc.Stream) -> None:
        await stream.send_all(first)
        with pytest.raises(trio.BrokenResourceError):
            while True:
                if not await stream.receive_some():
                    raise trio.BrokenResourceError

    assert await desk.talk(guest) is None


async def test_a_gateway_that_breaks_tells_the_guest_nothing_and_lives(autojump_clock: MockClock, desk: Desk) -> None:
    token = await desk.invite()

    def explode() -> None:
        raise RuntimeError("a bug with a secret in its text")

    desk.registry.before_transact = explode
    with pytest.raises(PeerError, match="in the middle"):
        await desk.enrol(token, certificates.generate_key())
    await desk.enrol(token, certificates.generate_key())


async def test_the_genesis_entry_is_public(autojump_clock: MockClock, desk: Desk) -> None:
    async def guest(stream: trio.abc.Stream) -> None:
        tls = await desk.tls(stream)
        await tls.send(GenesisWanted())
        assert await tls.receive(object)

    assert await desk.talk(guest) is None
