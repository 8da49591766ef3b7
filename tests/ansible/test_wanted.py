"""I/O: the pure parts of the modules and plugins; they import nothing of Ansible's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

UTILS = Path(__file__).parents[2] / "ansible" / "plugins" / "module_utils"

NOTHING = dict.fromkeys(
    [
        "labels",
        "site",
        "serves",
        "draining",
        "reach",
        "via",
        "host_key",
        "key",
        "crypto",
        "crypto_owner",
        "crypto_until",
    ]
) | {"allow_loopback": False}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, UTILS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wanted = load("wanted")
inventory = load("estate_inventory")


def shown(**changes: Any) -> dict[str, Any]:
    """A host as `host show` prints it."""
    plain = {"labels": {"a": "b"}, "site": "dc1", "serves": ["web"], "draining": None, "revoked": None, "via": None}
    return {**plain, "reach": None, "host_keys": [], "login": None, "crypto": None, **changes}


def options(before: dict[str, Any], **given: Any) -> list[str]:
    params = NOTHING | given
    found: list[str] = wanted.host_options(before, wanted.host_wanted(before, params), params)
    return found


def test_what_a_task_does_not_say_stays() -> None:
    before = wanted.host_record(shown())
    after = wanted.host_wanted(before, NOTHING | {"site": "dc2"})
    assert after == before | {"site": "dc2"}


def test_all_of_a_host_is_said_again_because_options_replace() -> None:
    said = options(wanted.host_record(shown()), site="dc2")
    assert said == ["--label", "a=b", "--site", "dc2", "--serve", "web", "--ttl", "1s"]


def test_what_is_to_be_empty_takes_replace() -> None:
    before = wanted.host_record(shown())
    for given in ({"labels": {}}, {"site": ""}, {"serves": []}):
        assert "--replace" in options(before, **given)
    assert "--replace" not in options(before, labels={"a": "c"})


def test_the_token_that_nobody_sees_is_good_for_a_second() -> None:
    assert options({})[-2:] == ["--ttl", "1s"]
    assert "--ttl" not in options({}, reach="tcp://192.0.2.7", via="gw1"), "there is none"


def test_yaml_numbers_are_labels() -> None:
    assert wanted.texts({"port": 80, "on": True}) == {"port": "80", "on": "True"}


def test_fingerprints_are_openssh_s() -> None:
    # ssh-keygen -lf of this very line.
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    [found] = wanted.fingerprints(f"# a comment\nhost {key} me@there\n\nnot a key\n")
    assert found == "ssh-ed25519 SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"
    assert wanted.fingerprints(f"@cert-authority * {key}") == [found + " (certificate authority)"]
    assert wanted.fingerprints("ssh-rsa AAAA!") == []


def row(**changes: Any) -> dict[str, Any]:
    """A line of `service list`."""
    plain = {"service": "web", "host": "vm1", "target": "127.0.0.1:9000", "port": 80, "check": None, "weight": 1}
    limits = {"proxy_protocol": False, "max_streams": None, "max_rate": None}
    return {**plain, **limits, "labels": {}, "draining": None, **changes}


def test_only_what_is_meant_is_an_instance() -> None:
    rows = [row(), row(host="vm2"), row(service="shop"), row(imported=True), row(published=True)]
    assert wanted.instances_of(rows, "web") == rows[:2]
    assert wanted.instances_of(rows, "web", "vm2") == [rows[1]]
    assert wanted.instances_of(rows, "web", "vm2", "127.0.0.1:1") == []


def test_an_instance_without_a_port_has_its_target_s() -> None:
    given = {"target": "[::1]:9000", "port": None, "check": None, "weight": 1, "labels": None, "state": "present"}
    limits = {"proxy_protocol": False, "max_streams": 3, "max_rate": None}
    after = wanted.instance_wanted(given | limits)
    assert after["port"] == 9000
    assert wanted.instance_options(after) == ["--port", "9000", "--weight", "1", "--max-streams", "3"]


def test_imports_are_told_apart_by_gateway() -> None:
    rows = [row(imported=True, gateway=name) for name in ("gw1", "gw2")]
    assert set(wanted.imports_of(rows, "web")) == {"gw1", "gw2"}
    assert set(wanted.imports_of(rows, "web", ["gw2"])) == {"gw2"}


def test_rules_are_compared_by_name() -> None:
    before = [{"name": "a", "to": 1}, {"name": "b", "to": 1}]
    after = [{"name": "b", "to": 2}, {"name": "c", "to": 1}]
    assert wanted.rule_changes(before, after) == {"added": ["c"], "removed": ["a"], "changed": ["b"]}


def test_health_is_as_far_as_it_is_known() -> None:
    rows = [
        {"name": "a", "port": 1, "instances": 2, "passing": 2},
        {"name": "b", "port": 1, "instances": 2, "passing": 1},
        {"name": "c", "port": 1, "instances": 2, "passing": 0},
        {"name": "d", "port": 1, "instances": 2},
    ]
    found = {name: one["health"] for name, one in inventory.services_of({"services": rows}).items()}
    assert found == {"a": "passing", "b": "degraded", "c": "failing", "d": "unknown"}


def test_h32_nothing_in_a_group_s_name_but_letters() -> None:
    for hostile in ("-x y", "$(id)", "a\nb", "{{ 1 }}", "'q\"", "é"):
        assert inventory.plain(hostile).replace("_", "a").isalnum()
        assert inventory.plain(hostile).isascii()


def test_a_drain_for_another_reason_is_not_ours_to_end() -> None:
    def ends(draining: bool | None, reason: str | None, on_record: str | None) -> bool:
        return bool(wanted.is_ours_to_end({"draining": on_record}, {"draining": draining, "reason": reason}))

    assert ends(False, "upgrade", "upgrade") and ends(False, None, "new disk") and ends(False, "upgrade", None)
    assert ends(True, "upgrade", "new disk") and ends(None, "upgrade", "new disk")
    assert not ends(False, "upgrade", "new disk")
