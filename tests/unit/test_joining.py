"""Pure: a node's own side of enrolment: one key per token whatever happens, and a home that is whole or not joined."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from agents import clock
from agents.control.joining import JoinOptions, join
from agents.estate import Home, HomeConfig, load_config
from agents.knowledge.key_holders import keys_of
from bridge import limits
from bridge.errors import PeerError
from bridge.identity import certificates
from bridge.identity.identity_file import load_identity
from bridge.identity.tokens import Token, format_token
from inventory.authority import HostBody, Slice, revocation
from inventory.errors import AnswerIsNo, InputError, Unavailable
from inventory.home import lock_home, make_home
from inventory.model import Host
from inventory.names import parse_spiffe_id
from tests.support.enrolment import ADDRESS, Desk, open_desk

VM1 = parse_spiffe_id("spiffe://t.internal/host/vm1")


class Network:
    """Connections to the desk; `fail_from` and `cut_after` break them."""

    def __init__(self, desk: Desk, nursery: trio.Nursery) -> None:
        self._desk = desk
        self._nursery = nursery
        self.dialled: list[str] = []
        self.fail_from: int | None = None
        self.lose_answer = False

    async def dial(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dialled.append(f"{host}:{port}")
        if self.fail_from is not None and len(self.dialled) >= self.fail_from:
            raise Unavailable("connection refused")
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, theirs)
        if self.lose_answer and len(self.dialled) % 2 == 0:
            return _Deaf(ours)
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        async with stream:
            await self._desk.server.serve_stream(stream, "198.51.100.7")


class _Deaf(trio.abc.Stream):
    """The last thing the other side says is lost, as when this process is killed before it could be written down."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._said = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._said += 1
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        if self._said > 3:
            raise trio.BrokenResourceError
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    directory = tmp_path / "gateway"
    directory.mkdir()
    return await open_desk(directory, clock.now())


@pytest.fixture
async def network(desk: Desk, nursery: trio.Nursery) -> AsyncIterator[Network]:
    yield Network(desk, nursery)


async def enrol(network: Network, token: Token, home: Path, **options: str) -> HomeConfig:
    return await join(format_token(token), home, JoinOptions(**options), version="1", dial=network.dial)


async def test_a_joined_home_holds_all_that_an_agent_needs(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path
) -> None:
    home = tmp_path / "vm1"
    token = await desk.invite()
    made = await enrol(network, token, home, addresses="127.97.0.0/16", listen="127.0.0.1:7443")
    config = load_config(home)
    assert made == config
    assert (config.role, config.name, config.addresses) == ("host", "vm1", "127.97.0.0/16")
    assert (config.listen, config.advertise) == ("127.0.0.1:7443", "127.0.0.1:7443")
    assert load_identity(Home(home).identity).leaf.spiffe == VM1
    assert set(Slice.decode(Home(home).slice.read_bytes(), config.genesis).state.hosts) == {"vm1"}
    assert not Home(home).pending.exists()
    assert home.stat().st_mode & 0o777 == 0o700
    assert Home(home).identity.stat().st_mode & 0o777 == 0o600


