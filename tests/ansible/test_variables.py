"""I/O: a variable that is misspelt would do nothing, and Ansible says nothing of it: we do, before anything is done."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ansible.test_readme import PLAYBOOKS, rows

BIN = Path(sys.executable).parent
MEANT = " is no variable of this collection: {} may be meant"


@pytest.fixture
def misspelt(collections: Path) -> Callable[[list[str]], list[str]]:
    module = importlib.import_module("ansible_collections.meshbridge.bridge.plugins.filter.misspelt")
    found: Callable[[list[str]], list[str]] = module.misspelt
    return found


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("meshbridge_polcy_file", "meshbridge_policy_file"),
        ("meshbridge_archive_dir", ""),
        ("meshbrige_domain", "meshbridge_domain"),
        ("meshbridge_listen", ""),
        ("agent_lables", "agent_labels"),
        ("gateway_listens", "gateway_listen"),
        ("consul_policy_managment_token", "consul_policy_management_token"),
    ],
)
def test_what_is_nearly_ours_is_said(misspelt: Callable[[list[str]], list[str]], name: str, meant: str) -> None:
    (said,) = misspelt([name])
    assert said.startswith(f"{name} is no variable of this collection")
    assert not meant or said.endswith(MEANT.format(meant))


def test_what_others_use_and_what_is_documented_passes(misspelt: Callable[[list[str]], list[str]]) -> None:
    headings = ("Variables of the roles", "Variables for everything", "The operator's machine")
    documented = {name for heading in headings for name in rows(heading)}
    others = {"common_users", "ansible_user", "agent_version", "gateway_ip", "inventory_hostname", "playbook_dir"}
    assert not misspelt([*documented, *others, "adopt"])


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_every_playbook_refuses_it_before_it_does_anything(playbook: str, collections: Path, tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.yml"
    inventory.write_text("all: {children: {meshbridge_gateways: {hosts: {gw1: {meshbridge_domian: t.internal}}}}}\n")
    argv = [BIN / "ansible-playbook", "-i", inventory, f"meshbridge.bridge.{playbook}", "-e", "adopt=discover"]
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path), "ANSIBLE_COLLECTIONS_PATH": str(collections)}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert done.stdout.count("\nTASK ") == 1, done.stdout
    assert f"meshbridge_domian{MEANT.format('meshbridge_domain')}" in done.stdout
