"""I/O: the systemd unit of the roles, as systemd's own tool sees it; words of the operator's stay words."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from bridge import limits
from tests.support.service_scripts import render

EXPOSURE_MAX = 1.5
ODD = ["a b", 'quo"te', "it's", "back\\slash", "50%", "$HOME", "${HOME}", "%h"]

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def analyze(*args: str) -> str:
    done = subprocess.run(["systemd-analyze", *args], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def value(unit: str, key: str) -> str:
    return next(line.partition("=")[2] for line in unit.splitlines() if line.startswith(key + "="))


@pytest.mark.parametrize("node", ["agent", "gateway"])
@pytest.mark.parametrize("low_ports", [False, True])
def test_the_unit_is_exposed_no_more_than_it_must_be(node: str, low_ports: bool, tmp_path: Path) -> None:
    path = tmp_path / f"meshbridge-{node}.service"
    path.write_text(render("meshbridge.service.j2", common_node=node, common_low_ports=low_ports))
    words = analyze("security", "--offline=true", "--no-pager", str(path))
    if "unrecognized option" in words:
        pytest.skip("this systemd-analyze cannot look at a file (it can since 250)")
    exposure = float(words.rpartition("exposure level for")[2].partition(":")[2].split()[0])
    print(f"{path.name}, low ports {low_ports}: {exposure}")
    assert exposure <= EXPOSURE_MAX


@pytest.mark.parametrize("node", ["agent", "gateway"])
def test_systemd_finds_nothing_wrong_with_the_unit(node: str, tmp_path: Path) -> None:
    program = tmp_path / "prefix/current/bin/meshbridge"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / f"meshbridge-{node}.service"
    unit = render("meshbridge.service.j2", common_node=node, common_prefix=str(tmp_path / "prefix"))
    path.write_text(unit)
    assert analyze("verify", "--man=no", str(path)) == ""
    path.write_text(unit.replace("KillMode=mixed", "KillMode=mixxed"))
    assert "kill mode" in analyze("verify", "--man=no", str(path)), "it would say so"


def test_words_of_the_operators_reach_the_node_as_they_are() -> None:
    unit = render("meshbridge.service.j2", common_run_arguments=ODD, common_home="/srv/100% mesh/$x")
    start = value(unit, "ExecStart").replace("%%", "%").replace("$$", "$")
    prefix = ["/opt/meshbridge/current/bin/meshbridge", "--home", "/srv/100% mesh/$x", "agent", "run"]
    assert shlex.split(start) == [*prefix, *ODD]
    assert value(unit, "ReadWritePaths") == '"/srv/100%% mesh/$x"', "no variables there, but specifiers"


def test_the_unit_leaves_the_drain_its_time() -> None:
    unit = render("meshbridge.service.j2")
    assert float(value(unit, "TimeoutStopSec")) >= limits.DRAIN_DEADLINE + 10
