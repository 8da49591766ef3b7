"""I/O: under 100 requests a second and continuous change each process is killed and each cable cut, in turn.

Three hosts, two gateways and three Consul servers, all real processes in namespaces. A request fails only if it ran
through what was killed or cut, every acknowledged change is there at the end, and all agree with a simple model.

    MESHBRIDGE_LONG_SECONDS=600 MESHBRIDGE_SEED=7 pytest ...    as long as said, and the same things in the same order
"""

from __future__ import annotations

import contextlib
import os
import random
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.changes import Changes, Key, Value, found_by
from tests.support.consul_cluster import NAMES, ConsulCluster
from tests.support.consul_estate import CALLER, HOSTS, RULES, SERVED, ConsulEstate
from tests.support.estate import TRUST_DOMAIN, Estate
from tests.support.faults import Faults
from tests.support.network import Network
from tests.support.operator_shell import OperatorShell
from tests.support.pair import status
from tests.support.traffic import eventually

pytestmark = pytest.mark.root

SECONDS = float(os.environ.get("MESHBRIDGE_LONG_SECONDS") or 60)
RATE = 100.0
IS_LONG = SECONDS >= 300
"""Then nothing is left out, however long one round of all takes."""
CUT_MAX = 30.0 if IS_LONG else 6.0
"""Seconds; the long run also has cuts that last until they are noticed."""
AGREE_TIMEOUT = 40.0


@pytest.fixture
def running(consul_program: Path, tmp_path: Path) -> Iterator[ConsulEstate]:
    with (
        Network() as network,
        ConsulCluster(tmp_path / "consul", network) as cluster,
        Estate(tmp_path) as estate,
        ConsulEstate(estate, network, cluster, catalog=True).started(gateways=2) as made,
    ):
        yield made


def test_f03_f13_f52_everything_is_killed_and_cut_in_turn(running: ConsulEstate, seed: int) -> None:
    with OperatorShell(running.estate) as shell:
        faults = Faults(running, shell, longest_cut=CUT_MAX)
        file = running.estate.path / "policy.toml"
        changes = Changes(shell, random.Random(seed), file, hosts=["vm1", "vm2"], rules=RULES, caller=CALLER)
        with contextlib.ExitStack() as stack:
            requests = stack.enter_context(running.under_requests(rate=RATE))
            stack.enter_context(changes)
            began = time.monotonic()
            happened = let_happen(faults, random.Random(seed), until=began + SECONDS)
            lasted = time.monotonic() - began
        answered = sum(requests.answers.values())
        print(f"{happened.total()} faults in {lasted:.0f} s: {dict(happened)}")
        print(f"{answered} requests answered, {len(requests.failures)} failed")
        print(f"changes: {dict(changes.outcomes)}; {changes.longest:.1f} s at most without one")
        print(f"failed: {dict(faults.explained(requests.failures))}")

        unexplained = faults.unexplained(requests.failures)
        assert not unexplained, unexplained[:5]
        assert answered > RATE * lasted / 4, "the requests went on"
        assert not changes.wrong, changes.wrong[:5]
        assert changes.acknowledged > lasted / 4, "the changes went on"
        for name in NAMES:
            running.cluster.wait_writable(name)
        found = found_by(shell)
        assert not changes.model.differences(found)
        check_all_agree(running, found)


def let_happen(faults: Faults, chance: random.Random, *, until: float) -> Counter[str]:
    """In an order of its own each time; how many of each kind did."""
    happened: Counter[str] = Counter()
    for turn in count():
        order = faults.everything()
        chance.shuffle(order)
        for fault in order:
            if time.monotonic() > until and not (IS_LONG and turn == 0):
                return happened
            print(f"  {happened.total()}: {faults.happen(fault, chance)}", flush=True)
            happened[fault.kind] += 1
    return happened


def check_all_agree(running: ConsulEstate, found: dict[Key, Value]) -> None:
    """Gateways and hosts with the registry, and nobody has a complaint."""
    estate = running.estate
    policy = tomllib.loads(str(found["policy",]))
    allowed = {service for rule in policy["allow"] for service in rule["to"]}
    there = {*SERVED, *(key[1] for key in found if key[0] == "service")}

    def gateway_agrees(gateway: str) -> bool:
        said = status(estate, gateway)
        hosts = {host["name"] for host in said["hosts"]}
        assert hosts == {key[1] for key in found if key[0] == "host"}, hosts
        assert not running.registry_warning(gateway), running.registry_warning(gateway)
        return True

    def caller_agrees() -> bool:
        seen = {service["name"] for service in status(estate, CALLER)["services"]}
        assert seen == allowed & there, seen ^ (allowed & there)
        return True

    def is_content(node: str) -> bool:
        said = [warning["code"] for warning in status(estate, node)["warnings"]]
        assert not {"registry", "no-gateway", "stale", "catalog", "catalog-conflict"} & {*said}, said
        return True

    def catalog_agrees() -> bool:
        ours = f"node-meta=meshbridge-domain:{TRUST_DOMAIN}"
        nodes = {node["Node"].rpartition("_")[2] for node in running.cluster.ask("GET", f"/v1/catalog/nodes?{ours}")}
        assert nodes == {key[1] for key in found if key[0] == "host"}, nodes
        checks = running.cluster.ask("GET", f"/v1/health/state/any?{ours}")
        assert {check["ServiceID"].partition("/")[0] for check in checks if check["ServiceID"]} == there
        return True

    for gateway in running.gateways:
        eventually(lambda g=gateway: gateway_agrees(g), timeout=AGREE_TIMEOUT, what=f"{gateway} agrees")
    eventually(catalog_agrees, timeout=AGREE_TIMEOUT, what="Consul's catalog agrees")
    eventually(caller_agrees, timeout=AGREE_TIMEOUT, what=f"{CALLER} sees what it may")
    for node in (*running.gateways, *HOSTS):
        eventually(lambda n=node: is_content(n), timeout=AGREE_TIMEOUT, what=f"{node} has no complaint")
