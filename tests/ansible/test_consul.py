"""I/O: a registry in a real Consul with ACLs: its policies and token made, two gateways, and all of it taken back.

One story for all tests here. The management token and that of the gateways are secrets too: the runs are at -vvv, on a
disk of their own, and what nobody may see is looked for afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import secret_forms, secret_hunt
from tests.support.ansible_controller import Controller, Played
from tests.support.archives import make_archive
from tests.support.consul_program import NoConsul, find_consul
from tests.support.consul_server import Authority, ConsulServer, Seat
from tests.support.debian_programs import NoProgram
from tests.support.machines import CONTROLLER, Machine, Machines
from tests.support.process_watch import ProcessWatch
from tests.support.secret_forms import Secret
from tests.support.traffic import eventually

ADDRESS = "10.79.0.30"
PORTS = [8501, 8301, 8300]
TOKEN_FILE = "etc/meshbridge/consul.token"
VERBOSE = ("-vvv", "--diff")
PREFIX = "meshbridge/"


class Story:
    """Two gateways, a host, and Consul beside them."""

    def __init__(self, machines: Machines, place: Path, consul_place: Path) -> None:
        self.machines = machines
        self.place = place
        machines.network.host("consul", lan=f"{ADDRESS}/24")
        inside = partial(machines.network.inside, "consul")
        seat = Seat(name="consul", http=ADDRESS, raft=ADDRESS, prefix=machines.network.prefix("consul"), inside=inside)
        self.consul = ConsulServer(consul_place / "consul", PORTS, authority=Authority(consul_place), seat=seat)
        self.controller = Controller(machines, place)
        self.controller.variables = {
            "meshbridge_domain": "corp.internal",
            "meshbridge_archive_directory": str(make_archive().parent),
            "meshbridge_consul_addresses": [f"https://{ADDRESS}:{PORTS[0]}"],
            "gateway_consul_ca": "/etc/consul-ca.pem",
            "consul_policy_ca": "/etc/consul-ca.pem",
            "common_ready_seconds": 20,
        }
        # As Ansible comes, so that modules are files; those that get a secret have to see to it themselves.
        self.controller.pipelining = False
        self.controller.settings = {"ANSIBLE_LOG_PATH": str(place / "ansible.log")}
        self.gateways = [self._boot(f"gw{n}", f"10.79.0.1{n}", "meshbridge_gateways") for n in (1, 2)]
        self.agent = self._boot("vm1", "10.79.0.21", "meshbridge_agents")
        self.texts: dict[str, str] = {}
        self.found: secret_hunt.Found = set()
        self.state: dict[str, Any] = {}

    def _boot(self, name: str, address: str, group: str) -> Machine:
        machine = self.machines.boot(name, "bookworm", address)
        self.controller.add(group, machine)
        return machine

    def play(self, what: str, playbook: str, *options: str, **variables: Any) -> Played:
        played = self.controller.play(playbook, *VERBOSE, *options, **variables)
        self.texts[what] = played.text
        return played

    # --- what happens ---------------------------------------------------------------------------------------------

    def tell(self) -> None:
        with self.consul:
            assert self.consul.ca_file is not None
            for gateway in self.gateways:
                (gateway.root / "etc/consul-ca.pem").write_text(self.consul.ca_file.read_text())
            self.wrong = self._with_token("00000000-0000-0000-0000-00000000dead", "a wrong token")
            self.before = self.consul_state()
            self.lost = self._lost_in_the_middle()
            self.made = self._with_token(self.consul.token, "all of it")
            self.state = self.consul_state()
            self.statuses = {machine.name: self.status(machine) for machine in (*self.gateways, self.agent)}
            self.again = self._with_token(self.consul.token, "again")
            self._search()
            variables = {"consul_policy_management_token": self.consul.token, "gateway_destroy_estate": True}
            self.controller.variables.update(variables)
            self.removed = self.play("removal", "remove")
            self.after = self.consul_state()

    def _with_token(self, token: str, what: str) -> Played:
        self.controller.variables["consul_policy_management_token"] = token
        return self.play(what, "site")

    def _lost_in_the_middle(self) -> Played:
        """Consul is killed as soon as it has the first policy."""
        self.controller.variables["consul_policy_management_token"] = self.consul.token
        with self.controller.begin("site", *VERBOSE, "--limit", "gw1") as playing:
            eventually(lambda: "meshbridge" in self.consul_state()["policies"], timeout=120, what="a policy")
            self.consul.stop(kill=True)
            lost = playing.wait()
        self.texts["Consul is lost"] = lost.text
        self.consul.start()
        return lost

    def consul_state(self) -> dict[str, Any]:
        """What of ours, or of anybody's, is in it."""
        asked = self.consul.ask
        return {
            "policies": sorted(policy["Name"] for policy in asked("GET", "/v1/acl/policies")),
            "tokens": sorted(token["Description"] for token in asked("GET", "/v1/acl/tokens")),
            "keys": [key for key in self.consul.keys("") if key != "started"],
            "nodes": sorted(node["Node"] for node in asked("GET", "/v1/catalog/nodes")),
            "sessions": len(asked("GET", "/v1/session/list")),
        }

    def status(self, machine: Machine) -> dict[str, Any]:
        node = "agent" if machine is self.agent else "gateway"
        home = f"/var/lib/meshbridge/{node}"
        said = machine.run("/opt/meshbridge/current/bin/meshbridge", "--home", home, "-o", "json", "status")
        answer: dict[str, Any] = json.loads(said)
        return answer

    # --- what is found --------------------------------------------------------------------------------------------

    @property
    def secrets(self) -> list[Secret]:
        [ours] = [token for token in self.consul.ask("GET", "/v1/acl/tokens") if "Ansible" in token["Description"]]
        made = self.consul.ask("GET", f"/v1/acl/token/{ours['AccessorID']}")["SecretID"]
        management = self.consul.token
        return [secret_forms.of_text("management", management), secret_forms.of_text("the gateways'", made)]

    def _search(self) -> None:
        os.sync()
        for machine in self.machines.all.values():
            self.texts[f"journal of {machine.name}"] = machine.run("journalctl", "--no-pager", "-o", "export")
        self.management, gateways = self.secrets
        # What the user put there himself is this file alone.
        places = [path for path in self.place.iterdir() if path.name != "controller"]
        places += [path for path in (self.place / "controller").iterdir() if path.name != "estate.json"]
        self.found = secret_hunt.in_places([self.management, gateways], *places)
        for where, text in self.texts.items():
            self.found |= secret_hunt.in_text([self.management, gateways], where, text)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    above = tmp_path_factory.mktemp("consul")
    with contextlib.ExitStack() as stack:
        try:
            find_consul()
            place = stack.enter_context(secret_hunt.disk(above / "disk"))
            machines = stack.enter_context(Machines(place))
            told = Story(machines, place, above)
        except (NoProgram, NoConsul) as why:
            pytest.skip(str(why))
        spaces = [machines.network.space(name) for name in (CONTROLLER, *machines.all)]
        with ProcessWatch(place, spaces):
            told.tell()
        yield told


