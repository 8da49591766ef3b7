"""I/O: the documents are true where that can be looked up: links, commands, warnings, metrics, fields, exit codes."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from bridge.flows import Flow
from bridge.live_metrics import LiveMetrics
from cli.main import COMMANDS, root
from tests.support import by_hand

ROOT = Path(__file__).parents[2]
LAYERS = ("inventory", "bridge", "agents", "cli")
PAGES = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "tests" / "README.md",
        *(ROOT / "ansible").glob("*.md"),
    )
)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?<![\w./-])meshbridge((?: --home \S+| -o \S+)*)((?: [a-z][a-z-]*){1,2})")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as they are made from their text."""
    headings = re.findall(r"^#{1,6} (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if "://" in target:
            continue
        name, _, anchor = unquote(target).partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken, f"{page.name}: {broken}"


def test_the_readme_lists_every_document() -> None:
    listed = LINK.findall(prose(ROOT / "README.md"))
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in listed]


def test_every_test_file_that_is_named_exists() -> None:
    known = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for page in PAGES:
        for name in re.findall(r"\btest_\w+\.py\b", prose(page)):
            assert name in known or page.name == "CONTRIBUTING.md", f"{page.name}: {name}"


def test_every_module_that_is_named_exists() -> None:
    known = {path.relative_to(ROOT).as_posix() for layer in LAYERS for path in (ROOT / layer).rglob("*")}
    for page in PAGES:
        for name in re.findall(r"`((?:inventory|bridge|agents|cli)/[\w./]*)`", prose(page)):
            assert name.rstrip("/") in {*known, *LAYERS}, f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists(page: Path) -> None:
    unknown = []
    for _, words in COMMAND.findall(page.read_text(encoding="utf-8")):
        first, *rest = words.split()
        if first not in COMMANDS:
            continue  # prose: "meshbridge is", "meshbridge installed"
        command = root.get_command(click.Context(root), first)
        if isinstance(command, click.Group) and rest and rest[0] not in command.commands:
            unknown.append(words.strip())
    assert not unknown, f"{page.name}: {unknown}"


def test_every_command_is_in_the_documents() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [
        name for name in COMMANDS if not re.search(rf"meshbridge(?: --home \S+| -o json)* {name}\b|make {name}\b", text)
    ]
    assert not missing, missing


def test_the_first_installation_is_typed_by_its_test() -> None:
    """tests/e2e/test_by_hand_as_written.py runs these; both pages have them as they stand there."""
    for page in ("README.md", "docs/quickstart.md"):
        # The README's own web server takes whichever port is free.
        text = (ROOT / page).read_text(encoding="utf-8").replace('"127.0.0.1:${port#port }"', "127.0.0.1:9000")
        lines = (by_hand.INIT, by_hand.GATEWAY, by_hand.JOIN_1, by_hand.JOIN_2, by_hand.AGENT_1, by_hand.AGENT_2)
        for line in (*lines, by_hand.SERVICE, by_hand.POLICY):
            assert line in text, f"{page} lacks: {line}"
        assert "http://$(meshbridge --home vm2 resolve web):8080/" in text
        assert "http://$(meshbridge --home vm2 resolve web):8080/" in by_hand.CURL


def table(heading: str) -> set[str]:
    """The first column of the first table under a heading of the operations page, without backticks and labels."""
    part = OPERATIONS.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([\w.-]+)[^`]*`", cell)}


def test_every_warning_is_in_the_table() -> None:
    raised: set[str] = set()
    for path in (ROOT / "agents").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        raised |= set(re.findall(r'(?:\b|_)warning\(\s*"([a-z-]+)"', text))
        raised |= set(re.findall(r'_alarms\[f?"([a-z-]+)[ "{]', text))
    assert table("### Warnings") == raised


def test_every_metric_is_in_the_table() -> None:
    page = LiveMetrics(version="0", now=lambda: 0.0).render().decode()
    assert table("### Metrics") == set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))


def test_every_field_of_a_flow_is_in_the_table() -> None:
    assert table("### Flows") == set(Flow.__struct_fields__)


def test_every_file_of_a_home_is_in_the_table() -> None:
    named: set[str] = set()
    for path in (*(ROOT / "agents").rglob("*.py"), ROOT / "bridge" / "flow_log.py"):
        for in_home, constant in re.findall(r'home / "([\w.]+)"|FILE = "([\w.]+)"', path.read_text(encoding="utf-8")):
            named.add(in_home or constant)
    assert "registry.db" in table("## Homes and files")
    assert named <= table("## Homes and files")


SAID_BY_OTHERS = ("Connection refused", "No cluster leader")
"""Words in the table of Consul's failures that the system and Consul say."""


def test_every_text_of_a_failure_of_consul_is_one_that_the_code_says() -> None:
    page = (ROOT / "docs" / "consul.md").read_text(encoding="utf-8")
    table = page.partition("| the text | what it is | do |")[2].partition("\n\n")[0]
    texts = [text for row in table.splitlines()[2:] for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    code = "\n".join(path.read_text(encoding="utf-8") for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
    # What differs from case to case is left out: numbers, and the file.
    pieces = [piece.strip(" :…()s") for text in texts for piece in re.split(r"\d+|FILE|: ", text)]
    words = [piece for piece in pieces if piece and piece not in SAID_BY_OTHERS]
    assert len(words) > len(table.splitlines()) - 5
    assert not [piece for piece in words if piece not in code]
