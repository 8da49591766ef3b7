"""I/O: the init script of machines without systemd, run with a stand-in for the node."""

from __future__ import annotations

import getpass
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.service_scripts import render
from tests.support.traffic import eventually

ODD = ["a b", "it's", '"', "$HOME", "`x`", "\\"]

NODE = """#!{python}
import os, pathlib, signal, sys, time

place = pathlib.Path({place!r})
if sys.argv[3] == "status":
    sys.exit(0 if (place / "ready").exists() else 69)
ended = []
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: ended.append(number))
with open(place / "told", "a") as told:
    print("start", *map(repr, sys.argv[1:]), file=told)
print("words of the node", os.environ.get("CANARY"), os.umask(0o077), file=sys.stderr, flush=True)
(place / "pid").write_text(str(os.getpid()))
code = (place / "code").read_text() if (place / "code").exists() else ""
if code:
    sys.exit(int(code))
(place / "ready").touch()
while True:
    while not ended:
        time.sleep(0.02)
    number = ended.pop(0)
    with open(place / "told", "a") as told:
        print(signal.Signals(number).name, file=told)
    if number == signal.SIGTERM:
        (place / "ready").unlink()
        time.sleep(1)
        sys.exit(0)
"""


class Installed:
    """The script with its stand-in, in a directory of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        program = place / "current/bin/meshbridge"
        program.parent.mkdir(parents=True)
        program.write_text(NODE.format(python=sys.executable, place=str(place)))
        program.chmod(0o755)
        self.script = place / "meshbridge-agent"
        text = render(
            "meshbridge.init.j2",
            common_user=getpass.getuser(),
            common_prefix=str(place),
            common_home="/var/lib/mesh bridge",
            common_python=sys.executable,
            common_run_arguments=ODD,
            common_log_directory=str(place),
            common_pid_directory=str(place),
        )
        self.script.write_text(text)

    def run(self, *args: str, code: int = 0) -> str:
        environment = {**os.environ, "CANARY": "a secret of root's shell"}
        # A file, no pipe: what stays in the background would keep a pipe open.
        with open(self.place / "said", "w+") as said:
            done = subprocess.run(
                ["/bin/sh", str(self.script), *args], env=environment, stdout=said, stderr=said, timeout=60, check=False
            )
            said.seek(0)
            words = said.read()
        assert done.returncode == code, words
        return words

    def told(self) -> list[str]:
        return self.read("told").splitlines()

    def read(self, name: str) -> str:
        path = self.place / name
        return path.read_text() if path.exists() else ""

    def end(self) -> None:
        for name in ("meshbridge-agent.pid", "pid"):
            with suppress(ValueError, ProcessLookupError):
                os.kill(int(self.read(name)), signal.SIGKILL)


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    made = Installed(tmp_path)
    yield made
    made.end()


def comes(what: Callable[[], object]) -> None:
    eventually(what, timeout=20)


def test_it_starts_reloads_restarts_and_stops(installed: Installed) -> None:
    assert "does not run" in installed.run("status", code=3)
    assert installed.run("start") == "meshbridge-agent is ready\n"
    words = " ".join(["start", *map(repr, ["--home", "/var/lib/mesh bridge", "agent", "run", *ODD])])
    assert installed.told() == [words]
    assert "words of the node None 63" in installed.read("meshbridge-agent.log"), "nothing of root's environment"
    first = installed.read("pid")
    assert os.getsid(int(first)) not in (os.getsid(0), int(first)), "the keeper's session"

    assert "runs already" in installed.run("start")
    installed.run("reload")
    comes(lambda: "SIGHUP" in installed.told())
    os.kill(int(first), signal.SIGKILL)
    comes(lambda: installed.read("pid") != first and installed.told().count(words) == 2)
    assert "runs, process" in installed.run("status")

    assert installed.run("stop") == "meshbridge-agent has stopped\n"
    assert installed.told()[-1] == "SIGTERM" and not (installed.place / "ready").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(installed.read("pid")), 0)
    assert installed.told().count(words) == 2, "it waited for the drain, and nothing started it again"
    assert "does not run" in installed.run("stop")
    installed.run("reload", code=7)


@pytest.mark.parametrize("code", ["2", "64"])
def test_a_configuration_that_is_wrong_is_not_tried_again(installed: Installed, code: str) -> None:
    (installed.place / "code").write_text(code)
    assert "the end of" in installed.run("start", code=1)
    assert len(installed.told()) == 1
    installed.run("status", code=3)


def test_a_number_that_is_another_programs_by_now_is_let_alone(installed: Installed) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        (installed.place / "meshbridge-agent.pid").write_text(str(other.pid))
        assert "has ended" in installed.run("status", code=1)
        installed.run("stop")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_it_reads_as_posix_shell(installed: Installed) -> None:
    assert subprocess.run(["/bin/sh", "-n", str(installed.script)], check=True).returncode == 0
    assert shlex.quote(getpass.getuser()) in installed.script.read_text()
    assert installed.run("nonsense", code=2).startswith("usage:")
