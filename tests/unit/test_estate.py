"""I/O: homes: what is said when one is not as it should be, and an operator's append against others at once."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import trio

from agents import clock
from agents.estate import Home, HomeConfig, inspect, load_config, open_registry, operate, store_config
from agents.knowledge.verified_log import VerifiedLog
from agents.operating import bootstrap
from bridge import limits
from bridge.identity.identity_file import load_identity
from inventory.authority import (
    AuthorityError,
    AuthorityFork,
    AuthorityState,
    Body,
    HostBody,
    OperatorBody,
    OperatorKey,
    append,
    verify_log,
)
from inventory.errors import InputError, Unavailable
from inventory.home import lock_home, make_home, read_secret, write_secret
from inventory.model import Gateway, Host
from inventory.registries.interface import Conflict
from tests.support.authority import BOB, Chain, host
from tests.support.memory_registry import MemoryRegistry

GENESIS = "ab" * 32


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "op"
    estate = bootstrap.new_estate(domain="t.internal", gateway="gw1=127.0.0.1:17443", operator_name="alice")
    trio.run(bootstrap.init, path, estate)
    return path


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "op")


def config(**changes: object) -> HomeConfig:
    values = {"role": "host", "name": "vm1", "trust_domain": "t.internal", "genesis": GENESIS}
    return HomeConfig(**{**values, **changes})  # type: ignore[arg-type]


# --- domain.json ------------------------------------------------------------------------------------------------------


def test_a_configuration_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    stored = config(
        gateways=(Gateway(name="gw1", address="127.0.0.1:1"),), addresses="127.97.0.0/16", dns="127.0.0.1:0"
    )
    store_config(tmp_path, stored)
    assert load_config(tmp_path) == stored


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "VM1"},
        {"name": "a/b"},
        {"trust_domain": "t.internal."},
        {"genesis": "xyz"},
        {"listen": "nonsense"},
        {"advertise": "127.0.0.1:0"},
        {"addresses": "10.0.0.0/8"},
        {"certificate_lifetime": 0.0},
        {"certificate_lifetime": 1e12},
        {"role": "gateway", "name": "a.b"},
        {"gateways": (Gateway(name="gw1", address="x"),)},
    ],
)
def test_a_configuration_checks_itself(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        config(**changes)


@pytest.mark.parametrize("text", ["", "{", '{"role":"host"}', '{"role":"king"}', '{"secret":1}', "[" * 1000])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    Home(tmp_path).config.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(tmp_path)
    assert caught.value.where == str(tmp_path / "domain.json")
    assert "backup" in caught.value.hint


# --- init -------------------------------------------------------------------------------------------------------------


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_a_new_estate_is_whole_and_its_secrets_are_its_owners(home: Path) -> None:
    paths = Home(home)
    made = load_config(home)
    assert (made.role, made.name, made.listen) == ("gateway", "gw1", "127.0.0.1:17443")
    assert str(load_identity(paths.identity).leaf.spiffe) == "spiffe://t.internal/gateway/gw1"
    assert mode_of(home) == 0o700
    for secret in (paths.operator_key, paths.root_key, paths.issuer, paths.identity, paths.registry):
        assert mode_of(secret) == 0o600, secret
    async with inspect(home) as (_, _, log):
        assert (log.state.number, log.state.trust_domain, log.state.namespace) == (2, "t.internal", "bridge.internal")
        assert list(log.state.gateways.values()) == [Gateway(name="gw1", address="127.0.0.1:17443", issuer=True)]
        assert list(log.state.operators.values()) == ["alice"]
    assert [path.name for path in home.parent.iterdir()] == ["op"], "nothing is left beside it"


async def test_a_gateway_behind_a_name_binds_every_address() -> None:
    made = bootstrap.new_estate(domain="t.internal", gateway="gw1=gw.corp:7443", operator_name="a")
    assert (made.address, made.listen) == ("gw.corp:7443", "0.0.0.0:7443")
    made = bootstrap.new_estate(domain="t.internal", gateway="gw1=[2001:db8::1]:7443", operator_name="a")
    assert made.listen == "[2001:db8::1]:7443"


async def test_init_leaves_what_is_there_alone(home: Path, tmp_path: Path) -> None:
    estate = bootstrap.new_estate(domain="t.internal", gateway="gw1=127.0.0.1:1", operator_name="bob")
    before = Home(home).operator_key.read_bytes()
    with pytest.raises(InputError, match="an estate in this home already"):
        await bootstrap.init(home, estate)
    assert Home(home).operator_key.read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        await bootstrap.init(tmp_path / "full", estate)
    (tmp_path / "empty").mkdir()
    await bootstrap.init(tmp_path / "empty", estate)
    assert Home(tmp_path / "empty").has_estate


async def test_what_a_killed_init_left_is_made_anew(tmp_path: Path) -> None:
    left = tmp_path / ".op.init"
    make_home(left)
    write_secret(left / "operator.key", b"half")
    (left / "registry.db").write_bytes(b"torn")
    (left / "deeper").mkdir()
    estate = bootstrap.new_estate(domain="t.internal", gateway="gw1=127.0.0.1:1", operator_name="bob")
    await bootstrap.init(tmp_path / "op", estate)
    async with operate(tmp_path / "op") as operator:
        assert operator.state.number == 2
    assert not left.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Unavailable("no space left to write 5 bytes")])
async def test_an_init_that_is_interrupted_or_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        assert [path.name for path in tmp_path.iterdir()] == [".op.init"], "it is under way"
        raise error

    monkeypatch.setattr(bootstrap, "store_config", fail)
    estate = bootstrap.new_estate(domain="t.internal", gateway="gw1=127.0.0.1:1", operator_name="bob")
    with pytest.raises(type(error)):
        await bootstrap.init(tmp_path / "op", estate)
    assert os.listdir(tmp_path) == []


async def test_f26_an_init_that_finds_the_disk_full_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(home: Path) -> None:
        raise Unavailable("no space left to open it")

    monkeypatch.setattr(bootstrap, "lock_home", full)
    estate = bootstrap.new_estate(domain="t.internal", gateway="gw1=127.0.0.1:1", operator_name="bob")
    with pytest.raises(Unavailable):
        await bootstrap.init(tmp_path / "op", estate)
    assert os.listdir(tmp_path) == []


async def test_a_mount_point_is_told_before_or_at_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate = bootstrap.new_estate(domain="t.internal", gateway="gw1=127.0.0.1:1", operator_name="bob")
    home = tmp_path / "op"
    home.mkdir()

    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    for method, fake in (("is_mount", lambda self: self == home), ("rename", busy)):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, fake)
            with pytest.raises(InputError, match="mount point") as caught:
                await bootstrap.init(home, estate)
        assert caught.value.hint == f"choose a directory in it: --home {home}/meshbridge"
        assert os.listdir(tmp_path) == ["op"]


async def test_two_inits_at_once_do_not_mix(tmp_path: Path) -> None:
    left = tmp_path / ".op.init"
    make_home(left)
    estate = bootstrap.new_estate(domain="t.internal", gateway="gw1=127.0.0.1:1", operator_name="bob")
    with lock_home(left), pytest.raises(Unavailable):
        await bootstrap.init(tmp_path / "op", estate)
    assert not (tmp_path / "op").exists()


# --- an operator's home -----------------------------------------------------------------------------------------------


async def test_a_registry_that_is_gone_is_not_made_anew(home: Path) -> None:
    Home(home).registry.unlink()
    with pytest.raises(Unavailable, match="the registry is gone"):
        open_registry(home)
    assert not Home(home).registry.exists()


async def test_the_registry_of_another_estate_is_refused(home: Path, tmp_path: Path) -> None:
    estate = bootstrap.new_estate(domain="t.internal", gateway="gw1=127.0.0.1:1", operator_name="bob")
    await bootstrap.init(tmp_path / "other", estate)
    shutil.copy(Home(tmp_path / "other").registry, Home(home).registry)
    with pytest.raises(AuthorityError, match="another trust domain"):
        async with operate(home):
            pass


async def test_a_home_without_the_operators_key_says_where_it_is(home: Path) -> None:
    Home(home).operator_key.unlink()
    with pytest.raises(InputError, match="holds no operator key") as caught:
        async with operate(home):
            pass
    assert "--home" in caught.value.hint
    store_config(home, config())
    with pytest.raises(InputError, match="home of host vm1"):
        async with operate(home):
            pass


async def test_f28_an_operator_key_that_others_can_read_is_refused(home: Path) -> None:
    Home(home).operator_key.chmod(0o644)
    with pytest.raises(InputError) as caught:
        async with operate(home):
            pass
    assert f"chmod 600 {Home(home).operator_key}" in caught.value.hint


async def test_a_key_that_is_no_operators_is_refused(home: Path) -> None:
    write_secret(Home(home).operator_key, BOB.to_bytes())
    with pytest.raises(InputError, match=r"is not an operator of t\.internal"):
        async with operate(home):
            pass


# --- append -----------------------------------------------------------------------------------------------------------


async def test_append_decides_again_when_somebody_was_faster(home: Path) -> None:
    seen: list[int] = []
    async with operate(home) as first, operate(home) as second:

        def decide(state: AuthorityState) -> Sequence[Body]:
            seen.append(state.number)
            return [] if "vm1" in state.hosts else [HostBody(host=Host(name="vm1"))]

        await second.append(lambda _: [HostBody(host=Host(name="vm2"))], message="faster")
        signed = await first.append(decide, message="slower")
        assert seen == [2, 3]
        assert len(signed) == 1
        assert set(first.state.hosts) == {"vm1", "vm2"}
        assert await first.append(decide, message="again") == [], "nothing to say, nothing is signed"
        assert first.state.number == 4


async def test_append_gives_up_in_the_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "APPEND_TRIES", 2)
    tries = 0
    async with operate(home) as operator, operate(home) as rival:

        async def overtake(*args: object, **kwargs: object) -> None:
            nonlocal tries
            tries += 1
            raise Conflict("head")

        monkeypatch.setattr("agents.estate.append", overtake)
        with pytest.raises(Conflict):
            await operator.append(lambda _: [HostBody(host=Host(name="vm1"))], message="")
        assert tries == 2
        assert rival.state.number == 2


async def test_f03_what_was_acknowledged_is_there_after_opening_again(home: Path) -> None:
    for number in range(5):
        async with operate(home) as operator:
            await operator.append(lambda _, n=number: [HostBody(host=Host(name=f"vm{n}"))], message="")  # type: ignore[misc]
    async with inspect(home) as (_, _, log):
        assert len(log.state.hosts) == 5


async def test_a_removed_operator_signs_nothing_more(home: Path) -> None:
    async with operate(home) as operator:
        key = OperatorKey.from_bytes(read_secret(Home(home).operator_key))
        bodies = [
            OperatorBody(key=BOB.public, name="bob"),
            OperatorBody(key=key.public, name="alice", removed=True),
        ]
        await operator.append(lambda _: bodies[:1], message="")
        await append(operator.registry, BOB, bodies[1:], message="", now=clock.now())
        with pytest.raises(InputError, match="not an operator"):
            await operator.append(lambda _: [HostBody(host=Host(name="vm1"))], message="")


# --- the verified log -------------------------------------------------------------------------------------------------


def filled(chain: Chain, upto: int | None = None) -> MemoryRegistry:
    from inventory.authority.entries import encode_signed, payload_hash
    from inventory.authority.log import Head, log_key

    registry = MemoryRegistry()
    log = chain.log[:upto]
    for number, signed in enumerate(log, 1):
        registry.put(log_key(number), encode_signed(signed))
    registry.put("head", msgspec.json.encode(Head(len(log), payload_hash(log[-1].payload))))
    return registry


async def test_the_log_is_read_on_and_the_latest_of_every_key_is_kept() -> None:
    chain = Chain(host("vm1"))
    registry = filled(chain)
    log = VerifiedLog(registry, chain.fingerprint)
    assert await log.refresh()
    assert not await log.refresh()
    chain.add(host("vm1", "web"), host("vm2"), host("vm2", removed=True))
    registry.records = filled(chain).records
    assert await log.refresh()
    assert log.state.number == 5
    assert log.state.hosts["vm1"].serves == ("web",)
    assert log.latest["host/vm1"] == chain.log[2]
    assert log.latest["host/vm2"] == chain.log[4], "removals count as well"
    assert log.state == verify_log(chain.log)


async def test_f34_a_log_that_went_back_or_changed_is_refused_and_nothing_is_forgotten() -> None:
    chain = Chain(host("vm1"), host("vm2"))
    registry = filled(chain)
    log = VerifiedLog(registry, chain.fingerprint)
    await log.refresh()
    registry.records = filled(chain, 2).records
    with pytest.raises(AuthorityError, match="went back"):
        await log.refresh()
    other = Chain(host("vm1"), host("vm3"))
    registry.records = filled(other).records
    with pytest.raises(AuthorityFork):
        await log.refresh()
    registry.records = {}
    with pytest.raises(AuthorityError):
        await log.refresh()
    assert set(log.state.hosts) == {"vm1", "vm2"}


async def test_an_empty_registry_is_no_log() -> None:
    with pytest.raises(AuthorityError, match="holds no log"):
        await VerifiedLog(MemoryRegistry(), GENESIS).refresh()
