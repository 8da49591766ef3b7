"""I/O: C45. The roles run at -vvv with --diff, well and forced to fail wherever a secret is at hand. Tokens, keys and
what else nobody may see are then looked for: in the output, in Ansible's log, in every command line and environment
that there was meanwhile on the controller and on the machines, and on the disk, with all that was removed from it.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import secret_forms, secret_hunt
from tests.support.ansible_controller import Controller, Played
from tests.support.archives import make_archive
from tests.support.debian_programs import NoProgram
from tests.support.machine_faults import DAY, fill, mend, set_clock_right, shift_clock
from tests.support.machines import CONTROLLER, SSHD_ONLY, Machine, Machines
from tests.support.process_watch import ProcessWatch
from tests.support.secret_forms import TOKEN, Secret
from tests.support.sshd import keygen
from tests.support.traffic import eventually

GATEWAY_HOME = "var/lib/meshbridge/gateway"
GATEWAY_KEYS = ("operator.key", "root.key", "identity.pem", "issuer.pem", "seal.key", "ssh_ca.key")
AGENT_KEY = "var/lib/meshbridge/agent/identity.pem"
BAD_KEY = "b3BlbnNzaC1rZXktdjEThisIsNoKeyButNobodyMayReadItAllTheSame0123456789"
VERBOSE = ("-vvv", "--diff")
# It takes down what the command prints where no search looks, for the test to know what to look for.
WITNESS = """#!/bin/sh
case " $* " in
    *" host token "* | *" host add "*)
        said=$(/opt/meshbridge/current/bin/meshbridge "$@")
        code=$?
        printf '%s\\n' "$said" | tee -a /run/witness
        exit $code
        ;;
