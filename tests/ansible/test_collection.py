"""I/O: the collection itself: lint, variables that are documented as they are, secrets that no task shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ansible.conftest import COLLECTION
from tests.support.ansible_sanity import place_collection

ROLES = sorted(path.parent.name for path in (COLLECTION / "roles").glob("*/meta"))
TASK_FILES = sorted(
    path
    for pattern in ("roles/*/tasks/*.yml", "roles/*/handlers/*.yml", "playbooks/**/*.yml")
    for path in COLLECTION.glob(pattern)
)


def read(path: Path) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def tasks_in(node: Any) -> Iterator[dict[str, Any]]:
    """Every task of a file, those in blocks and plays too."""
    if isinstance(node, list):
        for item in node:
            yield from tasks_in(item)
    elif isinstance(node, dict):
        if "name" in node and "hosts" not in node and "block" not in node:
            yield node
        for key in ("tasks", "handlers", "block", "rescue", "always"):
            yield from tasks_in(node.get(key))


def lint(place: Path, home: Path, *files: str) -> subprocess.CompletedProcess[str]:
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(place.parents[2]),
        "ANSIBLE_HOME": str(home),
        # Nothing that it could fetch.
        "https_proxy": "http://127.0.0.1:9",
    }
    argv = [bin_folder / "ansible-lint", "--offline", "--profile", "production", "--nocolor", *files]
    return subprocess.run(argv, cwd=place, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_ansible_lint_s_production_profile_is_clean(collections: Path, tmp_path: Path) -> None:
    done = lint(collections / "ansible_collections" / "meshbridge" / "bridge", tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    found = re.search(r"0 failure\(s\), 0 warning\(s\) in (\d+) files processed", said)
    assert found is not None and "Profile 'production' was required, and it passed." in said, said
    sources = [path for pattern in ("*.yml", "*.py", "*.j2", "*.md") for path in COLLECTION.rglob(pattern)]
    assert int(found[1]) >= len(sources) > 50, f"it looked at {found[1]} of {len(sources)} files"
    assert not [path for path in sources if "noqa" in path.read_text(encoding="utf-8")], "nothing is kept from it"


def test_ansible_lint_would_say_what_is_wrong(tmp_path: Path) -> None:
    place = place_collection(tmp_path)
    path = place / "roles/common/tasks/started.yml"
    path.write_text(path.read_text().replace("ansible.builtin.systemd_service:", "systemd_service:"))
    done = lint(place, tmp_path / "home", str(path.relative_to(place)))
    assert done.returncode == 2 and "fqcn" in done.stdout, done.stdout + done.stderr


def test_the_versions_agree() -> None:
    project = (COLLECTION.parent / "pyproject.toml").read_text(encoding="utf-8")
    [version] = re.findall(r'^version = "(.+)"', project, re.MULTILINE)
    assert read(COLLECTION / "galaxy.yml")["version"] == version
    assert version in read(COLLECTION / "roles" / "common" / "defaults" / "main.yml")["common_version"]


def test_c45_no_task_that_handles_a_secret_is_shown() -> None:
    """And each of them is pipelined: what goes to it is in no file on the way."""
    secret = re.compile(r"_token\.(?:stdout|json)\b|'token'|consul_policy_headers|gateway', 'add'|SecretID")
    found = 0
    for path in TASK_FILES:
        for task in tasks_in(read(path)):
            if not secret.search(str(task)) or any(key.endswith((".fail", ".include_tasks")) for key in task):
                continue
            found += 1
            assert task.get("no_log") is True, f"{path.name}: {task['name']}"
            assert task.get("vars", {}).get("ansible_pipelining") is True, f"{path.name}: {task['name']}"
    assert found >= 6, "the tasks were not recognized"


@pytest.mark.parametrize("role", ["agent", "gateway"])
def test_every_handler_is_guarded_in_check_mode(role: str) -> None:
    for handler in read(COLLECTION / "roles" / role / "handlers" / "main.yml"):
        when = handler["when"]
        guards = {"not ansible_check_mode", "common_seen.runs == 'yes'"}
        assert guards & set(when if isinstance(when, list) else [when]), handler["name"]


def test_every_topic_that_is_notified_has_a_handler() -> None:
    heard: set[str] = set()
    for role in ROLES:
        path = COLLECTION / "roles" / role / "handlers" / "main.yml"
        for handler in read(path) if path.exists() else ():
            listen = handler["listen"]
            heard |= set(listen if isinstance(listen, list) else [listen])
    for path in TASK_FILES:
        for task in tasks_in(read(path)):
            topic = task.get("notify", "")
            for node in ("agent", "gateway") if "common_node" in topic else ("",):
                said = re.sub(r"\{\{ common_node \}\}|' ~ common_node ~ '", node, topic)
                kinds = ("systemd-resolved", "dnsmasq", "unbound") if "agent_told" in said else ("",)
                for kind in kinds:
                    words = re.search(r"meshbridge [\w -]+", said.replace("{{ agent_told.kind }}", kind))
                    assert not topic or (words and words[0].strip() in heard), f"{path.name}: {topic}"


def test_nothing_needs_sudo_or_su_on_a_machine_where_root_logs_in() -> None:
    """The program itself becomes the user of the home; what becomes another user by Ansible needs one of the two."""
    for path in TASK_FILES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"become_user|become_method|\b(sudo|su|runuser|setpriv)\b -", text), path.name


def test_the_licences_go_with_the_collection() -> None:
    assert (COLLECTION / "LICENSE").read_bytes() == (COLLECTION.parent / "LICENSE").read_bytes()
    marked = {path for path in COLLECTION.rglob("*.py") if "GNU General Public License" in path.read_text()[:200]}
    needed = {path for path in (COLLECTION / "plugins").rglob("*.py") if not path.parent.name.endswith("_utils")}
    assert marked == needed, "Ansible wants it of whatever it loads; what these import is Apache-2.0 like the rest"
    assert "GENERAL PUBLIC LICENSE" in (COLLECTION / "COPYING").read_text()[:200]


def test_no_module_is_run_by_a_python_that_is_too_old_for_it() -> None:
    """ansible-core 2.16 would take 3.6, which does not know what our modules begin with."""
    needed = read(COLLECTION / "roles" / "common" / "vars" / "main.yml")["common_python_needed"]
    oldest = min(int(minor) for minor in re.findall(r"'3, (\d+)'", needed))
    assert read(COLLECTION / "tests" / "config.yml")["modules"]["python_requires"] == f">=3.{oldest}"
    assert oldest >= 7


def test_what_an_include_with_a_tag_brings_has_that_tag() -> None:
    """A tag on an include chooses the include alone: without `apply`, `--tags` runs nothing of what it brings."""
    without = []
    for path in TASK_FILES:
        for task in tasks_in(read(path)):
            tags = [tag for tag in task.get("tags", []) if tag != "always"]
            for verb in ("ansible.builtin.include_tasks", "ansible.builtin.include_role"):
                options = task.get(verb)
                applied = options.get("apply", {}).get("tags", []) if isinstance(options, dict) else []
                if options and not set(tags) <= set(applied):
                    without.append(f"{path.relative_to(COLLECTION)}: {task['name']}")
    assert not without
