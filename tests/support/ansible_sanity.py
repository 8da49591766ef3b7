"""I/O: `ansible-test sanity` without containers: its environments, made once in build/, and a run that fetches nothing.

    python -m tests.support.ansible_sanity     makes them; needs whatever pip installs from

Each of its tests runs in an environment of its own with pinned tools, and on every Python that this ansible-core can
run modules on, as far as this machine has them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "build" / "sanity"
"""ansible-test keeps its environments below it. Short, since programs in them name their Python in one line."""
PREPARE_TIMEOUT = 600
RUN_TIMEOUT = 300

BRING_PIP = "import ensurepip\nensurepip.bootstrap(default_pip=True)\n"
"""In place of get-pip.py, which ansible-test would fetch from a server of its own."""


@dataclass(frozen=True)
class Outcome:
    failed: str
    """What is wrong; empty when nothing is."""
    skipped: str
    """Why it did not run; empty when it did."""


def pythons() -> list[Path]:
    """One for each version, the oldest first. Tried: version managers leave launchers that only print an error."""
    found: dict[str, Path] = {}
    managed = sorted(Path.home().glob(".pyenv/versions/*/bin"))
    for folder in [*managed, *(Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry)]:
        for program in sorted(folder.glob("python3.*")):
            if re.fullmatch(r"python3\.\d+", program.name) and program.name not in found:
                argv = [program, "-c", "import venv, ensurepip"]
                if subprocess.run(argv, capture_output=True, timeout=30, check=False).returncode == 0:
                    found[program.name] = program
    return [found[name] for name in sorted(found, key=lambda name: int(name.partition(".")[2]))]


def place_collection(into: Path) -> Path:
    """A copy where ansible-test wants it: it follows no links, and inside a repository it asks git for the files."""
    place = into / "ansible_collections" / "meshbridge" / "bridge"
    shutil.copytree(ROOT / "ansible", place, ignore=shutil.ignore_patterns("__pycache__", "*.tar.gz"))
    return place


def prepare() -> None:
    """Makes the environments, unless those of this ansible-core and these Pythons are there."""
    ready, wanted = HOME / "ready", _signature()
    if ready.exists() and ready.read_text() == wanted:
        return
    print("setting up ansible-test's environments in build/sanity, once", file=sys.stderr)
    shutil.rmtree(HOME, ignore_errors=True)
    cache = HOME / ".ansible/test/cache"
    cache.mkdir(parents=True)
    for number in _pip_versions():
        (cache / f"get_pip_{number.replace('.', '_')}.py").write_text(BRING_PIP)
    with tempfile.TemporaryDirectory() as scratch:
        done = _ansible_test(place_collection(Path(scratch)), "--prime-venvs", timeout=PREPARE_TIMEOUT)
    if done.returncode != 0:
        sys.exit(f"ansible-test's environments cannot be made:\n{done.stdout[-3000:]}")
    ready.write_text(wanted)


def why_not() -> str | None:
    """Why `run` would fetch something; None when everything is there."""
    ready = HOME / "ready"
    if ready.exists() and ready.read_text() == _signature():
        return None
    return "ansible-test's environments are not in build/sanity; `make test-ansible` makes them"


def run(collection: Path, *args: str, search: tuple[Path, ...] = ()) -> tuple[dict[str, Outcome], str]:
    """The outcomes by test and Python, as `import-python-3.9`, and everything that was printed."""
    done = _ansible_test(collection, "--junit", *args, search=search, timeout=RUN_TIMEOUT)
    outcomes = {}
    for report in (collection / "tests/output/junit").glob("*.xml"):
        for case in ElementTree.parse(report).iter("testcase"):
            failure, skipped = case.find("failure"), case.find("skipped")
            outcomes[case.attrib["name"]] = Outcome(
                "" if failure is None else failure.text or failure.attrib.get("message", "it failed"),
                "" if skipped is None else skipped.text or "it was skipped",
            )
    failed = any(outcome.failed for outcome in outcomes.values())
    assert (done.returncode == 0) == (not failed and bool(outcomes)), done.stdout
    return outcomes, done.stdout


def _ansible_test(
    collection: Path, *args: str, search: tuple[Path, ...] = (), timeout: float
) -> subprocess.CompletedProcess[str]:
    own = Path(sys.executable).parent
    folders = dict.fromkeys([own, *(path.parent for path in (*pythons(), *search)), Path("/usr/bin"), Path("/bin")])
    environment = {"HOME": str(HOME), "LC_ALL": "C.UTF-8", "PATH": os.pathsep.join(map(str, folders))}
    if "--prime-venvs" in args:
        environment = {**os.environ, **environment, **_pip_configuration()}
    else:
        environment["PIP_NO_INDEX"] = "1"
    argv = [str(own / "ansible-test"), "sanity", "--color", "no", *args]
    return subprocess.run(
        argv, cwd=collection, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def _pip_configuration() -> dict[str, str]:
    """The user's own, which pip does not find with another home."""
    usual = (Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf")
    given = os.environ.get("PIP_CONFIG_FILE") or next((str(path) for path in usual if path.exists()), None)
    return {"PIP_CONFIG_FILE": given} if given else {}


def _signature() -> str:
    return "\n".join([version("ansible-core"), sys.executable, *map(str, pythons())])


def _pip_versions() -> list[str]:
    spec = importlib.util.find_spec("ansible_test")
    assert spec is not None and spec.submodule_search_locations
    text = (Path(spec.submodule_search_locations[0]) / "_internal/python_requirements.py").read_text()
    return sorted(set(re.findall(r"""pip=["']([\d.]+)["']""", text)))


if __name__ == "__main__":
    prepare()