esac
exec /opt/meshbridge/current/bin/meshbridge "$@"
"""


class Hunt:
    """A gateway, three hosts and a host without agent, on a disk of their own; the runs, and what they said."""

    def __init__(self, machines: Machines, place: Path) -> None:
        self.machines = machines
        self.place = place
        self.controller = Controller(machines, place)
        self.controller.variables = {
            "meshbridge_domain": "corp.internal",
            "meshbridge_archive_directory": str(make_archive().parent),
            "meshbridge_operator_command": "/usr/local/bin/witness",
            "common_ready_seconds": 30,
        }
        temporary = place / "controller-tmp"
        temporary.mkdir()
        # As Ansible comes, so that modules are files; those that get a secret have to see to it themselves.
        self.controller.pipelining = False
        self.controller.settings = {
            "ANSIBLE_LOG_PATH": str(place / "ansible.log"),
            "ANSIBLE_RETRY_FILES_ENABLED": "1",
            "ANSIBLE_CACHE_PLUGIN": "jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(place / "facts"),
            "TMPDIR": str(temporary),
        }
        self.gateway = self._boot("gw1", "10.79.0.10", "meshbridge_gateways")
        self.agents = [self._boot(f"vm{number}", f"10.79.0.1{number}", "meshbridge_agents") for number in (1, 2, 3)]
        self.box = machines.boot("box", "bookworm", "10.79.0.20", init=SSHD_ONLY)
        witness = self.gateway.root / "usr/local/bin/witness"
        witness.write_text(WITNESS)
        witness.chmod(0o755)
        self.texts: dict[str, str] = {}
        self.keys: dict[str, tuple[Secret, Machine, str]] = {}
        """By name: the secret, and the machine and file where it belongs."""

    def _boot(self, name: str, address: str, group: str) -> Machine:
        machine = self.machines.boot(name, "bookworm", address)
        self.controller.add(group, machine)
        return machine

    @property
    def spaces(self) -> list[str]:
        names = [CONTROLLER, *self.machines.all]
        return [self.machines.network.space(name) for name in names]

    def site(self, what: str, *options: str) -> Played:
        played = self.controller.play("site", *VERBOSE, *options)
        self.texts[what] = played.text
        return played

    # --- what happens ---------------------------------------------------------------------------------------------

    def tell(self) -> None:
        self.site("the gateway", "--limit", "gw1").ok()
        self._bring_login_keys()
        _, vm2, vm3 = self.agents
        self.machines.network.part("vm1", "gw1", "lan")
        shift_clock(vm2, 30 * DAY)
        fill(vm3, "/var/lib/meshbridge", "16k")
        self._bad_login_key()
        self.failed = self.site("everything fails")
        self._killed_in_the_middle()
        self.machines.network.meet("vm1", "gw1", "lan")
        set_clock_right(vm2)
        mend(vm3, "/var/lib/meshbridge")
        self._good_login_key()
        self.mended = self.site("everything works").ok()
        rotated = self.controller.play("rotate", *VERBOSE, "--limit", "vm1").ok()
        self.texts["rotation"] = rotated.text
        self._gather()

    def _bring_login_keys(self) -> None:
        etc = self.gateway.root / "etc"
        keygen(self.place / "box-login")
        (etc / "box.key").write_bytes((self.place / "box-login").read_bytes())
        (self.place / "box-login").unlink()
        kind = "OPENSSH PRIVATE KEY-----"
        (etc / "bad.key").write_text(f"-----BEGIN {kind}\n{BAD_KEY}\n-----END {kind}\n")
        (self.box.root / "root/.ssh/authorized_keys").write_text((self.place / "box-login.pub").read_text())
        self.gateway.run("chown", "meshbridge", "/etc/box.key", "/etc/bad.key")
        self.gateway.run("chmod", "600", "/etc/box.key", "/etc/bad.key")

    def _bad_login_key(self) -> None:
        host_key = self.place / "box-host.pub"
        host_key.write_text(self.box.run("cat", "/etc/ssh/ssh_host_ed25519_key.pub"))
        self.controller.add(
            "meshbridge_agentless",
            self.box,
            meshbridge_reach="ssh://root@10.79.0.20",
            meshbridge_via="gw1",
            meshbridge_host_key=str(host_key),
            meshbridge_login_key="/etc/bad.key",
        )

    def _good_login_key(self) -> None:
        self.controller.groups["meshbridge_agentless"]["box"]["meshbridge_login_key"] = "/etc/box.key"

    def _killed_in_the_middle(self) -> None:
        """Between a token and its use: the gateway that is to be asked with it is not reached."""
        before = len(self.tokens())
        with self.controller.begin("site", *VERBOSE, "--limit", "vm1", "--tags", "enrol") as playing:
            eventually(lambda: len(self.tokens()) > before, timeout=60, what="a token")
            time.sleep(3)  # it is on its way to the machine, or there
            self.texts["killed"] = playing.kill().text

    def tokens(self) -> list[str]:
        witness = self.gateway.root / "run/witness"
        said = witness.read_bytes() if witness.exists() else b""
        return sorted({token.decode() for token in TOKEN.findall(said)})

    def _gather(self) -> None:
        self.tokens_made = [secret_forms.of_token(f"token {n}", token) for n, token in enumerate(self.tokens())]
        own = [(self.gateway, f"{GATEWAY_HOME}/{name}") for name in GATEWAY_KEYS]
        own += [(machine, AGENT_KEY) for machine in self.agents]
        own += [(self.gateway, "etc/box.key")]
        for machine, path in own:
            name = f"{machine.name}:{path}"
            self.keys[name] = (secret_forms.of_key_file(name, (machine.root / path).read_bytes()), machine, path)
        bad = secret_forms.of_text("gw1:etc/bad.key", BAD_KEY)
        self.keys[bad.name] = (bad, self.gateway, "etc/bad.key")
        for machine in (self.gateway, *self.agents):
            self.texts[f"journal of {machine.name}"] = machine.run("journalctl", "--no-pager", "-o", "export")

    # --- what is found --------------------------------------------------------------------------------------------

    @property
    def secrets(self) -> list[Secret]:
        return [*self.tokens_made, *(secret for secret, _, _ in self.keys.values())]

    def layer(self, machine: Machine, path: str = "") -> Path:
        return self.place / machine.name / "upper" / path

    def files(self) -> list[Path]:
        """Everything on the disk, and what machines have in memory instead."""
        volatile = [machine.root / folder for machine in (self.gateway, *self.agents) for folder in ("tmp", "dev/shm")]
        running = [path for machine in self.agents for path in (machine.root / "run").iterdir()]
        running += [path for path in (self.gateway.root / "run").iterdir() if path.name != "witness"]
        # The processes that were seen are searched for themselves.
        kept = [path for path in self.place.iterdir() if path.name != "processes"]
        return [*kept, *volatile, *running]


@pytest.fixture(scope="module")
def hunt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hunt]:
    above = tmp_path_factory.mktemp("hunt")
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(secret_hunt.disk(above / "disk"))
        try:
            machines = stack.enter_context(Machines(place))
            told = Hunt(machines, place)
        except NoProgram as why:
            pytest.skip(str(why))
        with ProcessWatch(place, told.spaces) as watch:
            told.watch = watch
            told.tell()
        yield told


def test_c45_the_runs_failed_where_a_secret_was_at_hand(hunt: Hunt) -> None:
    """Otherwise the rest would prove little."""
    for host, expected in {
        "vm1": "no gateway could enrol this host",
        "vm2": "our clock says",
        "vm3": "no space left",
        "box": "bad.key",
    }.items():
        print(host, hunt.failed.last_words[host])
        assert expected in hunt.failed.last_words[host]
    assert len(hunt.tokens_made) >= 7
    assert "TASK" in hunt.texts["killed"]


def test_c45_no_secret_is_in_any_output_or_journal(hunt: Hunt) -> None:
    for where, text in hunt.texts.items():
        assert secret_hunt.in_text(hunt.secrets, where, text) == set()
        assert not re.search(TOKEN.pattern.decode(), text), where


def test_c45_no_secret_was_in_a_command_line_or_an_environment(hunt: Hunt) -> None:
    seen = hunt.watch.seen
    assert b"meshbridge" in seen.read_bytes() and b"host\0token" in seen.read_bytes()
    print(f"{seen.stat().st_size} bytes of command lines and environments")
    assert secret_hunt.in_places(hunt.secrets, seen) == set()


def test_c45_a_token_is_in_no_file_and_was_in_none(hunt: Hunt) -> None:
    os.sync()
    assert secret_hunt.in_places(hunt.tokens_made, *hunt.files()) == set()
    assert secret_hunt.in_places(hunt.tokens_made, hunt.place.with_suffix("")) == set()


def test_c45_a_key_is_in_its_own_file_and_nowhere_else(hunt: Hunt) -> None:
    found = secret_hunt.in_places([secret for secret, _, _ in hunt.keys.values()], *hunt.files())
    own = {(name, str(hunt.layer(machine, path))) for name, (_, machine, path) in hunt.keys.items()}
    assert found == own
    for _, machine, path in hunt.keys.values():
        assert machine.run("stat", "-c", "%U %a", f"/{path}").split() == ["meshbridge", "600"], path


def test_c45_what_is_put_there_on_purpose_is_found(hunt: Hunt) -> None:
    """Where each of these tests looks, a secret of the real ones is left, in another form each time."""
    vm1, secret = hunt.agents[0], hunt.tokens_made[0]
    forms = sorted(secret.needles)
    typed = [form.decode() for form in forms if form.isascii()]
    with ProcessWatch(hunt.place, hunt.spaces) as watch:
        vm1.run("sh", "-c", 'sleep 0.1; true "$1"', "sh", typed[0])
    assert secret_hunt.in_places([secret], watch.seen) == {(secret.name, str(watch.seen))}
    watch.seen.unlink()
    with ProcessWatch(hunt.place, hunt.spaces) as watch:
        vm1.run("env", f"CANARY={typed[-1]}", "sleep", "0.1")
    assert secret_hunt.in_places([secret], watch.seen) == {(secret.name, str(watch.seen))}
    watch.seen.unlink()
    for number, form in enumerate(forms):
        path = hunt.layer(vm1, f"planted-{number}")
        (vm1.root / path.name).write_bytes(b"\xff\0before" + form + b"after")
        assert secret_hunt.in_places([secret], hunt.place / "vm1") == {(secret.name, str(path))}
        assert secret_hunt.in_text([secret], "here", form.decode(errors="surrogateescape"))
        os.sync()
        (vm1.root / path.name).unlink()
    os.sync()
    image = hunt.place.with_suffix("")
    assert secret_hunt.in_places([secret], image) == {(secret.name, str(image))}
