"""I/O: (an operator's home, no node) every command and every policy in docs/legacy does what it says."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from inventory.loading.policy_file import parse_policy
from inventory.policy_rules import parse_target
from tests.support.cli import CommandLine, copy_of, operator_home
from tests.support.typed_commands import parse_typed

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "legacy" / "README.md"
PAGES = sorted(path for path in INDEX.parent.glob("*.md") if path != INDEX)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIb4SVOlbVWnsEYgb8hxW6uQ8JEoQe5ugrDAB1zFR6G3\n"
PARTS = ("## Register", "## Allow", "## Check", "## Time-outs and keepalives", "## What breaks")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if line]
    assert all(line.startswith("meshbridge ") for line in lines), page.name
    return lines


def test_the_index_has_every_page() -> None:
    listed = re.findall(r"^\| \[(\w+\.md)\]\(\1\)", INDEX.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_says_what_to_register_and_allow_and_what_breaks(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [part for part in PARTS if f"\n{part}" not in text] == []


@pytest.mark.parametrize("page", [INDEX, *PAGES], ids=lambda page: page.name)
def test_every_command_is_one(page: Path) -> None:
    for line in commands(page):
        parse_typed(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_policy_is_good_and_about_the_services_of_its_page(page: Path) -> None:
    placed = [parse_typed(line)[1]["name"] for line in commands(page) if " service add " in line]
    policies = blocks(page, "toml")
    assert policies
    for text in policies:
        for rule in parse_policy(text.encode()).rules:
            targets = [parse_target(target) for target in rule.to]
            assert all(t.key or any(t.glob.matches(name) for name in placed) for t in targets), rule.to
        assert all(rule.get("mode", "enforce") == "enforce" for rule in tomllib.loads(text)["allow"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """With the hosts that the index records, and agent hosts."""
    home = tmp_path_factory.mktemp("made")
    op = operator_home(home)
    run_all(op, commands(INDEX), home)
    for host in ("vm3", "vm4", "vm6", "mail1"):
        op.ok("host", "add", host)
    return op


def run_all(op: CommandLine, lines: list[str], keys: Path) -> None:
    """Hosts first: what has to be there may stand further down."""
    for line in sorted(lines, key=lambda line: " host add " not in line):
        words = shlex.split(line)[1:]
        if "--host-key" in words:
            at = words.index("--host-key") + 1
            file = keys / words[at]
            file.write_text(KEY)
            words[at] = str(file)
        op.ok(*words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_can_be_done_as_it_stands(page: Path, made: CommandLine, tmp_path: Path) -> None:
    op = copy_of(made, tmp_path)
    run_all(op, commands(page), tmp_path)
    for number, text in enumerate(blocks(page, "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        op.ok("policy", "apply", str(file))
