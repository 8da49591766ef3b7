"""I/O: (fakes, and time passes by itself) what a gateway brings in agrees with what Consul listed, come what may."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import msgspec
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import limits
from inventory.discovery.consul_health import WAIT
from inventory.discovery.consul_listing import read_rows, usable
from inventory.model import Import
from tests.support.importing import DB, WEB, Gateway1, running

SOURCES = {WEB.source: WEB.service, DB.source: DB.service}
STEPS = 25


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_workers_take_what_any_host_may_still_send(seed: int) -> None:
    """Whoever hears of an instance finds it at the gateway, also for a while after it has left; and in the end both are
    told what Consul lists: over outages, restored data and imports that are signed and taken back."""
    trio.run(_follow, random.Random(seed), clock=trio.testing.MockClock(autojump_threshold=0))


async def _follow(rng: random.Random) -> None:
    gateway = Gateway1(WEB, DB)
    signed = {WEB.service, DB.service}
    heard: dict[str, float] = {}
    """Until when a host may have opened a stream to an instance."""
    read = 0

    def check() -> None:
        nonlocal read
        for who, what in gateway.told[read:]:
            if who == "host":
                assert set(what) <= set(gateway.worker_had(read)), "workers hear first"
            read += 1
        now = trio.current_time()
        heard.update(dict.fromkeys(gateway.last("host") or (), now + 0.9 * limits.IMPORT_LINGER))
        due = {name for name, until in heard.items() if until >= now and name.partition("@")[0] in signed}
        assert due <= set(gateway.last("worker") or ())

    async with running(gateway):
        for _ in range(STEPS):
            match rng.randrange(10):
                case 0:
                    gateway.consul.leave("" if gateway.consul.away else "cannot be reached")
                case 1:
                    gateway.consul.index = rng.randrange(gateway.consul.index + 1)
                case 2:
                    wanted = [one for one in (WEB, DB) if rng.random() < 0.7]
                    signed = {one.service for one in wanted}
                    # What is taken back is refused at once, whoever sends it.
                    heard = {name: until for name, until in heard.items() if name.partition("@")[0] in signed}
                    gateway.sign(*wanted)
                case _:
                    few = rng.sample(range(1, 5), rng.randrange(4))
                    gateway.consul.say(rng.choice(list(SOURCES)), *(f"10.0.0.{n}" for n in few))
            check()
            for _ in range(rng.randrange(8)):
                await trio.sleep(rng.choice([0.01, 0.05, 0.2]))
                check()
        gateway.consul.leave("")
        gateway.sign(WEB, DB)
        await trio.sleep(2 * WAIT + limits.IMPORT_RETRY_MAX + limits.IMPORT_LINGER)
        listed = sorted(f"{SOURCES[source]}@{a}" for source, found in gateway.consul.services.items() for a in found)
        assert (gateway.last("host") or []) == (gateway.last("worker") or []) == listed


TAGS = st.lists(st.sampled_from(["v1", "v2", "eu"]), max_size=3, unique=True)
ADDRESSES = st.sampled_from(
    ["10.0.0.1", "10.0.0.2", "127.0.0.1", "::1", "2001:db8::1", "169.254.1.1", "name", "", "0.0.0.0"]
)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    ours = draw(st.sampled_from([None, {"meshbridge-domain": "t"}, {"meshbridge-domain": "other"}]))
    checks = draw(st.lists(st.sampled_from(["passing", "warning", "critical"]), max_size=2))
    return {
        "Node": {"Address": draw(ADDRESSES), "Meta": draw(st.sampled_from([None, {}, {"meshbridge-domain": "t"}]))},
        "Service": {
            "Service": draw(st.sampled_from(["Web", "Web", "web"])),
            "Address": draw(ADDRESSES),
            "Port": draw(st.sampled_from([80, 81, 0, 65536])),
            "Tags": draw(st.none() | TAGS),
            "Meta": ours,
        },
        "Checks": [{"Status": status} for status in checks],
    }


@given(st.lists(rows(), max_size=6), TAGS, st.booleans())
def test_c38_what_is_used_is_what_one_may_use_by_each_rule(
    listed: list[dict[str, Any]], tags: list[str], loopback: bool
) -> None:
    wanted = Import(service="w", gateway="gw1", source="Web", tags=tuple(tags), allow_loopback=loopback)
    found = usable(wanted, read_rows(msgspec.json.encode(listed)), domain="t")
    assert [i.target for i in found.instances] == sorted({target for row in listed for target in _may(wanted, row)})


def _may(wanted: Import, row: dict[str, Any]) -> list[str]:
    """The obvious twin: one rule after the other, for one row."""
    service, node = row["Service"], row["Node"]
    address, port = service["Address"] or node["Address"], service["Port"]
    metas = [service["Meta"] or {}, node["Meta"] or {}]
    allowed = {"10.0.0.1", "10.0.0.2", "2001:db8::1"} | ({"127.0.0.1", "::1"} if wanted.allow_loopback else set())
    if service["Service"] != "Web" or any(tag not in (service["Tags"] or []) for tag in wanted.tags):
        return []
    if any(check["Status"] != "passing" for check in row["Checks"]) or {"meshbridge-domain": "t"} in metas:
        return []
    if address not in allowed or port not in range(1, 65536):
        return []
    return [f"[{address}]:{port}" if ipaddress.ip_address(address).version == 6 else f"{address}:{port}"]
