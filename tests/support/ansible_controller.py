"""I/O: Ansible on a controller beside the machines of a test, as a new user has it: the collection installed from the
checkout, an inventory, a file of variables, ssh.

    controller = Controller(machines, tmp_path)
    controller.inventory = {"meshbridge_gateways": {"gw1": {...}}, ...}
    played = controller.play("site", "--check", "--diff")
    played.changed("vm1"), played.failed, played.text
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.machines import Machine, Machines

COLLECTION = Path(__file__).parents[2] / "ansible"
BIN = Path(sys.executable).parent
PLAY_TIMEOUT = 400.0
_RECAP = re.compile(r"^(\S+) +: (ok=.*)$", re.MULTILINE)
_TASK = re.compile(r"^TASK \[(.*?)\] \*+$")
_CHANGED = re.compile(r"^changed: \[([\w.-]+)")
_FAILED = re.compile(r"^(?:fatal|failed): \[([\w.-]+)[^]]*\](?: \(.*\))?(?:: \w+!)? => (?=\{)", re.MULTILINE)

Hosts = dict[str, dict[str, Any]]
"""By the inventory's name, a host's variables."""


@dataclass(frozen=True)
class Played:
    """What a run of a playbook printed, and how it ended."""

    code: int
    text: str
    seconds: float

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """By host: `ok`, `changed`, `unreachable`, `failed`, `rescued`, ... as Ansible counts them."""
        return {
            host: {key: int(value) for key, value in (word.split("=") for word in counts.split())}
            for host, counts in _RECAP.findall(self.text)
        }

    def total(self, what: str) -> int:
        return sum(counts[what] for counts in self.recap.values())

    @property
    def changes(self) -> list[tuple[str, str]]:
        """What changed where: `(task, host)`."""
        found, task = [], ""
        for line in self.text.splitlines():
            if named := _TASK.match(line):
                task = named[1]
            elif changed := _CHANGED.match(line):
                found.append((task.rpartition(" : ")[2], changed[1]))
        return found

    @property
    def failures(self) -> list[str]:
        """The messages with which tasks failed."""
        found = re.findall(r'^(?:fatal|failed): \[.*?"msg": "((?:[^"\\]|\\.)*)"', self.text, re.MULTILINE)
        return [json.loads(f'"{text}"') for text in found]

    @property
    def last_words(self) -> dict[str, str]:
        """By host, the message with which the last of its tasks failed."""
        words = {}
        for failed in _FAILED.finditer(self.text):
            # Of many lines when the run is verbose.
            answer, _ = json.JSONDecoder().raw_decode(self.text, failed.end())
            words[failed[1]] = str(answer["msg"])
        return words

    def ok(self) -> Played:
        assert self.code == 0, "\n".join(self.failures) + "\n" + self.text[-6000:]
        return self


class Playing:
    """A run that is under way. Leaving the block ends it as if its terminal were gone, with all that it started."""

    def __init__(self, command: list[str], place: Path, environment: dict[str, str]) -> None:
        self._began = time.monotonic()
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed where this ends
        self._process = subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, timeout: float = PLAY_TIMEOUT) -> Played:
        self._process.wait(timeout)
        return self._played()

    def kill(self) -> Played:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        return self._played()

    def _played(self) -> Played:
        self._output.seek(0)
        return Played(self._process.returncode, self._output.read(), time.monotonic() - self._began)

    def __enter__(self) -> Playing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.kill()
        self._output.close()


class Controller:
    """Whoever runs Ansible. It sees this machine's files, and the network of the machines."""

    def __init__(self, machines: Machines, place: Path) -> None:
        self._machines = machines
        self.place = place / "controller"
        self.home = place / "home"
        self.groups: dict[str, Hosts] = {}
        self.variables: dict[str, Any] = {}
        self.pipelining = True
        """Not Ansible's default: faster by half."""
        self.settings: dict[str, str] = {}
        """Of Ansible itself, by the environment: `ANSIBLE_LOG_PATH` and the like."""
        for folder in (self.place, self.home):
            folder.mkdir()
        self.command("ansible-galaxy", "collection", "install", str(COLLECTION)).ok()

    def add(self, group: str, machine: Machine, **variables: Any) -> None:
        """A machine of the inventory, known by its address and reached as root with the key of the test."""
        self.groups.setdefault(group, {})[machine.name] = {"ansible_host": machine.address, **variables}

    def play(self, playbook: str, *options: str, timeout: float = PLAY_TIMEOUT, **variables: Any) -> Played:
        """One of the collection's playbooks, or a file."""
        with self.begin(playbook, *options, **variables) as playing:
            return playing.wait(timeout)

    def begin(self, playbook: str, *options: str, **variables: Any) -> Playing:
        self._write()
        name = playbook if "/" in playbook else f"meshbridge.bridge.{playbook}"
        extra = ["-e", json.dumps(variables)] if variables else []
        words = ["-i", "inventory.json", "-e", "@estate.json", name, *options, *extra]
        return self._start("ansible-playbook", *words)

    def command(self, program: str, *words: str, timeout: float = PLAY_TIMEOUT) -> Played:
        with self._start(program, *words) as playing:
            return playing.wait(timeout)

    def _start(self, program: str, *words: str) -> Playing:
        return Playing([*self._machines.controller, str(BIN / program), *words], self.place, self.environment)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        ours = {"HOME": str(self.home), "ANSIBLE_PIPELINING": str(self.pipelining)}
        return {**kept, **ours, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "false", **self.settings}

    def _write(self) -> None:
        known = "-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=known_hosts -o ServerAliveInterval=10"
        everybody = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self._machines.key),
            "ansible_ssh_common_args": known,
            "ansible_become_method": "su",
        }
        groups = {name: {"hosts": hosts} for name, hosts in self.groups.items()}
        inventory = {"all": {"vars": everybody, "children": groups}}
        (self.place / "inventory.json").write_text(json.dumps(inventory, indent=2))
        (self.place / "estate.json").write_text(json.dumps(self.variables, indent=2))
