"""I/O: keys that others can read, files of somebody else, a home that others can write to: no start, and the exact
command that puts it right, which does."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.estate import OPERATOR, Estate
from tests.support.processes import RunningProcess

NOBODY = 65534


def refused(estate: Estate, home: str, *command: str) -> str:
    """The command that the refusal tells to give."""
    done = estate.cli(home, *command)
    assert done.returncode == 64, f"{command}: exit {done.returncode}\n{done.stderr}"
    found = re.search(r"(chmod|chown) \S+ \S+", done.stderr)
    assert found, done.stderr
    return found[0]


def repair(command: str) -> None:
    subprocess.run(shlex.split(command), check=True)


def test_f28_an_unsafe_home_is_refused_with_the_command_that_repairs_it(estate: Estate) -> None:
    estate.init()
    estate.start_gateway()
    estate.add_host("vm1")
    estate.terminate(OPERATOR)
    agent, gateway = ("vm1", "agent", "run"), (OPERATOR, "gateway", "run")
    for home, *run in (agent, gateway):
        unsafe(estate.home(home) / "identity.pem", 0o644, "chmod 600", lambda h=home, r=run: refused(estate, h, *r))
        unsafe(estate.home(home), 0o777, "chmod go-w", lambda h=home, r=run: refused(estate, h, *r))
    unsafe(estate.home(OPERATOR) / "issuer.pem", 0o644, "chmod 600", lambda: refused(estate, *gateway))
    signing = (OPERATOR, "host", "add", "vm9")
    unsafe(estate.home(OPERATOR) / "operator.key", 0o640, "chmod 600", lambda: refused(estate, *signing))

    started: list[RunningProcess] = [estate.start_gateway(), estate.start_agent("vm1")]
    assert all(process.running for process in started)


@pytest.mark.root
def test_f28_files_of_somebody_else_are_refused(estate: Estate) -> None:
    estate.init()
    estate.start_gateway()
    estate.add_host("vm1")
    path = estate.home("vm1") / "identity.pem"
    os.chown(path, NOBODY, -1)
    command = refused(estate, "vm1", "agent", "run")
    assert command == f"chown {os.geteuid()} {path}"
    repair(command)
    estate.start_agent("vm1")


def unsafe(path: Path, mode: int, command: str, attempt: Callable[[], str]) -> None:
    path.chmod(mode)
    said = attempt()
    assert said == f"{command} {path}"
    repair(said)
