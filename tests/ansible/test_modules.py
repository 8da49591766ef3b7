"""I/O: each module against a real estate: what it predicts is what it does, and the second time it does nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.ansible.conftest import RunModule

POLICY = '[[allow]]\nname = "a"\nfrom = ["host:vm1"]\nto = ["web"]\n'


def predicted_and_done(run_module: RunModule, module: str, /, **given: Any) -> dict[str, Any]:
    """The answer of the run: as predicted, and not repeated."""
    plan, done, again = run_module(module, plan=True, **given), run_module(module, **given), run_module(module, **given)
    assert plan["changed"] and done["changed"], done
    assert plan["diff"] == done["diff"]
    assert not again["changed"], again["diff"]
    assert again["diff"]["before"] == again["diff"]["after"] == done["diff"]["after"]
    return done


def numbers(program: Path, home: Path) -> int:
    """How many entries the log has."""
    done = subprocess.run([program, "--home", home, "-o", "json", "policy", "log"], capture_output=True, check=True)
    return len(json.loads(done.stdout))


def test_a_host_is_recorded_changed_and_removed(run_module: RunModule) -> None:
    host = "meshbridge_host"
    done = predicted_and_done(
        run_module, host, name="vm1", labels={"role": "web", "rack": 7}, site="dc1", serves=["web"]
    )
    assert done["host"]["labels"] == {"role": "web", "rack": "7"}
    done = predicted_and_done(run_module, host, name="vm1", labels={})
    assert done["host"]["labels"] == {} and done["host"]["serves"] == ["web"], "what is not given stays"
    done = predicted_and_done(run_module, host, name="vm1", site="", serves=[])
    assert done["host"]["site"] is None and done["host"]["serves"] == []
    assert predicted_and_done(run_module, host, name="vm1", state="absent", revoke=True)["host"] == {}


def test_check_mode_writes_nothing(run_module: RunModule, program: Path, home: Path) -> None:
    before = numbers(program, home)
    run_module("meshbridge_host", plan=True, name="vm1")
    run_module("meshbridge_policy", plan=True, content=POLICY)
    assert numbers(program, home) == before


def test_a_host_that_stays_as_it_is_gets_no_token(run_module: RunModule, program: Path, home: Path) -> None:
    run_module("meshbridge_host", name="vm1", labels={"a": "b"})
    before = numbers(program, home)
    run_module("meshbridge_host", name="vm1", labels={"a": "b"})
    assert numbers(program, home) == before


def test_a_revoked_host_comes_back_only_when_told(run_module: RunModule) -> None:
    run_module("meshbridge_host", name="vm1")
    predicted_and_done(run_module, "meshbridge_host", name="vm1", state="revoked", reason="stolen")
    refused = run_module("meshbridge_host", name="vm1")
    assert refused["failed"] and "lift_revocation" in refused["msg"]
    assert run_module("meshbridge_host", name="vm1", lift_revocation=True)["changed"]
    assert not run_module("meshbridge_host", name="vm1")["changed"]


def test_before_the_first_run_the_estate_counts_as_empty(run_module: RunModule, tmp_path: Path) -> None:
    for given in ({"home": str(tmp_path / "none")}, {"command": str(tmp_path / "none")}):
        assert run_module("meshbridge_host", plan=True, name="vm1", **given)["changed"]
        assert run_module("meshbridge_service", plan=True, name="web", host="vm1", target="127.0.0.1:1", **given)[
            "changed"
        ]
        assert run_module("meshbridge_policy", plan=True, content=POLICY, **given)["changed"]
        assert run_module("meshbridge_host", name="vm1", **given)["failed"]


def test_an_agentless_host_is_reached_as_said(run_module: RunModule, tmp_path: Path) -> None:
    reach = {"name": "aix1", "reach": "tcp://192.0.2.7", "via": "gw1"}
    done = predicted_and_done(run_module, "meshbridge_host", **reach)
    assert done["host"]["reach"] == "tcp://192.0.2.7"
    predicted_and_done(run_module, "meshbridge_host", **{**reach, "reach": "tcp://192.0.2.8"})
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
    given = {"name": "aix2", "reach": "ssh://bridge@192.0.2.9", "via": "gw1", "host_key": f"{key}.pub"}
    done = predicted_and_done(run_module, "meshbridge_host", **given)
    assert done["host"]["host_keys"][0].startswith("ssh-ed25519 SHA256:")


def test_a_service_is_placed_drained_and_removed(run_module: RunModule) -> None:
    run_module("meshbridge_host", name="vm1")
    place = {"name": "web", "host": "vm1", "target": "127.0.0.1:9000"}
    predicted_and_done(run_module, "meshbridge_service", **place, port=80, labels={"tier": "db"})
    predicted_and_done(run_module, "meshbridge_service", **place, port=80, labels={"tier": "db"}, state="drained")
    predicted_and_done(
        run_module, "meshbridge_service", **place, port=80, max_streams=3, check="http:/health", weight=5
    )
    predicted_and_done(run_module, "meshbridge_service", name="web", state="absent")
    assert not run_module("meshbridge_service", name="web", state="absent")["changed"]


def test_the_commands_own_words_say_what_is_wrong(run_module: RunModule) -> None:
    refused = run_module("meshbridge_service", name="web", host="nobody", target="127.0.0.1:9000")
    assert refused["failed"] and "there is no host nobody" in refused["msg"]


def test_a_policy_is_checked_and_applied_once(run_module: RunModule, tmp_path: Path) -> None:
    run_module("meshbridge_host", name="vm1")
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    done = predicted_and_done(run_module, "meshbridge_policy", src=str(file), reason="why")
    assert done["added"] == ["a"] and done["number"] > 0
    changed = POLICY.replace('"web"', '"web", "shop"')
    assert predicted_and_done(run_module, "meshbridge_policy", content=changed)["changed_rules"] == ["a"]
    wrong = run_module("meshbridge_policy", plan=True, content='[[allow]]\nnam = "a"\n')
    assert wrong["failed"] and "nam" in wrong["msg"]
