"""I/O: how a machine is looked at before there is a Python that Ansible can use: by its shell, whatever that is."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ansible.conftest import COLLECTION
from tests.ansible.test_collection import read
from tests.support.debian_programs import NoProgram, find_program

COMMON = COLLECTION / "roles" / "common"
PARTS = ("common_find_python", "common_find_running")
"""Scripts that more than one task has in it."""


def script(file: str, **variables: str) -> str:
    """The text of the first task of a file, which is `raw`, as Ansible renders it."""
    jinja2 = pytest.importorskip("jinja2")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["quote"] = shlex.quote
    text = read(COMMON / "tasks" / file)[0]["ansible.builtin.raw"]
    found = read(COMMON / "vars" / "main.yml")
    parts = {name: environment.from_string(found[name]).render(variables) for name in PARTS if name in text}
    return str(environment.from_string(text).render({**variables, **parts}))


@pytest.fixture(params=["dash", "bash", "busybox"])
def shell(request: pytest.FixtureRequest) -> list[str]:
    found = shutil.which(request.param)
    if request.param != "busybox":
        return [found] if found else pytest.skip(f"there is no {request.param} here")
    try:
        return [str(find_program("busybox").path), "sh"]
    except NoProgram as why:
        pytest.skip(str(why))


def seen(shell: list[str], text: str, path: Path | None = None) -> dict[str, str]:
    argv = [*shell, "-c", text]
    environment = {"PATH": str(path) if path else "/usr/bin:/bin"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=30, check=True)
    assert not done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if re.match("[a-z]+=", line))


def test_what_is_there_is_seen(shell: list[str], tmp_path: Path) -> None:
    prefix = tmp_path / "odd 'name'"
    program = prefix / "1.0" / "bin" / "meshbridge"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    (prefix / "current").symlink_to("1.0")
    python = prefix / "1.0" / "python" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    variables = {
        "common_prefix": str(prefix),
        "common_version": "1.0",
        "common_node": "agent",
        "common_python": str(prefix / "current/python/bin/python3"),
        "common_python_needed": "3, 8",
        "common_operator_home": str(tmp_path),
        "common_home": str(tmp_path / "home"),
    }
    found = seen(shell, script("look.yml", **variables))
    assert found.keys() == {"arch", "init", "python", "own", "installed", "current", "runlevels", "logrotate", "runs"}
    assert (found["installed"], found["current"]) == ("yes", "1.0")
    assert found["runs"] == "no"
    assert found["own"] == str(prefix / "current/python/bin/python3")
    (prefix / "current").unlink()
    found = seen(shell, script("look.yml", **{**variables, "common_python_needed": "9, 0"}))
    # What a release has just brought serves before the link to it is made.
    assert (found["python"], found["own"]) == ("none", str(python))
    assert "current" not in found

    assert "owner" not in seen(shell, script("operator.yml", **variables))
    (tmp_path / "domain.json").touch()
    found = seen(shell, script("operator.yml", **variables))
    assert found["owner"] == str((tmp_path / "domain.json").stat().st_uid)


def test_the_release_that_runs_is_seen_whatever_current_leads_to(shell: list[str], tmp_path: Path) -> None:
    prefix, home = tmp_path / "prefix", tmp_path / "home"
    python = prefix / "1.0" / "python"
    python.parent.mkdir(parents=True)
    # A program that waits, and whose words are those of a node.
    shutil.copy(shutil.which("sh") or "", python)
    (prefix / "current").symlink_to("2.0")
    variables = {
        "common_prefix": str(prefix),
        "common_version": "2.0",
        "common_node": "agent",
        "common_python": str(prefix / "current/python/bin/python3"),
        "common_python_needed": "3, 8",
        "common_home": str(home),
    }
    text = script("look.yml", **variables)
    words = ["-m", "cli.start", "--home", str(home), "agent", "run"]
    with subprocess.Popen([python, "-c", "read line", *words], stdin=subprocess.PIPE) as node:
        assert seen(shell, text)["running"] == "1.0"
        node.kill()
    with subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE) as other:
        assert "running" not in seen(shell, text), "a program from elsewhere"
        other.kill()
    assert "running" not in seen(shell, text)
