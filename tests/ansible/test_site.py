"""I/O: from a list of machines to a working bridge, and off again: whole machines, the collection as it is installed.

    gw1   Debian 12, systemd 252     the gateway
    vm1   Debian 12, systemd 252     an agent that serves `web`
    vm2   Debian 11, systemd 247     an agent that calls, and serves `jobs`
    old1  no systemd, no Python      an agent that serves `batch`
    box   no systemd, no Python      nothing is installed there; serves `ledger` on its own loopback

None of them has a route to anything else. The tests run in the order of the file: the last takes it all away.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import pytest

from tests.conftest import why_no_root_tests
from tests.support.ansible_controller import Controller, Played
from tests.support.archives import make_archive
from tests.support.debian_programs import NoProgram
from tests.support.machines import SSHD_ONLY, Entry, Machine, Machines
from tests.support.traffic import Backend, ask, eventually

MESHBRIDGE = "/opt/meshbridge/current/bin/meshbridge"
AGENTS = ("vm1", "vm2", "old1")
PLACES = {"web": ("vm1", 9000), "jobs": ("vm2", 9001), "batch": ("old1", 9002), "ledger": ("box", 7001)}
POLICY = """
[[allow]]
name = "everybody may call the web and the ledger"
from = ["host:*"]
to = ["web", "ledger"]

[[allow]]
name = "the web may call what works for it"
from = ["host:vm1"]
to = ["jobs", "batch"]
"""
SAID_INSTEAD = {
    "Unpack it there": "Say what would be brought",
    "Make the release the current one": "Say what would be brought",
    "Make the trust domain": "Say that it would become one",
    "Make a token": "Say that it would be enrolled",
    "Use it": "Say that it would be enrolled",
    "Show it to the agent": "Say that it would be enrolled",
    "Bring the keys to where the operator's home is": "Put the host on record",
    "Start the service and have it start with the machine": "Say that it would be started",
    "Start the script and have it start with the machine": "Say that it would be started",
    # What handlers do is counted with the step that runs them.
    "Restart it now if it has to be": "Say that it would be started",
}
"""What check mode prints where the step itself needs what is not there yet."""

LIST_NODES = """
for p in /proc/[0-9]*; do
    tr '\\0' ' ' <$p/cmdline | grep -q 'cli[.]start.* run' && stat -c %U $p && grep CapEff $p/status
