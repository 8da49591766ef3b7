"""Pure: (a fake operator) who a client is: sources, certificates, what an operator may say of them and of ports."""

from __future__ import annotations

import ipaddress
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from agents.operating import clients as operating
from agents.operating.audit import describe
from bridge.identity.certificates import create_root, generate_key, key_hash, to_pem
from inventory.authority import AdmissionBody, ClientBody, HostBody, PublishBody, entry_key, verify_entry
from inventory.clients import Admissions, Sources, parse_peer, parse_published, parse_source
from inventory.errors import AnswerIsNo, InputError
from inventory.model import Admission, Client, Host, Publication
from tests.support import authority as say
from tests.support.authority import Chain
from tests.support.estates import NOON

LPAR7 = Client(name="lpar7", gateways=("gw1",))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.1/8", "is not a network"),
        ("10.0.0.0/33", "is not a network"),
        ("10.0.0", "is not a network"),
        ("lpar7.corp", "is not a network"),
        ("0.0.0.0/0", "is everybody"),
        ("::/0", "is everybody"),
        ("::ffff:10.0.0.1", "mapped and zoned"),
        ("fe80::1%eth0", "mapped and zoned"),
        (" 10.0.0.1", "is not a network"),
    ],
)
def test_what_is_no_source_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_source(text)


def test_a_source_has_one_spelling() -> None:
    assert [str(parse_source(text)) for text in ("10.1.2.3", "10.1.0.0/16", "2001:DB8:0::/48")] == [
        "10.1.2.3/32",
        "10.1.0.0/16",
        "2001:db8::/48",
    ]
    with pytest.raises(InputError, match="not in canonical form"):
        AdmissionBody(admission=Admission(client="lpar7", sources=("10.1.2.3",)))


def test_a_listener_has_an_address_and_a_port() -> None:
    assert str(parse_published("10.0.0.1:80")) == "10.0.0.1:80" and str(parse_published("[::]:80")) == "[::]:80"
    for text in ("gw.corp:80", "10.0.0.1:0", "10.0.0.1"):
        with pytest.raises(InputError):
            parse_published(text)


def slow_find(networks: list[tuple[str, str]], address: str) -> str | None:
    """The obvious twin: every network is looked at."""
    wanted = ipaddress.ip_address(address)
    holding = [(n.prefixlen, client) for text, client in networks if wanted in (n := ipaddress.ip_network(text))]
    return max(holding)[1] if holding else None


addresses = st.one_of(
    st.integers(0, 2**8).map(lambda n: str(ipaddress.IPv4Address(0x0A000000 + n))),
    st.integers(0, 2**8).map(lambda n: str(ipaddress.IPv6Address((0xFD << 120) + n))),
)
networks = st.tuples(addresses, st.integers(1, 32)).map(
    lambda pair: str(ipaddress.ip_network(f"{pair[0]}/{pair[1] if '.' in pair[0] else 96 + pair[1]}", strict=False))
)


@given(st.lists(networks, unique=True, max_size=12), addresses)
def test_the_longest_prefix_counts(known: list[str], address: str) -> None:
    named = [(text, f"c{number}") for number, text in enumerate(known)]
    assert Sources(named).find(ipaddress.ip_address(address)) == slow_find(named, address)


def test_where_a_connection_comes_from_is_read_as_the_kernel_says_it() -> None:
    assert str(parse_peer("10.0.0.1")) == "10.0.0.1" == str(parse_peer("::ffff:10.0.0.1"))
    assert str(parse_peer("fe80::1%eth0")) == "fe80::1" and parse_peer("") is None and parse_peer("x") is None