async def test_f04_a_retry_after_a_lost_answer_uses_the_same_key(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is spent and the identity lost on its way: the worst moment."""
    home, token = tmp_path / "vm1", await desk.invite()
    network.lose_answer = True
    monkeypatch.setattr(limits, "ENROLMENT_PATIENCE", 1.0)
    with pytest.raises(Unavailable):
        await enrol(network, token, home)
    spent = await keys_of(desk.registry, VM1)
    assert len(spent) == 1
    assert not Home(home).has_estate
    assert Home(home).pending.stat().st_mode & 0o777 == 0o600
    network.lose_answer = False
    await enrol(network, token, home)
    assert load_identity(Home(home).identity).leaf.key == spent[0]
    assert await keys_of(desk.registry, VM1) == spent


async def test_f04_a_key_begun_for_another_token_is_not_used(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, first = tmp_path / "vm1", await desk.invite()
    network.lose_answer = True
    monkeypatch.setattr(limits, "ENROLMENT_PATIENCE", 1.0)
    with pytest.raises(Unavailable):
        await enrol(network, first, home)
    network.lose_answer = False
    await enrol(network, await desk.invite(id="invite-2", secret=bytes(32)), home)
    assert len(await keys_of(desk.registry, VM1)) == 2


async def test_f04_a_token_used_again_in_its_own_home_is_done_already(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path
) -> None:
    """Whoever was killed at the very end does not know that it had ended."""
    home, token = tmp_path / "vm1", await desk.invite()
    await enrol(network, token, home)
    before, dialled = Home(home).identity.read_bytes(), len(network.dialled)
    Home(home).pending.touch()
    config = await enrol(network, token, home, addresses="127.97.0.0/16")
    assert Home(home).identity.read_bytes() == before
    assert len(network.dialled) == dialled
    assert load_config(home) == config
    assert config.addresses == "127.97.0.0/16"
    assert not Home(home).pending.exists()


async def test_c20_a_used_token_leaves_an_enrolled_home_as_it_was(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path
) -> None:
    home, first = tmp_path / "vm1", await desk.invite()
    await enrol(network, first, home)
    await enrol(network, await desk.invite(id="invite-2", secret=bytes(32)), home)
    before = Home(home).identity.read_bytes()
    with pytest.raises(AnswerIsNo, match="token refused"):
        await enrol(network, first, home)
    assert Home(home).identity.read_bytes() == before
    assert load_config(home).invite == "invite-2"


async def test_a_revoked_host_comes_back_in_its_home_with_a_new_key(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path
) -> None:
    home = tmp_path / "vm1"
    await enrol(network, await desk.invite(), home, addresses="127.97.0.0/16", dns="127.0.0.1:53")
    old = load_identity(Home(home).identity).leaf.key
    await desk.say(revocation(desk.log.state, str(VM1), keys=[old], reason="stolen"))
    await desk.log.refresh()
    await desk.say(revocation(desk.log.state, str(VM1), keys=[old], reason="stolen", lifted=True))
    await enrol(network, await desk.invite(id="invite-2", secret=bytes(32)), home)
    assert load_identity(Home(home).identity).leaf.key != old
    config = load_config(home)
    assert (config.addresses, config.dns) == ("127.97.0.0/16", "127.0.0.1:53"), "what was not said anew stays"
    state = Slice.decode(Home(home).slice.read_bytes(), config.genesis).state
    assert old in state.revoked_keys


async def test_enrolling_again_never_forgets_what_was_known(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path
) -> None:
    home = tmp_path / "vm1"
    config = await enrol(network, await desk.invite(), home)
    await desk.say(revocation(desk.log.state, "spiffe://t.internal/host/vm9", keys=[], reason="stolen"))
    await desk.log.refresh()
    known = Slice.decode(Home(home).slice.read_bytes(), config.genesis)
    Home(home).slice.write_bytes(known.applied([desk.log.latest["revoke/host/vm9"]]).encode())
    await enrol(network, await desk.invite(id="invite-2", secret=bytes(32)), home)
    state = Slice.decode(Home(home).slice.read_bytes(), config.genesis).state
    assert "spiffe://t.internal/host/vm9" in state.revoked_identities


async def test_a_home_of_another_node_is_refused(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path
) -> None:
    home = tmp_path / "vm1"
    await enrol(network, await desk.invite(), home)
    other = await desk.invite("vm2", id="invite-2", secret=bytes(32))
    with pytest.raises(InputError, match="belongs to host vm1") as caught:
        await enrol(network, other, home)
    assert "--home" in caught.value.hint
    assert load_identity(Home(home).identity).leaf.spiffe == VM1


async def test_f17_a_home_whose_agent_runs_is_refused(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path
) -> None:
    home, token = tmp_path / "vm1", await desk.invite()
    make_home(home)
    with lock_home(home), pytest.raises(Unavailable, match="another meshbridge node"):
        await enrol(network, token, home)
    assert not network.dialled


async def test_every_gateway_is_tried_in_turn(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path
) -> None:
    token = dataclasses.replace(await desk.invite(), gateways=(("gw9", "192.0.2.9:1"), ("gw1", ADDRESS)))

    async def dial(host: str, port: int) -> trio.abc.Stream:
        if port == 1:
            raise Unavailable("connection refused")
        return await network.dial(host, port)

    said: list[str] = []
    await join(format_token(token), tmp_path / "vm1", JoinOptions(), version="1", say=said.append, dial=dial)
    assert not said


async def test_without_a_gateway_it_waits_a_while_and_says_for_what(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path
) -> None:
    token = await desk.invite()
    network.fail_from = 1
    said: list[str] = []
    before = trio.current_time()
    with pytest.raises(Unavailable, match=f"gateway gw1 at {ADDRESS}: connection refused") as caught:
        await join(
            format_token(token), tmp_path / "vm1", JoinOptions(), version="1", say=said.append, dial=network.dial
        )
    assert "firewall" in caught.value.hint
    assert trio.current_time() - before <= limits.ENROLMENT_PATIENCE
    assert len(network.dialled) > 3
    assert said


async def test_where_clocks_differ_the_last_words_are_about_the_clock(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await desk.invite()
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + 30 * 86_400)
    with pytest.raises(Unavailable, match="our clock says") as caught:
        await join(format_token(token), tmp_path / "vm1", JoinOptions(), version="1", dial=network.dial)
    assert "set the clock right" in caught.value.hint


async def test_a_gateway_of_another_estate_is_named_at_once(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path
) -> None:
    token = dataclasses.replace(await desk.invite(), genesis="0" * 64)
    before = trio.current_time()
    with pytest.raises(InputError, match="another trust domain"):
        await enrol(network, token, tmp_path / "vm1")
    assert trio.current_time() == before


async def test_entries_that_do_not_verify_leave_the_home_unjoined(
    autojump_clock: MockClock, desk: Desk, network: Network, tmp_path: Path
) -> None:
    token = await desk.invite()
    await desk.log.refresh()
    await desk.say(HostBody(host=Host(name="vm1", labels={"role": "web"})))
    await desk.log.refresh()
    forged = desk.log.latest["host/vm1"]
    desk.log.latest["host/vm1"] = type(forged)(forged.payload.replace(b"web", b"adm"), forged.signature)
    with pytest.raises(PeerError, match="cannot be believed"):
        await enrol(network, token, tmp_path / "vm1")
    assert not Home(tmp_path / "vm1").has_estate


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"listen": "0.0.0.0:7443"}, "--advertise"),
        ({"advertise": "192.0.2.7:7443"}, "--listen"),
        ({"listen": "nonsense"}, "--listen"),
        ({"addresses": "10.0.0.0/8"}, "--addresses"),
        ({"addresses": "127.0.0.0/8"}, "--addresses"),
        ({"dns": "127.0.0.1"}, "--dns"),
    ],
)
async def test_options_that_cannot_work_are_refused_before_anything_is_made(
    options: dict[str, str], word: str, desk: Desk, network: Network, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        await enrol(network, await desk.invite(), tmp_path / "vm1", **options)
    assert word in f"{caught.value} {caught.value.hint}"
    assert not (tmp_path / "vm1").exists()
    assert not network.dialled


@pytest.mark.parametrize(
    "text", ["", "mb1_", "mb1_" + "A" * 100, "x" * limits.TOKEN_MAX_CHARS, "x" * 2**20, "mb1_\n\n"]
)
async def test_h10_what_is_no_token_is_refused_before_anything_is_made(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="token cannot be used"):
        await join(text, tmp_path / "vm1", JoinOptions(), version="1")
    assert not (tmp_path / "vm1").exists()


async def test_c20_a_truncated_token_is_refused(desk: Desk, tmp_path: Path) -> None:
    text = format_token(await desk.invite())
    for damaged in (text[:-1], text[1:], text.swapcase(), text + "=", text[:20] + " " + text[20:], text + text):
        with pytest.raises(InputError, match="token cannot be used"):
            await join(damaged, tmp_path / "vm1", JoinOptions(), version="1")


async def test_a_damaged_begun_enrolment_is_named(desk: Desk, network: Network, tmp_path: Path) -> None:
    home = tmp_path / "vm1"
    make_home(home)
    pending = Home(home).pending
    pending.write_text("nonsense")
    pending.chmod(0o600)
    with pytest.raises(InputError) as caught:
        await enrol(network, await desk.invite(), home)
    assert caught.value.where == str(pending)
    assert f"rm {pending}" in caught.value.hint


async def test_no_secret_in_what_is_shown(desk: Desk) -> None:
    from agents.control.joining import _Pending

    key = certificates.private_key_pem(certificates.generate_key())
    assert "PRIVATE" not in repr(_Pending(invite="i", key=key))
