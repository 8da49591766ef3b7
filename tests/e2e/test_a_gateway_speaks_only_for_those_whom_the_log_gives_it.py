"""I/O: a subject counts only from a gateway that the signed log names for it (C10), here with two real gateways and
what a stolen issuer's key could make; and clients of one gateway reach the hosts behind another.

client 127.0.0.7 ── gw1 ── vm1, gw2 ── box, a service of Consul's
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.tunnels.frames import Code
from inventory.names import SpiffeId
from tests.e2e.test_a_client_that_knows_nothing_of_us_is_known_by_its_address import LPAR7, ask_from
from tests.support.consul_catalog import Catalog
from tests.support.consul_server import ConsulServer, options
from tests.support.estate import OPERATOR, TRUST_DOMAIN, Estate
from tests.support.gateways import add_gateway, wait_linked
from tests.support.traffic import Backend, eventually
from tests.support.tunnel_client import TunnelClient, forged_identity, root_of

RULES = '[[allow]]\nname = "clients"\nfrom = ["client:**", "host:aix1"]\nto = ["*"]\n'


@pytest.fixture
def catalog(consul: ConsulServer) -> Iterator[Catalog]:
    with Catalog(consul) as made:
        yield made


def publish(estate: Estate, service: str, gateway: str) -> tuple[str, int]:
    port = estate.free_port()
    estate.ok(OPERATOR, "service", "publish", service, "--via", gateway, "--listen", f"127.0.0.1:{port}")
    return "127.0.0.1", port


def test_c10_a_subject_is_taken_only_from_the_gateway_that_the_log_names(
    estate: Estate, consul: ConsulServer, catalog: Catalog, tmp_path: Path
) -> None:
    place = consul.place()
    estate.init("--registry", "consul", *options(place))
    estate.start_gateway()
    listen = estate.free_endpoint()
    estate.add_host("vm1", listen=listen)
    estate.start_agent("vm1")
    add_gateway(estate, "gw2", place)
    wait_linked(estate, ("vm1",), "gw1", "gw2")
    with Backend("ledger") as ledger, Backend("pod") as pod, Backend("printer") as printer:
        estate.ok(OPERATOR, "host", "add", "box", "--reach", "tcp://127.0.0.1", "--via", "gw2", "--allow-loopback")
        estate.service_add("printer", host="box", target=printer.target, port=80)
        estate.service_add("ledger", host="vm1", target=ledger.target, port=80)
        catalog.register("pods", pod.target)
        estate.ok(OPERATOR, "service", "import", "pods", "--via", "gw2", "--port", "80", "--allow-loopback")
        estate.ok(OPERATOR, "client", "add", "lpar7", "--via", "gw1", "--source", LPAR7)
        estate.ok(OPERATOR, "client", "add", "lpar8", "--via", "gw2", "--source", LPAR7)
        estate.apply_policy(RULES)

        pods, ports = publish(estate, "pods", "gw2"), publish(estate, "printer", "gw1")
        assert eventually(lambda: ask_from(pods)) == "pod", "what the gateway itself brings in"
        assert eventually(lambda: ask_from(ports)) == "printer", "gw1 takes it to gw2, which reaches the host"
        books = publish(estate, "ledger", "gw1")
        assert eventually(lambda: ask_from(books)) == "ledger"

        root = root_of(estate.home("vm1"))
        stolen = estate.home(OPERATOR) / "issuer.pem"
        gw1, gw2 = (estate.home(name) / "identity.pem" for name in (OPERATOR, "gw2"))
        host = estate.home("vm1") / "identity.pem"
        for identity, subject, why in [
            (gw1, "client:lpar7", None),
            (gw2, "client:lpar8", None),
            (gw2, "client:lpar7", "gateway gw2 may not speak for 'client:lpar7'"),
            (gw1, "client:lpar9", "gateway gw1 may not speak for 'client:lpar9'"),
            (gw1, "client:LPAR7", "gateway gw1 may not speak for 'client:LPAR7'"),
            (gw1, "host:vm1", "gateway gw1 may not speak for 'host:vm1'"),
            (gw1, "gateway:gw1", "is not a subject"),
            (gw1, None, "role gateway may not open a stream to a service"),
            (host, "client:lpar7", "host vm1 may speak for itself only"),
        ]:
            with TunnelClient(listen, identity=identity, root=root) as peer:
                assert peer.wait_up()
                stream = peer.ask("ledger", ledger.target, subject)
                if why is None:
                    assert stream.accepted, (identity, subject, stream.refused)
                else:
                    assert stream.refused is not None and stream.refused.code == Code.DENIED
                    assert why in stream.refused.reason, (subject, stream.refused)

        unknown = forged_identity(tmp_path / "gw3.pem", stolen, SpiffeId(TRUST_DOMAIN, "gateway", "gw3"))
        for address in (listen, estate.gateway_address):
            with TunnelClient(address, identity=unknown, root=root) as peer:
                assert not peer.wait_up(), "a gateway that is not in the log is nobody, whoever issued its certificate"
                assert peer.refused is not None and "speaks for nobody here" in peer.refused.reason

        with TunnelClient(listen, identity=gw2, root=root) as peer:
            assert peer.wait_up()
            stream = peer.ask("ledger", ledger.target, "client:lpar8")
            assert stream.accepted
            estate.ok(OPERATOR, "client", "add", "lpar8", "--via", "gw1", "--source", "127.0.0.8")
            peer.wait(lambda: stream.reset is not None or stream.ended)
            assert stream.reset == Code.CUT, "what the gateway may not say any more is cut"
