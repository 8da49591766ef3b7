"""I/O: `rotate.yml` and `adopt.yml` on real machines, under load where that matters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import why_no_root_tests
from tests.support.ansible_estate import CALLER, CANARY, GATEWAY, HOMES, POLICY, AnsibleEstate
from tests.support.traffic import Load

pytestmark = pytest.mark.skipif(why_no_root_tests() is not None, reason=str(why_no_root_tests()))

LISTENS = "10.79.0.11:7500"


@pytest.fixture
def load(installed: AnsibleEstate) -> Iterator[Load]:
    with installed.load() as load:
        load.wait_for(20)
        yield load
    print(f"{len(load.failures)} of {load.total + len(load.failures)} requests failed")
    assert not load.failures, load.failures[:3]


def identity(estate: AnsibleEstate, host: str) -> str:
    return estate.machine(host).run("sha256sum", f"{HOMES}/agent/identity.pem")


def test_a_rotation_gives_another_key_and_what_changed_of_listening(installed: AnsibleEstate, load: Load) -> None:
    before = identity(installed, CANARY)
    installed.controller.groups["meshbridge_agents"][CANARY]["agent_listen"] = LISTENS
    installed.controller.play("rotate", "--limit", CANARY).ok()
    assert identity(installed, CANARY) != before
    assert LISTENS in installed.machine(CANARY).run("ss", "-ltn")
    assert not installed.status(CANARY)["warnings"]


def test_a_rotation_that_fails_half_way_leaves_the_agent_as_it_was(installed: AnsibleEstate) -> None:
    before = identity(installed, CANARY)
    installed.machine(GATEWAY).run("systemctl", "stop", "meshbridge-gateway")
    try:
        played = installed.controller.play("rotate", "--limit", CANARY)
    finally:
        installed.machine(GATEWAY).run("systemctl", "start", "meshbridge-gateway")
    assert played.code != 0
    assert played.failures[-1].startswith("no gateway could enrol this host"), played.failures
    assert identity(installed, CANARY) == before
    assert installed.machine(CANARY).run("systemctl", "is-active", "meshbridge-agent").strip() == "active"


def test_adoption_looks_then_observes_then_enforces(installed: AnsibleEstate, load: Load) -> None:
    """Observed and in force, what the rules allow goes on: here they allow what was allowed before."""
    controller = installed.controller
    controller.play("adopt", "--limit", CANARY, adopt="discover", adopt_for="3s").ok()
    proposal = (controller.place / "adopt" / f"{CANARY}.toml").read_text()
    assert "A proposal, and nothing else" in proposal and ":9000" in proposal

    def rules() -> dict[str, str]:
        shown = installed.say(GATEWAY, "policy", "show")
        return {block.split('name = "')[1].split('"')[0]: "observe" * ('"observe"' in block) for block in split(shown)}

    def split(text: str) -> list[str]:
        return text.replace("[[deny]]", "[[allow]]").split("[[allow]]")[1:]

    denies = f'\n[[deny]]\nname = "not from there"\nfrom = ["host:{CALLER}"]\nto = ["web"]\n'
    installed.policy.write_text(POLICY + denies)
    controller.play("adopt", adopt="observe").ok()
    assert rules() == {"all": "", "not from there": "observe"}
    load.wait_for(20)
    assert not load.failures, "nothing is denied that was allowed before"
    assert controller.play("adopt", adopt="observe").ok().total("changed") == 0
    load.stop()
    controller.play("adopt", adopt="enforce").ok()
    assert rules() == {"all": "", "not from there": ""}
    installed.policy.write_text(POLICY)
    controller.play("site", "--tags", "estate").ok()
    assert rules() == {"all": ""}
    installed.load()
