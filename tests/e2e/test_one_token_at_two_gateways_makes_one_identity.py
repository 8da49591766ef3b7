"""I/O: fifty machines with one token, at two gateways at once: one of them becomes the host (C19)."""

from __future__ import annotations

import dataclasses

import trio

from agents.consul import open_consul
from agents.control.joining import Applicant, dial_tcp
from agents.knowledge.key_holders import keys_of
from bridge.identity import certificates
from bridge.identity.certificates import PrivateKey
from bridge.identity.tokens import Token, parse_token
from inventory.authority import read_enrolment
from inventory.errors import AnswerIsNo
from inventory.names import parse_spiffe_id
from inventory.registries.consul_place import ConsulPlace
from tests.support.consul_server import ConsulServer, options
from tests.support.estate import OPERATOR, Estate
from tests.support.gateways import add_gateway

MACHINES = 50


async def race(token: Token) -> list[PrivateKey]:
    """Those that got in. Every other machine goes to the other gateway first."""
    won = []

    async def machine(number: int) -> None:
        gateways = token.gateways if number % 2 else token.gateways[::-1]
        key = certificates.generate_key()
        try:
            await Applicant(dataclasses.replace(token, gateways=gateways), key, "1", dial_tcp).enrol(lambda _: None)
        except AnswerIsNo as exc:
            assert exc.what == "token refused"
        else:
            won.append(key)

    async with trio.open_nursery() as nursery:
        for number in range(MACHINES):
            nursery.start_soon(machine, number)
    return won


async def on_record(place: ConsulPlace, name: str) -> tuple[str | None, list[str]]:
    """The key of the host's enrolment, and all keys that it ever had."""
    async with open_consul(place) as registry:
        enrolment = await read_enrolment(registry, "host", name)
        spiffe = parse_spiffe_id(f"spiffe://t.internal/host/{name}")
        return enrolment.key if enrolment else None, await keys_of(registry, spiffe)


def test_c19_fifty_machines_with_one_token_at_two_gateways_make_one_identity(
    estate: Estate, consul: ConsulServer
) -> None:
    place = consul.place()
    estate.init("--registry", "consul", *options(place))
    estate.start_gateway()
    add_gateway(estate, "gw2", place, "--issuer")
    assert "PRIVATE KEY" not in everything_in(consul, place), "the issuer's key is nowhere in Consul in clear"
    assert (estate.home("gw2") / "issuer.pem").read_bytes() == (estate.home(OPERATOR) / "issuer.pem").read_bytes()
    assert (estate.home("gw2") / "issuer.pem").stat().st_mode & 0o777 == 0o600
    for name in ("vm1", "vm2", "vm3"):
        token = parse_token(estate.ok(OPERATOR, "host", "add", name))
        assert {gateway for gateway, _ in token.gateways} == {"gw1", "gw2"}
        winners = trio.run(race, token)
        assert len(winners) == 1
        key = certificates.key_hash(winners[0].public_key())
        assert trio.run(on_record, place, name) == (key, [key])


def everything_in(consul: ConsulServer, place: ConsulPlace) -> str:
    values = (consul.ask("GET", f"/v1/kv/{key}?raw") for key in consul.keys(place.prefix))
    return "".join(v.decode("latin-1") if isinstance(v, bytes) else str(v) for v in values)
