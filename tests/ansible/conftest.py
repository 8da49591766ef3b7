"""I/O: what the tests of the collection get: the collection where Ansible looks for one, an estate, a module's answer.

`make test-ansible` installs ansible-core and runs them; `make test` never does. Here `ansible` without more is our own
folder, which Python takes for a package when the real one is not there: hence the look for something inside.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ansible_estate import AnsibleEstate
from tests.support.debian_programs import NoProgram

ROOT = Path(__file__).parents[2]
COLLECTION = ROOT / "ansible"
NAMESPACE = "ansible_collections.meshbridge.bridge.plugins"


def has_ansible() -> bool:
    try:
        return importlib.util.find_spec("ansible.release") is not None
    except ModuleNotFoundError:
        return False


LONG_FILES = frozenset(
    f"test_{name}.py"
    for name in ("consul", "rotate_and_adopt", "secrets_are_nowhere", "upgrade", "what_goes_wrong_is_said")
)
"""Many runs of playbooks on machines. `make test-ansible ARGS="-m 'not slow'"` leaves them out, as CI does."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in LONG_FILES and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)
    if has_ansible():
        return
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(
                pytest.mark.skip(reason="ansible-core is not installed here; `make test-ansible` installs it")
            )


def link_collection(into: Path) -> Path:
    """Lint, playbooks and imports all want it below `ansible_collections/<namespace>/<name>`."""
    place = into / "ansible_collections" / "meshbridge" / "bridge"
    place.parent.mkdir(parents=True)
    place.symlink_to(COLLECTION)
    return into


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = link_collection(tmp_path_factory.mktemp("collections"))
    sys.path.insert(0, str(place))
    yield place
    sys.path.remove(str(place))


@pytest.fixture(scope="session")
def program() -> Path:
    return Path(sys.executable).parent / "meshbridge"


@pytest.fixture(scope="session")
def new_estate(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Path:
    home = tmp_path_factory.mktemp("estate") / "op"
    argv = [program, "--home", home, "init", "--domain", "t.internal", "--gateway", "gw1=127.0.0.1:7443"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return home


@pytest.fixture
def home(new_estate: Path, tmp_path: Path) -> Path:
    """An operator's home, with no node running."""
    return shutil.copytree(new_estate, tmp_path / "op")


Answer = dict[str, Any]
RunModule = Callable[..., Answer]


@pytest.fixture
def run_module(collections: Path, program: Path, home: Path, tmp_path: Path) -> RunModule:
    """Runs a module as Ansible does, in a process of its own; what it answered. All of it must be without a token."""

    def run(module: str, /, *, plan: bool = False, **given: Any) -> Answer:
        args = {"home": str(home), "command": str(program), **given, "_ansible_check_mode": plan, "_ansible_diff": True}
        environment = {**os.environ, "PYTHONPATH": str(collections), "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", f"{NAMESPACE}.modules.{module}"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": args}),
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        assert done.stdout, done.stderr
        assert "mb1_" not in done.stdout and '"token"' not in done.stdout
        answer: Answer = json.loads(done.stdout)
        return answer

    return run


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnsibleEstate]:
    """On four machines; shared by the tests that do something to what is there, each of which leaves it well."""
    try:
        with AnsibleEstate(tmp_path_factory.mktemp("estate-of-machines")) as estate:
            yield estate
    except NoProgram as why:
        pytest.skip(str(why))
