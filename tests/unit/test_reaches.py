"""I/O: hosts on which no agent runs, as an operator records them: what is signed, kept, refused; and gateways' keys."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agents import clock
from agents.estate import Operator, operate
from agents.knowledge.gateway_keys import own_keys, publish, published_keys
from agents.operating.bootstrap import init, new_estate
from agents.operating.clients import publish as publish_service
from agents.operating.hosts import add_host, invite_host, remove_host, revoke_host, view_host
from agents.operating.reaches import (
    Recorded,
    Wanted,
    add_agentless,
    keys_of_gateway,
    one_gateway,
    parse_given,
    read_host_keys,
    read_private_key,
)  # fmt: skip
from agents.operating.services import add_service
from bridge.identity.identity_file import load_identity
from bridge.identity.seal_keys import GatewaySealKey
from inventory.errors import AnswerIsNo, InputError
from inventory.model import Host, Instance, Publication
from inventory.reach import parse_allowance, parse_reach
from inventory.registries.interface import ANY, Change
from tests.support.authority import HOST_KEY
from tests.unit.test_ssh_keys import ed25519, private

AIX = Host(name="aix1")


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    made = tmp_path / "op"
    await init(made, new_estate(domain="t.internal", gateway="gw1=192.0.2.1:7443", operator_name="alice"))
    return made


def wanted(url: str = "ssh://bridge@192.0.2.7", **fields: object) -> Wanted:
    keys = {"host_keys": (HOST_KEY,)} if url.startswith("ssh") else {}
    return Wanted(url=parse_reach(url), via="gw1", **{**keys, **fields})  # type: ignore[arg-type]


async def add(operator: Operator, given: Wanted, host: Host = AIX, named: tuple[str, ...] = ()) -> Recorded:
    return await add_agentless(operator, host, given, named=named)


async def test_an_agentless_host_is_signed_and_its_key_is_sealed_to_its_gateway(home: Path) -> None:
    async with operate(home) as operator:
        made = await add(operator, wanted(private_key=b"the key"))
        assert made.is_news and not made.lifted
        state = operator.state
        assert state.hosts["aix1"] == Host(name="aix1", via="gw1") and state.reaches["aix1"] == made.reach
        assert made.reach.credential is not None and "the key" not in str(msgspec.to_builtins(state.reaches))
        seal = GatewaySealKey.from_bytes((home / "seal.key").read_bytes())
        assert seal.open(made.reach.credential, "aix1") == b"the key"
        assert (home / "seal.key").stat().st_mode & 0o777 == 0o600
        view = await view_host(operator.registry, state, "aix1")
        assert (view.state, view.via, view.reach) == ("agentless", "gw1", "ssh://bridge@192.0.2.7")
        assert view.login == "a key, sealed" and view.host_keys[0].startswith("ssh-ed25519 SHA256:")


async def test_what_is_not_given_again_is_kept_and_replace_takes_it_away(home: Path) -> None:
    async with operate(home) as operator:
        allowance = parse_allowance(["ssh-sha1"], "team", "2099-12-31")
        given = wanted(private_key=b"k", allowance=allowance)
        first = await add(operator, given, Host(name="aix1", site="dc1"), ("site",))
        again = await add(operator, wanted(host_keys=()))
        assert again.reach == first.reach and not again.is_news and operator.state.hosts["aix1"].site == "dc1"
        with pytest.raises(InputError, match="first use"):
            await add(operator, wanted("ssh://bridge@192.0.2.8", host_keys=()))
        anew = await add(operator, wanted(anew=True))
        assert anew.reach.credential is None and anew.reach.allowance is None


async def test_nothing_is_trusted_on_first_use_and_the_line_that_gets_the_key_is_said(home: Path) -> None:
    async with operate(home) as operator:
        with pytest.raises(InputError, match="first use") as caught:
            await add(operator, wanted("ssh://bridge@192.0.2.7:2022", host_keys=()))
        assert "ssh-keyscan -p 2022 192.0.2.7" in caught.value.hint
        assert "aix1" not in operator.state.hosts


@pytest.mark.parametrize("url", ["ssh://u@192.0.2.1:7443", "tcp://192.0.2.1", "tcp://127.0.0.1", "tls://127.0.0.1"])
async def test_h33_a_way_back_to_the_gateway_is_refused(home: Path, url: str) -> None:
    async with operate(home) as operator:
        with pytest.raises(InputError, match=r"is (the gateway|gateway gw1) itself"):
            await add(operator, wanted(url))


async def test_an_agent_host_does_not_become_agentless_and_an_agentless_one_has_no_token(home: Path) -> None:
    async with operate(home) as operator:
        await add_host(operator, Host(name="vm1"))
        with pytest.raises(AnswerIsNo, match="is an agent host"):
            await add(operator, wanted(), Host(name="vm1"))
        await add(operator, wanted())
        with pytest.raises(AnswerIsNo, match="has no token"):
            await invite_host(operator, "aix1")
        with pytest.raises(AnswerIsNo, match="has no token"):
            await add_host(operator, AIX)
        with pytest.raises(AnswerIsNo, match="there is no gateway gw9"):
            await add_agentless(operator, AIX, msgspec_via(wanted(), "gw9"), named=())


def msgspec_via(given: Wanted, via: str) -> Wanted:
    return Wanted(url=given.url, via=via, host_keys=given.host_keys)


async def test_a_revoked_host_comes_back_by_being_added_again_and_removal_takes_the_way_along(home: Path) -> None:
    async with operate(home) as operator:
        await add(operator, wanted())
        await revoke_host(operator, "aix1", "stolen")
        assert (await add(operator, wanted())).lifted
        assert not operator.state.revoked_identities
        await publish_service(operator, Publication(service="web", host="aix1", port=81))
        await remove_host(operator, "aix1")
        assert not operator.state.hosts and not operator.state.reaches
        assert not operator.state.publications, "else it would be published on the next host of that name"


async def test_services_of_a_host_without_sshd_are_at_its_address(home: Path) -> None:
    async with operate(home) as operator:
        await add(operator, wanted("tcp://192.0.2.7"))
        await add_service(operator, Instance(service="web", host="aix1", target="192.0.2.7:80", port=80))
        with pytest.raises(InputError, match=r"192\.0\.2\.7"):
            await add_service(operator, Instance(service="web", host="aix1", target="127.0.0.1:80", port=80))
        with pytest.raises(InputError, match="is on it"):
            await add(operator, wanted("tcp://192.0.2.8"))


async def test_an_allowance_that_ended_before_it_began_is_refused(home: Path) -> None:
    async with operate(home) as operator:
        with pytest.raises(InputError, match="ended with"):
            await add(operator, wanted(allowance=parse_allowance(["ssh-sha1"], "team", "2020-01-01")))


def test_h33_files_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    key, public = tmp_path / "key", tmp_path / "key.pub"
    key.write_bytes(private(ed25519.Ed25519PrivateKey.generate()))
    key.chmod(0o644)
    public.write_text(HOST_KEY)
    with pytest.raises(InputError, match="other users can reach this secret") as caught:
        read_private_key(key)
    assert "chmod 600" in caught.value.hint
    with pytest.raises(InputError, match="is a public key"):
        read_private_key(public)
    with pytest.raises(InputError, match="private key"):
        read_host_keys(key, parse_reach("ssh://u@192.0.2.7"))
    assert parse_given(f"tls://192.0.2.7?ca={key}") == (parse_reach("tls://192.0.2.7"), key)
    with pytest.raises(InputError, match="only tls"):
        parse_given("ssh://u@192.0.2.7?ca=x")


async def test_a_gateways_keys_count_only_by_its_own_word(home: Path) -> None:
    """An operator elsewhere seals to what is in the registry, which is not trusted."""
    async with operate(home) as operator:
        state, registry, now = operator.state, operator.registry, clock.now()
        with pytest.raises(AnswerIsNo, match="has not said yet"):
            await published_keys(registry, state, "gw1", now=now)
        keys, identity = own_keys(home, "t.internal", "gw1"), load_identity(home / "identity.pem")
        await publish(registry, keys, identity)
        assert await published_keys(registry, state, "gw1", now=now) == keys
        assert await keys_of_gateway(operator, "gw1") == keys and one_gateway(operator, None) == "gw1"
        record = await registry.get("gateway-keys/gw1")
        assert record is not None
        mallory = msgspec.structs.replace(keys, seal=GatewaySealKey.generate().public)
        forged = msgspec.json.decode(record.value)
        forged["payload"] = msgspec.to_builtins(msgspec.json.encode(mallory))
        for value, words in (
            (msgspec.json.encode(forged), "does not fit"),
            (b"{}", "not its word"),
            (record.value.replace(b"gw1", b"gw1"), ""),
        ):
            await registry.transact([Change("gateway-keys/gw1", ANY, value)])
            if words:
                with pytest.raises(InputError, match=words):
                    await published_keys(registry, state, "gw1", now=now)
        await registry.transact([Change("gateway-keys/gw2", ANY, record.value)])
        with pytest.raises(InputError, match="not its word"):
            await published_keys(registry, state, "gw2", now=now)
        with pytest.raises(InputError, match="expired"):
            await published_keys(registry, state, "gw1", now=now + 10 * 86400)


def test_who_makes_a_gateways_keys_at_the_same_time_gets_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway that starts, and the operator's command in its home: what one seals the other must open."""
    tmp_path.chmod(0o700)
    first = own_keys(tmp_path, "t.internal", "gw1")
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert own_keys(tmp_path, "t.internal", "gw1") == first
    assert sorted(file.name for file in tmp_path.iterdir()) == ["seal.key", "ssh_ca.key"]