done
true
"""
"""Prints, for each process of a node, whose it is and what it may do."""

LEFT_BY_USERADD = {f"etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow")} | {"var/log/faillog"}
"""Copies that the tools for users and groups make of what they change, and a table with a row for each user."""

pytestmark = pytest.mark.skipif(why_no_root_tests() is not None, reason=str(why_no_root_tests()))


def without_python(machine: Machine) -> None:
    machine.run("sh", "-c", "rm -f /usr/bin/python3* /usr/bin/pdb3* && ! command -v python3")


@dataclass
class Lab:
    machines: Machines
    controller: Controller
    before: dict[str, dict[str, Entry]]
    checked: Played
    installed: Played

    def __getitem__(self, name: str) -> Machine:
        return self.machines.all[name]

    def status(self, name: str) -> dict[str, Any]:
        home = f"/var/lib/meshbridge/{'gateway' if name == 'gw1' else 'agent'}"
        found: dict[str, Any] = json.loads(self[name].run(MESHBRIDGE, "--home", home, "-o", "json", "status"))
        return found

    def answer(self, caller: str, service: str) -> str:
        """Who answers a program on `caller` that connects to the service there."""
        [row] = [row for row in self.status(caller)["services"] if row["name"] == service]
        address, _, port = row["address"].rpartition(":")
        with self.machines.network.inside(caller):
            return ask(address, int(port), timeout=5)

    def wait_answer(self, caller: str, service: str) -> None:
        """Until the service is called, and the right one answers. A box that refused a login is left alone for 45 s."""
        owner = PLACES[service][0]
        eventually(lambda: self.answer(caller, service) == owner, what=f"{caller} calls {service}", timeout=90)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    place = tmp_path_factory.mktemp("lab")
    with contextlib.ExitStack() as stack:
        try:
            machines = stack.enter_context(Machines(place))
            machines.boot("gw1", "bookworm", "10.79.0.10")
            machines.boot("vm1", "bookworm", "10.79.0.11")
            machines.boot("vm2", "bullseye", "10.79.0.12")
            machines.boot("old1", "bookworm", "10.79.0.13", init=SSHD_ONLY)
            machines.boot("box", "bookworm", "10.79.0.14", init=SSHD_ONLY)
        except NoProgram as why:
            pytest.skip(str(why))
        for name in ("old1", "box"):
            without_python(machines.all[name])
        for name, port in PLACES.values():
            with machines.network.inside(name):
                stack.enter_context(Backend(name, port=port))
        before = {name: machine.files() for name, machine in machines.all.items()}
        controller = ready_controller(machines, place)
        checked = controller.play("site", "--check", "--diff").ok()
        yield Lab(machines, controller, before, checked, controller.play("site").ok())


def ready_controller(machines: Machines, place: Path) -> Controller:
    controller = Controller(machines, place)
    shutil.copyfile(machines.all["box"].root / "etc/ssh/ssh_host_ed25519_key.pub", controller.place / "box.pub")
    controller.add("meshbridge_gateways", machines.all["gw1"])
    controller.add("meshbridge_agents", machines.all["vm1"], agent_labels={"role": "web"}, agent_site="dc1")
    controller.add("meshbridge_agents", machines.all["vm2"], agent_metrics="127.0.0.1:9464")
    controller.add("meshbridge_agents", machines.all["old1"])
    box = {"meshbridge_reach": "ssh://root@10.79.0.14", "meshbridge_via": "gw1", "meshbridge_host_key": "box.pub"}
    controller.add("meshbridge_agentless", machines.all["box"], **box)
    controller.variables = {
        "meshbridge_domain": "corp.internal",
        "meshbridge_archive_directory": str(make_archive().parent),
        "meshbridge_services": [
            {"name": name, "host": host, "target": f"127.0.0.1:{port}", "port": 8000 + port % 1000, "check": "tcp"}
            for name, (host, port) in PLACES.items()
        ],
        "meshbridge_policy": POLICY,
    }
    return controller


def test_check_mode_predicts_what_happens(lab: Lab) -> None:
    """Host by host, task by task. Of a machine without Python it says that it cannot tell."""
    print(f"check {lab.checked.seconds:.0f} s, site {lab.installed.seconds:.0f} s, {lab.installed.recap}")
    predicted = {(SAID_INSTEAD.get(task, task), host) for task, host in lab.checked.changes if host != "old1"}
    done = {(SAID_INSTEAD.get(task, task), host) for task, host in lab.installed.changes if host != "old1"}
    assert predicted == done
    assert "There is no Python here that Ansible can use" in lab.checked.text
    assert ("Say what would happen", "old1") in lab.checked.changes


def test_services_of_agents_and_of_a_host_without_one_are_called(lab: Lab) -> None:
    gateway_key = lab["gw1"].run(MESHBRIDGE, "--home", "/var/lib/meshbridge/gateway", "gateway", "ssh-ca").strip()
    lab["box"].run("sh", "-c", "cat >> /root/.ssh/authorized_keys", stdin=f"cert-authority {gateway_key}\n")
    for caller in AGENTS:
        lab.wait_answer(caller, "web")
        lab.wait_answer(caller, "ledger")
    lab.wait_answer("vm1", "jobs")
    lab.wait_answer("vm1", "batch")
    assert "batch" not in {row["name"] for row in lab.status("vm2")["services"]}, "which it may not call"


def test_the_second_run_changes_nothing_and_neither_is_predicted_to(lab: Lab) -> None:
    again = lab.controller.play("site").ok()
    print(f"again {again.seconds:.0f} s")
    assert again.changes == []
    assert again.total("changed") == 0
    predicted = lab.controller.play("site", "--check", "--diff").ok()
    assert predicted.changes == []


def test_nodes_run_as_a_user_of_their_own(lab: Lab) -> None:
    for name in ("gw1", *AGENTS):
        found = lab[name].run("sh", "-c", LIST_NODES).splitlines()
        assert {line for line in found if not line.startswith("Cap")} == {"meshbridge"}
        assert {line.split()[1] for line in found if line.startswith("CapEff")} == {"0" * 16}
        state = lab[name].run("stat", "-c", "%U %a", "/var/lib/meshbridge").strip()
        assert state == "meshbridge 700"


def test_a_machine_that_restarts_is_back_by_itself(lab: Lab) -> None:
    for name in ("vm1", "gw1"):
        lab[name].restart()
    for caller in AGENTS:
        lab.wait_answer(caller, "web")
        lab.wait_answer(caller, "ledger")


def test_what_somebody_changed_is_changed_back(lab: Lab) -> None:
    unit = lab["vm1"].root / "etc/systemd/system/meshbridge-agent.service"
    unit.write_text(unit.read_text() + "# by hand\n")
    lab["vm2"].run("systemctl", "disable", "--now", "meshbridge-agent")
    predicted = lab.controller.play("site", "--check", "--diff").ok()
    mended = lab.controller.play("site").ok()
    assert "-# by hand" in predicted.text
    assert {host for _, host in predicted.changes} == {host for _, host in mended.changes} == {"vm1", "vm2"}
    lab.wait_answer("vm2", "web")


def test_a_renamed_machine_or_a_missing_file_is_refused_before_anything_is_signed(lab: Lab) -> None:
    before = lab["gw1"].run(MESHBRIDGE, "--home", "/var/lib/meshbridge/gateway", "policy", "log")
    renamed = lab.controller.play("site", "--limit", "vm2", agent_name="vm2new")
    assert "is the home of host vm2 and not of host vm2new" in renamed.failures[-1]
    missing = lab.controller.play("site", "--limit", "box", meshbridge_host_key="nowhere.pub")
    assert "nowhere.pub is not there" in missing.failures[-1] and missing.total("failed") == 1
    assert lab["gw1"].run(MESHBRIDGE, "--home", "/var/lib/meshbridge/gateway", "policy", "log") == before


def test_the_estate_alone_is_brought_by_its_tag(lab: Lab) -> None:
    changed = lab.controller.play("site", "--tags", "estate", meshbridge_policy=POLICY.replace("everybody", "anybody"))
    assert ("Put the policy in force", "gw1") in changed.ok().changes
    assert "anybody may call" in lab["gw1"].run(MESHBRIDGE, "--home", "/var/lib/meshbridge/gateway", "policy", "show")


def test_each_kind_of_resolver_knows_the_names_where_that_is_asked_for(lab: Lab) -> None:
    """systemd-resolved and unbound on vm1, dnsmasq and /etc/hosts on vm2; the removal below takes it back."""
    agents = lab.controller.groups["meshbridge_agents"]
    agents["vm1"]["agent_resolver"] = ["systemd-resolved", "unbound"]
    agents["vm2"]["agent_resolver"] = ["dnsmasq", "hosts"]
    lab.controller.play("site", "--limit", "vm1,vm2").ok()
    name = "web.bridge.internal"
    [address] = re.findall(r"^127\S+", lab["vm2"].run("getent", "hosts", name), re.MULTILINE)
    assert f"{name}: 127." in lab["vm1"].run("resolvectl", "query", name)
    for host in ("vm1", "vm2"):
        with lab.machines.network.inside(host):
            [answer] = dns.query.udp(dns.message.make_query(name, "A"), "127.0.0.1", timeout=5).answer
        assert host == "vm1" or [record.address for record in answer] == [address]
    assert lab.controller.play("site", "--limit", "vm1,vm2").ok().changes == []


def test_removal_leaves_the_machines_as_they_were_found(lab: Lab) -> None:
    refused = lab.controller.play("remove", "--limit", "meshbridge_gateways")
    assert refused.code != 0 and "copy it to a safe place" in refused.failures[-1]
    predicted = lab.controller.play("remove", "--check", "--diff", gateway_destroy_estate=True).ok()
    removed = lab.controller.play("remove", gateway_destroy_estate=True).ok()
    print(f"remove {removed.seconds:.0f} s")
    assert {host for _, host in removed.changes} == {host for _, host in predicted.changes} == {"gw1", *AGENTS}
    for name in ("gw1", *AGENTS):
        after = lab[name].files()
        different = {
            path for path in after.keys() | lab.before[name].keys() if after.get(path) != lab.before[name].get(path)
        }
        assert different - LEFT_BY_USERADD == set()
        if "systemd" in lab[name].run("cat", "/proc/1/comm"):
            assert "meshbridge" not in lab[name].run("systemctl", "list-units", "--all", "--no-pager", "--plain")
        assert "meshbridge" not in lab[name].run("ps", "ax", "-o", "args")
    again = lab.controller.play("remove", "--limit", "vm1,old1").ok()
    assert again.changes == []
