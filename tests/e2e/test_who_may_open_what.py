"""I/O: C07, C22: every kind of certificate against every kind of node and stream; only the listed cells succeed.

                         tunnel to a host    tunnel to a gateway    @control                  a service
    host                 yes                 yes                    at a gateway only         at a host only, by policy
    gateway, operator    no                  no                     -                         -
    other trust domain   no                  no                     -                         -
    unknown host         no                  no                     -                         -

Then every message that only a gateway may send, and some that nobody may, from a host on its control stream.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from agents.control import messages as m
from agents.estate import load_config
from bridge.identity import certificates
from bridge.tunnels.frames import Code
from inventory.names import SpiffeId
from tests.support.estate import OPERATOR, TRUST_DOMAIN, Estate
from tests.support.hostile_certificates import mint, uri
from tests.support.memory_tls import TrustDomain
from tests.support.pair import SERVER, admin, start_pair
from tests.support.traffic import Backend, echo
from tests.support.tunnel_client import Stream, TunnelClient, forged_identity, root_of

POLICY = '[[allow]]\nname = "all"\nfrom = ["host:vm2", "host:peer"]\nto = ["echo"]\n'


@dataclass
class Nodes:
    estate: Estate
    target: str
    """What `echo` stands for at its host."""
    addresses: dict[str, str]
    """"host" and "gateway": where their tunnel ports are."""

    def dial(self, node: str, identity: Path | None = None) -> TunnelClient:
        home = self.estate.home("peer")
        return TunnelClient(self.addresses[node], identity=identity or home / "identity.pem", root=root_of(home))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with Estate(tmp_path_factory.mktemp("nodes")) as estate, Backend("echo", echo) as backend:
        start_pair(estate, {"echo": backend.target}, direct=True)
        estate.add_host("peer")
        estate.apply_policy(POLICY)
        listen = load_config(estate.home(SERVER)).listen
        assert listen is not None
        made = Nodes(estate, backend.target, {"host": listen, "gateway": estate.gateway_address})
        with made.dial("host") as tunnel:
            assert tunnel.wait_up(), tunnel.refused
        yield made


# --- who gets a tunnel --------------------------------------------------------------------------------------------


def other_domain(folder: Path) -> Path:
    """A host of a domain with the same name and another root."""
    return TrustDomain(folder, time.time()).identity("host/peer")


def minted(estate: Estate, path: Path, *names: str) -> Path:
    """Signed by our own issuer with names that it would never write."""
    pem = (estate.home(OPERATOR) / "issuer.pem").read_text()
    issuer = x509.load_pem_x509_certificates(pem.encode())[0]
    key = certificates.generate_key()
    leaf = mint(
        public_key=key.public_key(),
        issuer_key=certificates.parse_private_key(pem),
        issuer_name=issuer.subject,
        names=[uri(name) for name in names],
        not_before=time.time() - 60,
        not_after=time.time() + 3600,
    )
    path.write_text(certificates.private_key_pem(key) + certificates.to_pem(leaf) + certificates.to_pem(issuer))
    return path


def forged(estate: Estate, path: Path, role: Any, name: str) -> Path:
    return forged_identity(path, estate.home(OPERATOR) / "issuer.pem", SpiffeId(TRUST_DOMAIN, role, name))


@pytest.mark.parametrize("node", ["host", "gateway"])
@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("gateway", "role gateway may not"),
        ("operator", "role operator may not"),
        ("ghost", "not known here"),
        ("sibling domain", ""),
        ("two names", ""),
        ("no name", ""),
        ("other root", ""),
    ],
)
def test_c07_no_tunnel_for(nodes: Nodes, tmp_path: Path, node: str, who: str, words: str) -> None:
    estate, file = nodes.estate, tmp_path / "identity.pem"
    if who == "gateway":
        identity = estate.home(OPERATOR) / "identity.pem"
    elif who == "operator":
        identity = forged(estate, file, "operator", "peer")
    elif who == "ghost":
        identity = forged(estate, file, "host", "ghost")
    elif who == "sibling domain":
        identity = minted(estate, file, "spiffe://t.internal.evil/host/peer")
    elif who == "two names":
        identity = minted(estate, file, f"spiffe://{TRUST_DOMAIN}/host/peer", f"spiffe://{TRUST_DOMAIN}/host/vm2")
    elif who == "no name":
        identity = minted(estate, file)
    else:
        identity = other_domain(tmp_path)
    try:
        with nodes.dial(node, identity) as tunnel:
            assert not tunnel.wait_up()
            told = tunnel.refused.reason if tunnel.refused else str(tunnel.closed)
    except ssl.SSLError as exc:
        told = str(exc)
    print(f"{who} at a {node}: {told}")
    assert words in told


# --- who gets which stream ----------------------------------------------------------------------------------------


def test_c07_control_at_a_host_is_refused(nodes: Nodes) -> None:
    with nodes.dial("host") as tunnel:
        assert tunnel.wait_up()
        refused = tunnel.ask("@control").refused
        assert refused is not None and refused.code == Code.DENIED, refused
        assert refused.reason == "role host may not open @control at a host"
        assert tunnel.ask("echo", nodes.target).accepted, "that stream and nothing else"


@pytest.mark.parametrize("service", ["echo", "@admin", "@control ", "@Control", "", "gw1"])
def test_c07_nothing_but_control_at_a_gateway(nodes: Nodes, service: str) -> None:
    with nodes.dial("gateway") as tunnel:
        assert tunnel.wait_up()
        refused = tunnel.ask(service, nodes.target).refused
        assert refused is not None, tunnel.closed
        print(refused)
        assert refused.code in (Code.DENIED, Code.UNKNOWN_SERVICE)
        assert tunnel.ask("@control").accepted, "that stream and nothing else"


@pytest.mark.parametrize("target", ["127.0.0.1:22", "", "169.254.169.254:80", "vm1:1"])
def test_c07_a_target_is_one_of_the_services_own(nodes: Nodes, target: str) -> None:
    """The target only chooses among the instances that were signed for this host (C38)."""
    with nodes.dial("host") as tunnel:
        assert tunnel.wait_up()
        refused = tunnel.ask("echo", target).refused
        assert refused is not None and refused.code == Code.UNKNOWN_SERVICE, refused


# --- what may be said on a control stream -------------------------------------------------------------------------


def said(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message)


def welcomed(tunnel: TunnelClient) -> Stream:
    assert tunnel.wait_up()
    control = tunnel.ask("@control")
    assert control.accepted
    tunnel.say(control, said(m.Hello(version="1", epoch=time.time_ns(), number=0)))
    welcome = tunnel.hear(control)
    assert welcome is not None and welcome["type"] == "welcome", welcome
    return control


def last_words(tunnel: TunnelClient, control: Stream) -> str:
    """Why the gateway ended the session: the last message before the end of the stream."""
    words = ""
    while (message := tunnel.hear(control)) is not None:
        words = str(message["reason"]) if message["type"] == "refused" else words
    return words


BAD_MESSAGES = {
    "update": said(m.Update(revision=1, full=True)),
    "welcome": said(m.Welcome(gateway="gw1", now=0.0)),
    "refused": said(m.Refused(reason="go away")),
    "dial-back": said(m.DialBack(ticket="x", peer="vm1")),
    "path-offered": said(m.PathOffered(id=1, ticket="x")),
    "streams-wanted": said(m.StreamsWanted(id=1)),
    "cut": said(m.Cut(id=1, reason="because")),
    "draining": said(m.Draining(reason="because")),
    "renewed": said(m.Renewed(id=1, chain="")),
    "no such type": b'{"type":"issue-certificate","name":"vm1"}',
    "no type": b'{"version":"1"}',
    "later field": b'{"type":"path-wanted","id":1,"peer":"vm1","as":"vm2"}',
    "hello twice": said(m.Hello(version="1", epoch=1, number=0)),
    "not JSON": b"\xff\xfe",
    "nothing": b"",
    "NaN": b'{"type":"report","streams":NaN}',
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_c22_a_message_that_a_host_may_not_send_ends_its_session_and_nothing_else(nodes: Nodes, name: str) -> None:
    online = admin(nodes.estate, OPERATOR, "hosts")
    with nodes.dial("gateway") as tunnel:
        control = welcomed(tunnel)
        tunnel.say(control, BAD_MESSAGES[name])
        words = last_words(tunnel, control)
        print(f"{name}: {words}")
        assert words and "Traceback" not in words
        welcomed(tunnel)  # the tunnel stands, and an honest session on it is served
    with nodes.dial("host") as tunnel:
        assert tunnel.wait_up() and tunnel.ask("echo", nodes.target).accepted
    now = admin(nodes.estate, OPERATOR, "hosts")
    assert all(now[host] == online[host] for host in ("vm1", "vm2"))


def test_c22_nothing_is_served_before_hello(nodes: Nodes) -> None:
    with nodes.dial("gateway") as tunnel:
        assert tunnel.wait_up()
        control = tunnel.ask("@control")
        tunnel.say(control, said(m.PathWanted(id=1, peer="vm1")))
        assert last_words(tunnel, control) == "the first message is not hello"