def test_only_a_gateway_that_is_named_knows_the_client_and_both_have_to_fit() -> None:
    clients = {
        "lpar7": LPAR7,
        "lpar8": Client(name="lpar8", gateways=("gw1", "gw2")),
        "pos": Client(name="pos", gateways=("gw1",)),
    }
    admissions = {
        "lpar7": Admission(client="lpar7", sources=("10.1.0.0/16",)),
        "lpar8": Admission(client="lpar8", sources=("10.1.8.0/24",), certificates={"a" * 64: "pem"}),
        "pos": Admission(client="pos", certificates={"b" * 64: "pem"}),
        "gone": Admission(client="gone", sources=("10.9.0.0/16",)),
    }
    gw1, gw2 = (Admissions(name, clients, admissions) for name in ("gw1", "gw2"))
    here, there, away = (ipaddress.ip_address(text) for text in ("10.1.1.1", "10.1.8.1", "10.9.0.1"))
    assert (gw1.by_source(here), gw2.by_source(here)) == ("lpar7", None)
    assert gw1.by_source(there) is None, "it has to show its certificate, and is nobody else without"
    assert gw1.by_source(away) is None and gw1.by_source(None) is None
    assert gw1.by_key("a" * 64, there) == "lpar8" and gw1.by_key("a" * 64, here) is None
    assert gw1.by_key("b" * 64, here) == "pos" and gw1.by_key("c" * 64, here) is None
    assert gw2.by_key("b" * 64, here) is None and set(gw2.certificates) == {"a" * 64}


