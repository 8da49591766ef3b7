"""I/O: F50: 10,000 errors a second for a minute, at a gateway and at a host: what is written about them is bounded and
says how much was left out; honest requests go on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from agents.estate import load_config
from bridge import limits
from tests.support.estate import OPERATOR, Estate
from tests.support.lag import OPTIONS, SHARED_P99, LagWatch
from tests.support.pair import CLIENT, SERVER, pids, start_pair, worker_pids
from tests.support.proc import cpu_seconds
from tests.support.traffic import Backend, Load, eventually

SPAN = 60.0
RATE = 5000
"""Errors a second at each of the two nodes."""
WRITTEN_A_MINUTE = 10 * limits.MIB
PATIENCE = 30.0
DROPPED = "meshbridge_flow_records_dropped_total"


def written(estate: Estate, home: str) -> int:
    """Bytes of a node's log and of its flow records."""
    files = [estate.nodes[home].stderr.path, *estate.home(home).glob("flows.jsonl*")]
    return sum(file.stat().st_size for file in files)


def told_as_dropped(home: Path) -> int:
    lines = [json.loads(line) for file in home.glob("flows.jsonl*") for line in file.read_bytes().splitlines()]
    return sum(line.get("dropped", 0) for line in lines)


@pytest.mark.slow
def test_f50_ten_thousand_errors_a_second_for_a_minute(estate: Estate) -> None:
    estate.options.update(dict.fromkeys((OPERATOR, SERVER), OPTIONS))
    with Backend("web") as web:
        pair = start_pair(estate, {"web": web.target}, direct=True)
        for name in ("evil1", "evil2"):
            estate.add_host(name)
        rule = '[[allow]]\nname = "web"\nfrom = ["host:vm2", "host:evil1", "host:evil2"]\nto = ["web"]\n'
        estate.apply_policy(rule)  # without one, a host that does not know them would not even talk to them
        place = pair.place("web")
        targets = {SERVER: str(load_config(estate.home(SERVER)).listen), OPERATOR: estate.gateway_address}
        workers = {home: worker_pids(estate, home) for home in (*targets, CLIENT)}
        watches = {home: LagWatch(estate, home) for home in targets}
        before = {home: written(estate, home) for home in targets}
        used = {home: sum(map(cpu_seconds, pids(estate, home))) for home in targets}
        with Load(*place, clients=2, rate=50) as load:
            load.wait_for(20)
            floods = []
            for name, (home, address) in zip(("evil1", "evil2"), targets.items(), strict=True):
                argv = ["-m", "tests.support.error_flood", address, str(estate.home(name)), str(RATE), str(SPAN)]
                floods.append((home, estate.start(name, [sys.executable, *argv])))
            said = {home: json.loads(flood.stdout.wait_for("{", SPAN + PATIENCE)) for home, flood in floods}
            load.wait_for(5)
        for home, flood in said.items():
            errors = sum(flood["answers"].values())
            size = (written(estate, home) - before[home]) * 60 / flood["seconds"]
            cpu = sum(map(cpu_seconds, pids(estate, home))) - used[home]
            dropped = eventually(
                lambda home=home: int(watches[home].value("meshbridge_flow_records_dropped_total")),
                what="drops counted",
            )
            print(
                f"{home}: {errors} errors, {errors / flood['seconds']:.0f}/s; {size / 1e6:.1f} MB written a minute; "
                f"{dropped} records dropped, {told_as_dropped(estate.home(home))} of them told in the file; "
                f"{cpu / errors * 1e6:.0f} µs each"
            )
            lag = watches[home].report()
            assert not flood["closed"] and errors >= flood["asked"] * 0.9
            assert size <= WRITTEN_A_MINUTE
            assert dropped > 0 and told_as_dropped(estate.home(home)) > 0
            assert lag["turns"].p99 <= SHARED_P99
        print(f"honest: {load.total} requests, {len(load.failures)} failed")
        assert not load.failures
        assert {home: worker_pids(estate, home) for home in workers} == workers