def test_a_wrong_management_token_is_said_and_nothing_was_done(story: Story) -> None:
    words = story.wrong.last_words["gw1"]
    print(words)
    assert "answered 403" in words and "consul_policy_management_token" in words and "\n" not in words
    assert story.before["policies"] == ["global-management"]


def test_a_consul_that_goes_away_in_the_middle_is_said(story: Story) -> None:
    words = story.lost.last_words["gw1"]
    print(words)
    assert f"https://{ADDRESS}:8501 was to" in words and "did not answer gw1" in words and "\n" not in words


def test_policies_and_one_token_are_made(story: Story) -> None:
    story.made.ok()
    assert story.state["policies"] == ["global-management", "meshbridge", "meshbridge-catalog"]
    assert story.state["tokens"].count("meshbridge meshbridge (Ansible)") == 1


def test_two_gateways_join_and_a_host_reports_to_both(story: Story) -> None:
    story.made.ok()
    connected = {row["name"]: row["state"] for row in story.statuses["vm1"]["gateways"]}
    assert connected == {"gw1": "connected", "gw2": "connected"}
    for name in ("gw1", "gw2"):
        assert [warning["code"] for warning in story.statuses[name]["warnings"]] == ["no-policy"]


def test_the_second_run_changes_nothing(story: Story) -> None:
    assert story.again.ok().changes == []


def test_c45_consuls_tokens_are_in_one_file_of_each_gateway(story: Story) -> None:
    own = {("the gateways'", str(story.place / gateway.name / "upper" / TOKEN_FILE)) for gateway in story.gateways}
    assert story.found == own


def test_removal_takes_everything_back(story: Story) -> None:
    story.removed.ok()
    assert story.after == {**story.before, "sessions": story.after["sessions"]}
    for machine in (*story.gateways, story.agent):
        for path in ("opt/meshbridge", "etc/meshbridge", "var/lib/meshbridge"):
            assert not (machine.root / path).exists()
