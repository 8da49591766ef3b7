"""Pure: how agentless hosts are reached: urls, allowances, what leads back to the gateway."""

from __future__ import annotations

import pytest

from inventory.authority import ReachBody
from inventory.errors import InputError
from inventory.model import Allowance, Gateway, Reach
from inventory.policy_rules import parse_until
from inventory.reach import parse_allowance, parse_reach, profiles_now, why_leads_back, why_target_refused
from tests.support import authority as say

GATEWAY = Gateway(name="gw1", address="192.0.2.1:7443")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("ssh://bridge@192.0.2.7", "ssh://bridge@192.0.2.7"),
        ("ssh://bridge@192.0.2.7:22", "ssh://bridge@192.0.2.7"),
        ("ssh://IBM$USR@lpar1.Corp:2022", "ssh://IBM$USR@lpar1.corp:2022"),
        ("ssh://b@[2001:DB8::7]", "ssh://b@[2001:db8::7]"),
        ("ssh://b@[2001:db8::7]:2022", "ssh://b@[2001:db8::7]:2022"),
        ("tcp://192.0.2.7", "tcp://192.0.2.7"),
        ("tls://[2001:db8::7]", "tls://[2001:db8::7]"),
        ("tls://appliance.corp", "tls://appliance.corp"),
    ],
)
def test_a_url_has_one_canonical_form(text: str, canonical: str) -> None:
    assert str(parse_reach(text)) == canonical
    assert parse_reach(canonical) == parse_reach(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "ssh://", "bridge@192.0.2.7", "SSH://bridge@192.0.2.7", "telnet://192.0.2.7", "ssh://192.0.2.7",
        "ssh://@192.0.2.7", "ssh://-oProxyCommand@192.0.2.7", "ssh://a b@192.0.2.7", "ssh://a@192.0.2.7/",
        "ssh://a@192.0.2.7:22/x", "ssh://a@192.0.2.7?x=1", "ssh://a@192.0.2.7:0", "ssh://a@192.0.2.7:65536",
        "ssh://a@192.0.2.7:", "ssh://a@2001:db8::7", "ssh://a@[::ffff:10.0.0.1]", "ssh://a@0.0.0.0",
        "ssh://a@169.254.169.254", "tcp://192.0.2.7:23", "tcp://u@192.0.2.7", "tls://192.0.2.7?ca=/x", "tcp://",
        "tcp://a%2eb", "tcp://192.0.2.7\n", "ssh://a@h\u00f6st", "tcp://127.1", "tcp://0x7f000001", "x" * 500,
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused_with_its_form(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_reach(text)
    assert caught.value.hint


@pytest.mark.parametrize("url", ["tcp://192.0.2.1:23", "tls://box.example:443", "tcp://[2001:db8::1]:23"])
def test_a_port_in_a_url_without_ssh_is_refused_with_the_place_where_it_belongs(url: str) -> None:
    with pytest.raises(InputError, match="only ssh:// has a port") as caught:
        parse_reach(url)
    assert "--target" in caught.value.hint


def test_a_password_in_a_url_is_refused_and_not_quoted() -> None:
    with pytest.raises(InputError, match="holds no password") as caught:
        parse_reach("ssh://bridge:hunter2@192.0.2.7")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["ssh://u@192.0.2.1:7443", "tcp://192.0.2.1", "tcp://127.0.0.1", "tls://[::1]", "tcp://169.254.1.1"]
)
def test_h33_what_leads_back_to_the_gateway_is_seen(url: str) -> None:
    reach = say.reach(url=url).reach if not url.endswith("169.254.1.1") else None
    if reach is None:
        with pytest.raises(InputError, match="cannot be a target"):
            say.reach(url=url)
        return
    assert why_leads_back(reach, GATEWAY)


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("ssh://u@127.0.0.1:2022", {}),
        ("ssh://u@192.0.2.1", {}),
        ("tcp://127.0.0.1", {"allow_loopback": True}),
        ("tcp://192.0.2.7", {}),
        ("tls://appliance.corp", {}),
    ],
)
def test_what_does_not_lead_back_is_dialled(url: str, fields: dict[str, object]) -> None:
    assert why_leads_back(say.reach(url=url, **fields).reach, GATEWAY) is None


