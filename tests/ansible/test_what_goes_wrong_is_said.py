"""I/O: machines that are out of order. What is wrong with one is said in one sentence, the last thing of the run for
it, and what to do; the others go on. Mended, a run succeeds, and the next one changes nothing.

One story, told once, for all tests here: machines take a while. What each test looks at is a chapter of it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ansible_controller import Controller, Played
from tests.support.archives import make_archive
from tests.support.debian_programs import NoProgram
from tests.support.machine_faults import (
    DAY,
    age_python,
    fill,
    make_read_only,
    mend,
    remove_python,
    set_clock_right,
    shift_clock,
    taken_port,
)
from tests.support.machines import Machine, Machines

HOME = "var/lib/meshbridge/agent"
DOMAIN = {"role": "host", "name": "elsewhere"}
READY_SECONDS = 6
"""A port that somebody has is not given up by waiting."""
SENTENCE_MAX = 400

EVERYTHING_BROKEN = {
    "opt": r"/opt/meshbridge has \d+ MiB left, and the release takes about \d+ MiB; make room",
    "old": r"no gateway could enrol this host: .*our clock says .*; set the clock right, of this machine or",
    "bare": r"no DNS server: 127\.96\.0\.1:5300: .*Address already in use.*; end what holds it, or set agent_dns",
    "home": r"/var/lib/meshbridge/agent is the home of host elsewhere and not of host home; set agent_name, or take",
    "port": r"127\.\S+:8080 cannot be bound: Address already in use \(held by a program of user root\); end what",
    "away": r"Failed to connect to the host via ssh: .*No route to host",
}
"""What is said of each machine when all are broken at once."""
ONE_AFTER_ANOTHER = {
    "no archive": r"/nowhere/meshbridge-0\.1\.0-x86_64\.tar\.gz or its \.sha256 is not on the controller; make them",
    "another archive": r"the archive is not the one that its \.sha256 describes; make both again",
    "another architecture": r"meshbridge-0\.1\.0-sparc64\.tar\.gz or its \.sha256 is not on the controller; make them",
    "/opt read-only": r"nothing can be written below /opt/meshbridge; is the file system read-only or full\? make it",
    "no room to log in": r"\.tar\.gz did not arrive in Ansible's temporary directory .*; make room there for \d+ MiB",
    "no room for the home": r"no space left to write .*; free space on the file system of /var/lib/meshbridge/agent",
    "a wrong lifetime": r"'tomorrow' .*is not a duration",
    "a damaged home": r"/var/lib/meshbridge/agent/domain\.json is damaged, as by an edit; put back what was there",
    "no way to it": r"box is in the group meshbridge_agentless; set meshbridge_reach for it, .* and in meshbridge_via",
    "no domain": r"set meshbridge_domain to the name of the trust domain, like corp\.internal",
    "a wrong service": r"services\.toml.*target",
}
"""What is said of one machine, broken in one way after another."""


class Story:
    """Six machines and an address at which nobody is."""

    def __init__(self, machines: Machines, place: Path) -> None:
        self.machines = machines
        self.place = place
        self.archive = make_archive()
        self.said: dict[str, str] = {}
        """By what was wrong in `ONE_AFTER_ANOTHER`, the last words of the run."""
        self.controller = Controller(machines, place)
        self.controller.variables = {
            "meshbridge_domain": "corp.internal",
            "meshbridge_archive_directory": str(self.archive.parent),
            "meshbridge_services": [{"name": "web", "host": "vm1", "target": "127.0.0.1:9000", "port": 8080}],
            "meshbridge_policy": '[[allow]]\nname = "web"\nfrom = ["host:**"]\nto = ["web"]\n',
            "common_ready_seconds": READY_SECONDS,
        }
        self.gateway = self._boot("gw1", "10.79.0.10", group="meshbridge_gateways")
        self.vm1 = self._boot("vm1", "10.79.0.11")
        self.opt = self._boot("opt", "10.79.0.12")
        self.old = self._boot("old", "10.79.0.13", release="bullseye", prepare=lambda upper: age_python(upper, "3.9"))
        self.bare = self._boot("bare", "10.79.0.14")
        self.home = self._boot("home", "10.79.0.15")
        self.port = self._boot("port", "10.79.0.16")
        self.controller.groups["meshbridge_agents"]["away"] = {"ansible_host": "10.79.0.99"}

    def _boot(
        self, name: str, address: str, *, group: str = "meshbridge_agents", release: str = "bookworm", **options: Any
    ) -> Machine:
        machine = self.machines.boot(name, release, address, **options)
        self.controller.add(group, machine)
        return machine

    def site(self, *options: str, **variables: Any) -> Played:
        return self.controller.play("site", *options, **variables)

    def fails(self, what: str, host: str, *options: str, **variables: Any) -> None:
        """A run for this host alone; its last words are what is said of `what`."""
        played = self.site("--limit", host, *options, **variables)
        assert played.code != 0, played.text[-3000:]
        self.said[what] = played.last_words[host]

    # --- chapters -------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        self._one_gateway()
        self._everything_broken()
        self._what_is_brought()
        self._who_it_is()
        self._what_was_edited()
        # No gateway is there that could be reached, so it ends by itself.
        del self.controller.groups["meshbridge_agents"]["away"]
        self.mended = self.site()
        self.again = self.site()

    def _one_gateway(self) -> None:
        self.fails("no domain", "gw1", meshbridge_domain="")
        with taken_port(self.machines, "gw1", "0.0.0.0", 7443):
            self.taken_port = self.site("--limit", "gw1,vm1")

    def _everything_broken(self) -> None:
        fill(self.opt, "/opt", "8m")
        shift_clock(self.old, 30 * DAY)
        remove_python(self.bare)
        self.home.run("mkdir", "-p", f"/{HOME}")
        (self.home.root / HOME / "domain.json").write_text('{"role": "host", "name": "elsewhere"}')
        with (
            taken_port(self.machines, "bare", "127.96.0.1", 5300),
            taken_port(self.machines, "port", "0.0.0.0", 8080),
        ):
            self.broken = self.site()
        mend(self.opt, "/opt")
        set_clock_right(self.old)

    def _what_is_brought(self) -> None:
        """To a machine that has nothing yet, one thing wrong after another."""
        other = self.place / "other"
        other.mkdir()
        archive = shutil.copy(self.archive, other)
        Path(f"{archive}.sha256").write_text("0" * 64 + "  x\n")
        uname = self.opt.root / "usr/local/bin/uname"
        self.fails("no archive", "opt", meshbridge_archive_directory="/nowhere")
        self.fails("another archive", "opt", meshbridge_archive_directory=str(other))
        uname.write_text("#!/bin/sh\necho sparc64\n")
        uname.chmod(0o755)
        self.fails("another architecture", "opt")
        uname.unlink()
        make_read_only(self.opt, "/opt")
        self.fails("/opt read-only", "opt")
        mend(self.opt, "/opt")
        fill(self.opt, "/root/.ansible", "1m")
        self.fails("no room to log in", "opt")
        mend(self.opt, "/root/.ansible")

    def _who_it_is(self) -> None:
        """Enrolment, on a machine that has the program."""
        shutil.rmtree(self.old.root / HOME, ignore_errors=True)
        self.old.run("mkdir", f"/{HOME}")
        self.old.run("chown", "meshbridge:meshbridge", f"/{HOME}")
        fill(self.old, f"/{HOME}", "16k")
        self.old.run("chown", "meshbridge:meshbridge", f"/{HOME}")
        self.fails("no room for the home", "old", "--tags", "enrol")
        mend(self.old, f"/{HOME}")
        self.fails("a wrong lifetime", "old", "--tags", "enrol", agent_token_ttl="tomorrow")
        (self.home.root / HOME / "domain.json").write_text('{"role": "ho')
        self.fails("a damaged home", "home", "--tags", "enrol")
        shutil.rmtree(self.home.root / HOME)
        box = {"ansible_host": "10.79.0.98", "meshbridge_reach": "ssh://bridge@10.79.0.98"}
        self.controller.groups["meshbridge_agentless"] = {"box": box}
        self.fails("no way to it", "box")
        del self.controller.groups["meshbridge_agentless"]

    def _what_was_edited(self) -> None:
        """On a machine that is well."""
        services = [{"name": "web", "target": "nonsense"}]
        self.fails("a wrong service", "vm1", "--tags", "configure,start", agent_services=services)
        (self.vm1.root / "etc/meshbridge/services.toml").write_text("[[service]\nname = web\n")
        unit = self.vm1.root / "etc/systemd/system/meshbridge-agent.service"
        unit.write_text(unit.read_text().replace("NoNewPrivileges=yes", "NoNewPrivileges=no"))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    place = tmp_path_factory.mktemp("story")
    with contextlib.ExitStack() as stack:
        try:
            machines = stack.enter_context(Machines(place))
            told = Story(machines, place)
        except NoProgram as why:
            pytest.skip(str(why))
        told.tell()
        yield told


def assert_is_a_sentence(words: str, expected: str) -> None:
    print(words)
    assert re.search(expected, words), words
    assert "\n" not in words and len(words) < SENTENCE_MAX
    assert "Traceback" not in words and "censored" not in words


def test_a_gateway_whose_port_is_taken_says_so_and_the_run_ends_there(story: Story) -> None:
    words = story.taken_port.last_words
    assert set(words) == {"gw1"}
    assert_is_a_sentence(words["gw1"], r"10\.79\.0\.10:7443 cannot be listened on: Address already in use")


@pytest.mark.parametrize("host", EVERYTHING_BROKEN)
def test_of_many_machines_each_says_what_is_wrong_with_it(story: Story, host: str) -> None:
    assert_is_a_sentence(story.broken.last_words[host], EVERYTHING_BROKEN[host])


def test_the_machines_beside_those_that_are_broken_go_on(story: Story) -> None:
    failed = {host for host, counts in story.broken.recap.items() if counts["failed"] or counts["unreachable"]}
    assert failed == set(EVERYTHING_BROKEN)
    assert story.broken.recap["vm1"]["changed"] > 5


@pytest.mark.parametrize("what", ONE_AFTER_ANOTHER)
def test_each_thing_that_is_wrong_is_said(story: Story, what: str) -> None:
    assert_is_a_sentence(story.said[what], ONE_AFTER_ANOTHER[what])


def test_mended_a_run_succeeds_and_the_next_one_changes_nothing(story: Story) -> None:
    print(f"mended in {story.mended.seconds:.0f} s, again in {story.again.seconds:.0f} s")
    story.mended.ok()
    assert story.again.ok().changes == []
    for machine in (story.vm1, story.opt, story.old, story.bare, story.home, story.port):
        assert machine.run("systemctl", "is-active", "meshbridge-agent").strip() == "active"


def test_a_machine_without_a_python_or_with_an_old_one_works_with_ours(story: Story) -> None:
    story.mended.ok()
    assert "not found" in story.bare.run("sh", "-c", "python3 -V", check=False)
    assert "3.5.3" in story.old.run("python3", "-c", "import sys; print('%s.%s.%s' % sys.version_info[:3])")


def test_what_was_edited_by_hand_is_put_right(story: Story) -> None:
    edited = {task for task, host in story.mended.changes if host == "vm1"}
    assert {"Write the unit", "Write what the host offers by its own word"} <= edited
    assert "NoNewPrivileges=yes" in story.vm1.run("systemctl", "cat", "meshbridge-agent")
