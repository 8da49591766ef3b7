"""I/O: the inventory plugin and the lookup, through Ansible's own commands, against a real estate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.ansible.conftest import RunModule

BIN = Path(sys.executable).parent


def ansible(collections: Path, cwd: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_LOCAL_TEMP": str(cwd / "tmp"),
        "ANSIBLE_HOME": str(cwd / "ansible"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
    }
    command = [BIN / argv[0], *argv[1:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=cwd)


def test_the_estate_is_an_inventory(
    collections: Path, run_module: RunModule, home: Path, program: Path, tmp_path: Path
) -> None:
    run_module("meshbridge_host", name="vm1", labels={"role": "web-1"}, site="dc1")
    run_module("meshbridge_service", name="web", host="vm1", target="127.0.0.1:9000", port=80)
    run_module("meshbridge_host", name="aix1", reach="tcp://192.0.2.7", via="gw1")
    source = tmp_path / "estate.meshbridge.yml"
    words = {"plugin": "meshbridge.bridge.estate", "command": [str(program)], "home": str(home)}
    source.write_text(json.dumps({**words, "compose": {"ansible_host": "meshbridge_name ~ '.example'"}}))
    done = ansible(collections, tmp_path, "ansible-inventory", "-i", str(source), "--list", "--export")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert listed["meshbridge_gateways"]["hosts"] == ["gw1"]
    assert listed["meshbridge_agents"]["hosts"] == ["vm1"]
    assert listed["meshbridge_agentless"]["hosts"] == ["aix1"]
    for group in (
        "meshbridge_site_dc1",
        "meshbridge_service_web",
        "meshbridge_label_role_web_1",
        "meshbridge_health_unknown",
    ):
        assert listed[group]["hosts"] == ["vm1"], group
    variables = listed["_meta"]["hostvars"]["vm1"]
    # What others wrote is marked: it is text, and never a template.
    assert variables["meshbridge_services"] == [{"__ansible_unsafe": "web"}]
    assert variables["meshbridge_labels"] == {"role": {"__ansible_unsafe": "web-1"}}
    assert variables["ansible_host"] == {"__ansible_unsafe": "vm1.example"}


def test_an_estate_that_cannot_be_listed_says_why(collections: Path, tmp_path: Path, program: Path) -> None:
    source = tmp_path / "estate.meshbridge.yml"
    words = {"plugin": "meshbridge.bridge.estate", "command": [str(program)], "home": str(tmp_path / "none")}
    source.write_text(json.dumps(words))
    done = ansible(collections, tmp_path, "ansible-inventory", "-i", str(source), "--list")
    assert "the estate cannot be listed" in done.stderr


def test_a_name_is_looked_up(
    collections: Path, run_module: RunModule, home: Path, program: Path, tmp_path: Path
) -> None:
    run_module("meshbridge_host", name="vm1")
    run_module("meshbridge_service", name="web", host="vm1", target="127.0.0.1:9000", port=80)
    given = f"command=['{program}'], home='{home}'"
    for term, words in (("web", "web.bridge.internal:80"), ("nobody", "there is no service")):
        text = f"msg={{{{ lookup('meshbridge.bridge.address', '{term}', {given}) }}}}"
        done = ansible(collections, tmp_path, "ansible", "localhost", "-m", "ansible.builtin.debug", "-a", text)
        assert words in done.stdout + done.stderr
        assert (done.returncode == 0) == (term == "web")
