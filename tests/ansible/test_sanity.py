"""I/O: `ansible-test sanity`, all of it that runs without containers; what does not run here is skipped by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import ansible_sanity
from tests.support.ansible_sanity import Outcome
from tests.support.debian_programs import NoProgram, find_program

NOTHING_TO_LOOK_AT = {
    "changelog": "CHANGELOG.md is written by hand, and there are no fragments",
    "empty-init": "there is no __init__.py",
    "pslint": "there is no PowerShell",
}
NEEDED = {
    *("action-plugin-docs", "ansible-doc", "ignores", "line-endings", "no-assert", "no-illegal-filenames"),
    *("pep8", "pylint", "runtime-metadata", "shebang", "symlinks", "validate-modules", "yamllint"),
}
FAULTS = {
    "pep8": "plugins/modules/meshbridge_host.py",
    "validate-modules": "plugins/modules/meshbridge_policy.py",
}

Outcomes = dict[str, Outcome]


@pytest.fixture(scope="module")
def shellcheck() -> Path | None:
    try:
        return find_program("shellcheck").path
    except NoProgram:
        return None


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, shellcheck: Path | None) -> Outcomes:
    reason = ansible_sanity.why_not()
    if reason is not None:
        pytest.skip(reason)
    place = ansible_sanity.place_collection(tmp_path_factory.mktemp("sanity"))
    found, said = ansible_sanity.run(place, search=(shellcheck,) if shellcheck else ())
    print(said)
    return found


def bare(name: str) -> str:
    return re.sub(r"-python-[\d.]+$", "", name)


def test_no_sanity_test_fails(outcomes: Outcomes) -> None:
    assert {name: one.failed for name, one in outcomes.items() if one.failed} == {}
    passed = {name for name, one in outcomes.items() if not one.skipped}
    assert passed >= NEEDED, "it has looked at all of it"
    assert not (passed & NOTHING_TO_LOOK_AT.keys()), "the reasons of what is skipped hold"


def test_modules_compile_and_are_imported_by_every_python_here_that_ansible_supports(outcomes: Outcomes) -> None:
    for kind in ("compile", "import"):
        versions = {name: one for name, one in outcomes.items() if bare(name) == kind}
        # Not those that are older than what our modules want: tests/config.yml.
        versions = {name: one for name, one in versions.items() if one.skipped != "No tests applicable."}
        missing = {name: one.skipped for name, one in versions.items() if one.skipped}
        print(f"{kind}: {len(versions) - len(missing)} of {len(versions)}", *missing.values(), sep="; ")
        here = {re.sub(r"^python", f"{kind}-python-", path.name) for path in ansible_sanity.pythons()}
        assert here & missing.keys() == set(), "only a Python that is not on this machine may be missing"
        assert len(versions) > len(missing)


def test_nothing_is_skipped_without_a_reason_of_ours(outcomes: Outcomes) -> None:
    known = {*NOTHING_TO_LOOK_AT, "compile", "import", "shellcheck"}
    assert {name for name, one in outcomes.items() if one.skipped and bare(name) not in known} == set()


def test_the_shell_scripts_are_clean(outcomes: Outcomes, shellcheck: Path | None) -> None:
    if shellcheck is None:
        pytest.skip("needs `shellcheck` (or root and apt, to fetch Debian's)")
    assert outcomes["shellcheck"] == Outcome("", "")


@pytest.mark.parametrize(("test", "file"), FAULTS.items())
def test_it_would_say_what_is_wrong(test: str, file: str, outcomes: Outcomes, tmp_path: Path) -> None:
    place = ansible_sanity.place_collection(tmp_path)
    path = place / file
    path.write_text(path.read_text().replace('"type": "str"', '"type":  "int"'))
    found, _said = ansible_sanity.run(place, "--test", test, file)
    assert found[test].failed
