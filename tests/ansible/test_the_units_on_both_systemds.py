"""I/O: the units as systemd 247 and 252 read them, in machines that run these: no word against them, and an exposure of
at most 1.5. What they are for, nodes, the test of the site runs under them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.debian_programs import NoProgram
from tests.support.debian_roots import RELEASES
from tests.support.machines import Machine, Machines
from tests.support.service_scripts import render

EXPOSURE_MAX = 1.5
UNITS = {
    f"meshbridge-{node}{'-low' if low else ''}.service": {
        "common_node": node,
        "common_low_ports": low,
        "common_run_arguments": ["--workers", "2", "--metrics", "127.0.0.1:9100"],
        "common_read_write_paths": ["/srv/100% mesh"] if low else [],
    }
    for node, low in itertools.product(("agent", "gateway"), (False, True))
}

pytestmark = pytest.mark.root


def prepare(layer: Path) -> None:
    program = layer / "opt/meshbridge/current/bin/meshbridge"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    units = layer / "etc/systemd/system"
    units.mkdir(parents=True)
    for name, given in UNITS.items():
        (units / name).write_text(render("meshbridge.service.j2", **given))


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    try:
        with Machines(tmp_path_factory.mktemp("units")) as all_of_them:
            for number, release in enumerate(RELEASES, 11):
                all_of_them.boot(release, release, f"10.79.0.{number}", prepare=prepare)
            yield all_of_them.all
    except NoProgram as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("release", RELEASES)
def test_systemd_has_no_word_against_them(machines: dict[str, Machine], release: str) -> None:
    machine = machines[release]
    assert machine.run("systemctl", "--version").startswith(f"systemd {RELEASES[release].systemd} ")
    for name in UNITS:
        assert machine.run("systemd-analyze", "verify", "--man=no", f"/etc/systemd/system/{name}") == ""
        assert machine.run("systemctl", "show", "-P", "LoadState", name) == "loaded\n"
    assert "meshbridge" not in machine.run("journalctl", "--no-pager", "-b", "-p", "warning")


@pytest.mark.parametrize("release", RELEASES)
def test_it_would_say_so(machines: dict[str, Machine], release: str) -> None:
    path = "/etc/systemd/system/wrong.service"
    text = render("meshbridge.service.j2", common_node="agent").replace("ProtectClock=yes", "ProtectKlock=yes")
    (machines[release].root / path[1:]).write_text(text)
    assert "ProtectKlock" in machines[release].run("systemd-analyze", "verify", "--man=no", path, check=False)


@pytest.mark.parametrize("release", RELEASES)
def test_they_are_exposed_no_more_than_they_must_be(machines: dict[str, Machine], release: str) -> None:
    """As the running manager has read them, so that what it does not know counts as not said."""
    for name in UNITS:
        words = machines[release].run("systemd-analyze", "security", "--no-pager", name)
        exposure = float(words.rpartition("exposure level for")[2].partition(":")[2].split()[0])
        print(f"systemd {RELEASES[release].systemd}, {name}: {exposure}")
        assert 0 < exposure <= EXPOSURE_MAX, words
