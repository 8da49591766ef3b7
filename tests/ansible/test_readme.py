"""I/O: the collection's README as somebody reads it who has nothing else: its tables are the roles', its files and
commands are such as Ansible and the program take, and the collection can be carried to where no network is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ansible.conftest import COLLECTION

README = (COLLECTION / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
ROLES = sorted(path.parent.name for path in (COLLECTION / "roles").glob("*/meta"))
PLAYBOOKS = sorted(path.stem for path in (COLLECTION / "playbooks").glob("*.yml"))
SOURCES = [path for kind in ("*.yml", "*.j2") for path in COLLECTION.rglob(kind)]
OWN = {
    *("meshbridge_host", "meshbridge_service"),  # modules
    *("meshbridge_gateways", "meshbridge_agents", "meshbridge_agentless"),  # groups
}
"""What is called so and is no variable."""


def read(path: Path) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def made(tasks: Any) -> Iterator[str]:
    """What playbooks and roles give one another, and nobody sets."""
    if isinstance(tasks, list):
        for task in tasks:
            yield from made(task)
    elif isinstance(tasks, dict):
        for key, value in tasks.items():
            if key in ("register", "loop_var"):
                yield str(value)
            elif key in ("vars", "ansible.builtin.set_fact"):
                yield from value
            yield from made(value)


def block(kind: str, after: str) -> str:
    """The first block of that kind after these words."""
    found = re.search(rf"```{kind}\n(.*?)```", README[README.index(after) :], re.DOTALL)
    assert found is not None
    return found[1]


def rows(heading: str) -> dict[str, tuple[str, str]]:
    """Of the tables below a heading, variable -> default and meaning."""
    text = README[README.index(f"## {heading}\n") :].partition("\n## ")[0]
    found = {}
    for line in re.findall(r"^\| (`\w.*) \|$", text, re.MULTILINE):
        names, default, meaning = line.split(" | ") if line.count(" | ") == 2 else (*line.split(" | "), "")
        for name in re.findall(r"`(\w+)`", names):
            found[name] = (default.strip("| "), meaning)
    return found


def shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "empty" if default == "" else str(default)


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_of_a_role_is_documented_as_it_is(role: str) -> None:
    defaults = read(COLLECTION / "roles" / role / "defaults" / "main.yml")
    specified = read(COLLECTION / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    documented = {name: row for name, row in rows("Variables of the roles").items() if name.startswith(f"{role}_")}
    assert set(defaults) == set(specified) == set(documented)
    for name, (default, meaning) in documented.items():
        assert meaning.rstrip(".") == specified[name]["description"].rstrip("."), name
        value = defaults[name]
        if isinstance(value, str) and "{{" in value:
            for given, otherwise in re.findall(r"\b(meshbridge_\w+) \| default\((?:'([^']*)'|.*?)[,)]", value):
                assert given in default and otherwise in default, name
        else:
            assert default == shown(value), name


def test_every_variable_for_everything_is_documented_and_no_other() -> None:
    used = {name for path in SOURCES for name in re.findall(r"\b((?:meshbridge|adopt)_\w+)", path.read_text("utf-8"))}
    documented = {*rows("Variables for everything"), *rows("The operator's machine")}
    made_here = {name for path in COLLECTION.rglob("*.yml") for name in made(read(path))}
    assert used - OWN - (made_here - documented) == documented


def test_the_five_minute_path_is_such_as_ansible_and_the_program_take(
    collections: Path, home: Path, program: Path, tmp_path: Path
) -> None:
    (tmp_path / "inventory.yml").write_text(block("yaml", "`inventory.yml`"))
    (tmp_path / "estate.yml").write_text(block("yaml", "`estate.yml`"))
    (tmp_path / "policy.toml").write_text(block("toml", "`policy.toml`"))
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path), "ANSIBLE_COLLECTIONS_PATH": str(collections)}

    def run(*argv: str | Path) -> str:
        done = subprocess.run(
            argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    groups = json.loads(run(BIN / "ansible-inventory", "-i", "inventory.yml", "--list"))
    hosts = groups["_meta"]["hostvars"]
    known = {*rows("Variables of the roles"), *rows("Variables for everything"), "ansible_host", "ansible_user"}
    assert {name for host in hosts.values() for name in host} <= known
    assert read(tmp_path / "estate.yml").keys() <= known
    commands = [shlex.split(line) for line in block("sh", "lets the gateway log in").splitlines()]
    assert [command[0] for command in commands] == ["ansible-playbook", "ansible-playbook"]
    for command in commands:
        run(BIN / command[0], *command[1:], "--syntax-check")
    # The policy fits an estate with those hosts and services.
    operate = (program, "--home", home, "-o", "json")
    for name in groups["meshbridge_agents"]["hosts"]:
        run(*operate, "host", "add", name)
    for service in read(tmp_path / "estate.yml")["meshbridge_services"]:
        run(*operate, "service", "add", service["name"], "--host", "vm1", "--target", service["target"])
    assert not json.loads(run(*operate, "policy", "check", "policy.toml"))["unmatched"]


def test_the_collection_is_built_whole_and_installed_where_no_network_is(tmp_path: Path) -> None:
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}

    def run(program: str, *words: str) -> str:
        done = subprocess.run(
            [BIN / program, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("ansible-galaxy", "collection", "build", "--output-path", "dist", str(COLLECTION))
    [made] = (tmp_path / "dist").iterdir()
    assert f"`{made.name}`" in README
    with tarfile.open(made) as packed:
        inside = {member.name for member in packed.getmembers() if member.isfile()}
    listed = subprocess.run(["git", "ls-files", "."], cwd=COLLECTION, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        assert inside - {"MANIFEST.json", "FILES.json"} == set(listed.stdout.split()) - {"galaxy.yml"}
    run("ansible-galaxy", "collection", "install", "--offline", str(made))
    assert "meshbridge.bridge" in run("ansible-galaxy", "collection", "list")
    (tmp_path / "inventory.yml").write_text(block("yaml", "`inventory.yml`"))
    for playbook in PLAYBOOKS:
        run("ansible-playbook", "-i", "inventory.yml", "--syntax-check", f"meshbridge.bridge.{playbook}")
        assert f"| `{playbook}" in README
    for kind, name in re.findall(r"`ansible-doc -t (\w+) (meshbridge\.bridge\.\w+)`", README):
        assert name in run("ansible-doc", "-t", kind, "--json", name)