def test_targets_of_a_host_without_sshd_are_at_its_address() -> None:
    tcp = say.reach(url="tcp://192.0.2.7").reach
    assert why_target_refused(tcp, "192.0.2.7:23", GATEWAY) is None
    assert "192.0.2.7" in (why_target_refused(tcp, "192.0.2.8:23", GATEWAY) or "")
    assert why_target_refused(say.reach().reach, "127.0.0.1:50000", GATEWAY) is None


@pytest.mark.parametrize("target", ["127.0.0.1:7443", "127.9.9.9:7443"])
def test_c38_the_port_of_the_gateway_is_no_target_whatever_is_allowed(target: str) -> None:
    own = say.reach(url=f"tcp://{target.partition(':')[0]}", allow_loopback=True).reach
    assert "the gateway itself" in (why_target_refused(own, target, GATEWAY) or "")
    assert why_target_refused(own, target.replace("7443", "7444"), GATEWAY) is None
    signed = say.reach(url="tcp://192.0.2.1", allow_loopback=True).reach
    assert "the gateway itself" in (why_target_refused(signed, "192.0.2.1:7443", GATEWAY) or "")


def test_an_allowance_names_profiles_an_owner_and_an_end() -> None:
    made = parse_allowance(["ssh-sha1"], "mainframe team", "2027-03-31")
    assert made == Allowance(profiles=("ssh-sha1",), owner="mainframe team", until="2027-03-31")
    for profiles, owner, until in (
        ([], "team", "2027-03-31"),
        (["rot13"], "team", "2027-03-31"),
        (["ssh-sha1"], " ", "2027-03-31"),
        (["ssh-sha1"], "team", "some day"),
    ):
        with pytest.raises(InputError):
            parse_allowance(profiles, owner, until)


def test_an_allowance_that_has_ended_is_off() -> None:
    reach = say.reach(allowance=parse_allowance(["ssh-sha1"], "team", "2027-03-31")).reach
    end = parse_until("2027-03-31")
    assert profiles_now(reach, end - 1) == ("ssh-sha1",)
    assert profiles_now(reach, end) == ()
    assert profiles_now(say.reach().reach, 0) == ()


@pytest.mark.parametrize(
    ("url", "fields", "words"),
    [
        ("ssh://u@192.0.2.7", {"host_keys": ()}, "first use"),
        ("ssh://u@192.0.2.7", {"host_keys": ("ssh-ed25519 !",)}, "public key"),
        ("ssh://u@192.0.2.7", {"ca": "-----BEGIN CERTIFICATE-----\n"}, "tls:// only"),
        ("ssh://u@192.0.2.7:22", {}, "canonical"),
        ("tcp://192.0.2.7", {"credential": "AAAA"}, "for ssh://"),
        ("ssh://u@192.0.2.7", {"credential": "not base64"}, "base64"),
        ("tls://192.0.2.7", {"ca": "x"}, "PEM"),
        ("tls://192.0.2.7", {"allowance": ("ssh-sha1",)}, "does not belong"),
        ("tcp://192.0.2.7", {"allowance": ("tls-1.2",)}, "does not belong"),
    ],
)
def test_what_cannot_be_meant_is_never_signed(url: str, fields: dict[str, object], words: str) -> None:
    profiles = fields.get("allowance")
    if profiles is not None:
        fields = {"allowance": Allowance(profiles=profiles, owner="team", until="2027-03-31")}  # type: ignore[arg-type]
    keys = {"host_keys": (say.HOST_KEY,)} if url.startswith("ssh") else {}
    with pytest.raises(InputError, match=words):
        ReachBody(reach=Reach(host="aix1", gateway="gw1", url=url, **{**keys, **fields}))  # type: ignore[arg-type]


def test_an_agentless_host_offers_nothing_by_its_own_word() -> None:
    with pytest.raises(InputError, match="no agent runs"):
        say.host("aix1", "web", via="gw1")