class Operator:
    """Says at once what it decided; two gateways and a host are there."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(consul=None)
        gateways = (say.gateway("gw1", "10.0.0.1:7443"), say.gateway("gw2"))
        behind = [HostBody(host=Host(name=name, via="gw1")) for name in ("aix1", "box")]
        reaches = (say.reach("aix1"), say.reach("box", url="tcp://192.0.2.9"))
        self.chain = Chain(*gateways, say.host("vm1"), *behind, *reaches)

    @property
    def state(self) -> Any:
        return self.chain.state

    async def append(self, decide: Any, *, message: str) -> list[Any]:
        return self.chain.add(*bodies) if (bodies := decide(self.state)) else []


def run(function: Any, *args: Any) -> Any:
    return trio.run(function, *args)


def test_nobody_is_two_clients_at_one_gateway() -> None:
    operator = Operator()
    admission = Admission(client="lpar7", sources=("10.1.0.0/16",), certificates={"a" * 64: CERTIFICATE})
    assert run(operating.add_client, operator, LPAR7, admission)
    assert not run(operating.add_client, operator, LPAR7, admission), "the same again is no news"
    same = Client(name="lpar8", gateways=("gw1", "gw2"))
    for sources, keys, why in [
        (("10.1.0.0/16",), {}, "10.1.0.0/16 is client lpar7 already"),
        ((), {"a" * 64: CERTIFICATE}, "key is that of client lpar7 already"),
    ]:
        with pytest.raises(InputError, match=why):
            run(operating.add_client, operator, same, Admission(client="lpar8", sources=sources, certificates=keys))
    narrower = Admission(client="lpar8", sources=("10.1.2.0/24",))
    assert run(operating.add_client, operator, same, narrower), "the longest prefix counts"
    elsewhere = Client(name="lpar9", gateways=("gw2",))
    assert run(operating.add_client, operator, elsewhere, Admission(client="lpar9", sources=("10.1.0.0/16",)))
    with pytest.raises(AnswerIsNo, match="there is no gateway gw3"):
        run(operating.add_client, operator, Client(name="x", gateways=("gw3",)), narrower)
    run(operating.remove_client, operator, "lpar7")
    assert set(operator.state.clients) == set(operator.state.admissions) == {"lpar8", "lpar9"}
    with pytest.raises(AnswerIsNo, match="there is no client lpar7"):
        run(operating.remove_client, operator, "lpar7")


def test_one_port_shows_one_service() -> None:
    operator = Operator()
    web = Publication(service="web", gateway="gw1", listen="10.0.0.1:80")
    assert run(operating.publish, operator, web) and not run(operating.publish, operator, web)
    for wanted, why in [
        (Publication(service="db", gateway="gw1", listen="10.0.0.1:80"), "service web is published there already"),
        (Publication(service="db", gateway="gw1", listen="0.0.0.0:7443"), "takes tunnels"),
        (Publication(service="db", host="vm1", port=81), "an agent runs on vm1"),
        (Publication(service="db", host="box", port=81), "box is not reached by ssh"),
    ]:
        with pytest.raises(InputError, match=why):
            run(operating.publish, operator, wanted)
    for wanted, why in [
        (Publication(service="db", gateway="gw3", listen="10.0.0.1:81"), "no gateway gw3"),
        (Publication(service="db", host="aix9", port=81), "no host aix9"),
    ]:
        with pytest.raises(AnswerIsNo, match=why):
            run(operating.publish, operator, wanted)
    assert run(operating.publish, operator, Publication(service="web", host="aix1", port=81))
    assert sorted(operator.state.publications) == ["web/aix1/81", "web/gateway:gw1/10.0.0.1:80"]
    gone = run(operating.unpublish, operator, operating.Published("web", host="aix1"))
    assert [one.id for one in gone] == ["web/aix1/81"]
    with pytest.raises(AnswerIsNo, match="is not published there"):
        run(operating.unpublish, operator, operating.Published("web", host="aix1"))


def test_the_audit_trail_says_it_in_words() -> None:
    operator = Operator()
    labelled = Client(name="lpar7", gateways=("gw1",), labels={"os": "zos"})
    run(operating.add_client, operator, labelled, Admission(client="lpar7", sources=("10.1.0.0/16",)))
    run(operating.publish, operator, Publication(service="web", gateway="gw1", listen="10.0.0.1:80", tls=True))
    run(operating.publish, operator, Publication(service="web", host="aix1", port=81))
    run(operating.unpublish, operator, operating.Published("web", host="aix1"))
    run(operating.remove_client, operator, "lpar7")
    entries = [verify_entry(signed) for signed in operator.chain.log[8:]]
    assert [(entry_key(entry.body), describe(entry.body)) for entry in entries] == [
        ("admission/lpar7", "client lpar7 known by 10.1.0.0/16"),
        ("client/lpar7", "client lpar7 through gw1, labels os=zos"),
        (
            "publish/web/gateway:gw1/10.0.0.1:80",
            "service web published through gateway gw1 at 10.0.0.1:80, for clients with a certificate",
        ),
        ("publish/web/aix1/81", "service web published on host aix1 at its port 81"),
        ("publish/web/aix1/81", "service web no longer published on host aix1 at its port 81"),
        ("client/lpar7", "client lpar7 removed"),
        ("admission/lpar7", "client lpar7 no longer known by anything"),
    ]


CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"


def test_what_is_no_client_or_publication_is_not_signed() -> None:
    bad: list[tuple[Any, str]] = [
        (lambda: ClientBody(client=Client(name="LPAR7", gateways=("gw1",))), "canonical"),
        (lambda: ClientBody(client=Client(name="lpar7", gateways=())), "0 gateways"),
        (lambda: AdmissionBody(admission=Admission(client="lpar7")), "nothing says how"),
        (lambda: AdmissionBody(admission=Admission(client="a", certificates={"a" * 64: "x"})), "not PEM"),
        (lambda: AdmissionBody(admission=Admission(client="a", certificates={"a": CERTIFICATE})), "is not a key hash"),
        (lambda: PublishBody(publication=Publication(service="web")), "at a gateway or on a host"),
        (lambda: PublishBody(publication=Publication(service="web", gateway="gw1", host="h")), "or on a host"),
        (lambda: PublishBody(publication=Publication(service="web", gateway="gw1")), "has an address"),
        (lambda: PublishBody(publication=Publication(service="web", host="h", port=0)), "is not a port"),
        (lambda: PublishBody(publication=Publication(service="web", host="h", port=1, tls=True)), "nothing else"),
        (lambda: PublishBody(publication=Publication(service="w", gateway="gw1", listen="gw:80")), "is a name"),
    ]
    for make, why in bad:
        with pytest.raises(InputError, match=why):
            make()


def test_certificates_are_known_by_their_keys() -> None:
    key = generate_key()
    pem = to_pem(create_root(key, "t.internal", now=NOON))
    assert operating.read_certificates(pem + pem, "file") == {key_hash(key.public_key()): pem}
    with pytest.raises(InputError) as caught:
        operating.read_certificates("nothing", "file")
    assert "PEM" in caught.value.hint, "what is wanted; there is nothing to put back from a backup"
