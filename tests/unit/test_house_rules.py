"""Pure: the house rules, executable. Each rule is a function from one source file to what is wrong with it.

CONTRIBUTING.md says the rules in words; this file decides. Every rule is also shown a planted violation, so that a
rule that stopped working is noticed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("inventory", "bridge", "agents", "cli")
"""From the bottom up: a package imports itself and what stands before it."""

FUNCTION_LINES = 100
FILE_LINES = 600
SSH_WORKER = "agents/workers/ssh_worker.py"
SSH_PACKAGE = "agents/ssh/"
"""Its parts: loaded by that process alone."""
LOGS = "bridge/logs.py"

IMPURE = {
    *("socket", "subprocess", "trio", "sqlite3", "urllib", "http", "select", "signal", "shutil", "tempfile", "asyncio"),
    *("dns.query", "dns.resolver", "dns.asyncquery", "dns.asyncresolver"),
}
PURE_AFTER_ALL = {"urllib.parse"}
FILE_METHODS = {"read_text", "write_text", "read_bytes", "write_bytes"}
EVERYTHING = {"Exception", "BaseException"}
TIMED_SCOPES = {"move_on_after", "move_on_at", "fail_after", "fail_at"}

NOT_TESTED_BY_NAME: dict[str, str] = {
    "inventory/errors.py": "four exception classes; what they print is tested with the command line",
    "bridge/flow_log.py": "a file and a thread: tests/e2e/test_flow_log.py",
    "bridge/metrics_server.py": "a listening socket: tests/e2e/test_metrics_server.py",
    **{
        f"inventory/registries/{name}.py": "only ever tested against a real Consul: tests/e2e/test_consul_*.py"
        for name in ("consul", "consul_catalog", "consul_http", "consul_leases", "consul_store")
    },
    "bridge/limits.py": "named numbers; the tests of what they limit use them",
}
"""Modules below `agents/` that no test names or imports, each with the reason."""


@dataclass(frozen=True)
class Source:
    """One file of the four packages."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All of the tree: walked once for all rules."""
        return list(ast.walk(self.tree))

    @cached_property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def layer(self) -> str:
        return self.path.partition("/")[0]

    @cached_property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """Line and full dotted name of everything imported anywhere in the file."""
        return list(self._imports())

    def _imports(self) -> Iterator[tuple[int, str]]:
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._base_of(node)
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)

    def _base_of(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.path.split("/")[: -node.level]
        return ".".join([*package, *([node.module] if node.module else [])])


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


# --- Rules: each yields what is wrong, with its line -----------------------------------------------------------------

Rule = Callable[[Source], Iterator[str]]


def imports_go_down(source: Source) -> Iterator[str]:
    above = LAYERS[LAYERS.index(source.layer) + 1 :]
    for line, name in source.imports:
        if any(is_within(name, layer) for layer in (*above, "tests")):
            yield f"{line}: {source.layer} imports {name}: imports go cli -> agents -> bridge -> inventory"


def docstring_says_pure_or_io(source: Source) -> Iterator[str]:
    if source.path.endswith("__init__.py") and not source.tree.body:
        return
    if not source.docstring.startswith(("Pure:", "I/O:")):
        yield "1: the module docstring has to begin with `Pure:` or `I/O:` and say what the file is for"


def pure_modules_do_no_io(source: Source) -> Iterator[str]:
    if not source.docstring.startswith("Pure:"):
        return
    for line, name in source.imports:
        banned = any(is_within(name, impure) for impure in IMPURE)
        if banned and not any(is_within(name, pure) for pure in PURE_AFTER_ALL):
            yield f"{line}: a Pure module imports {name}"
    for node in source.nodes:
        if isinstance(node, ast.Call) and opens_a_file(node.func):
            yield f"{node.lineno}: a Pure module calls {name_of(node.func)}()"


def asyncio_only_in_the_ssh_worker(source: Source) -> Iterator[str]:
    if source.path == SSH_WORKER or source.path.startswith(SSH_PACKAGE):
        return
    for line, name in source.imports:
        if is_within(name, "asyncio") or is_within(name, "asyncssh"):
            yield f"{line}: {name} belongs in {SSH_WORKER} and {SSH_PACKAGE} only"


def structlog_only_in_the_log(source: Source) -> Iterator[str]:
    """Whoever imports it first decides whether it loads rich into every node: `bridge.logs` sees to that."""
    for line, name in source.imports:
        if is_within(name, "structlog") and source.path != LOGS:
            yield f"{line}: structlog is imported in {LOGS} only: use its get_logger"


def functions_and_files_stay_short(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > FILE_LINES:
        yield f"1: {lines} lines in one file, at most {FILE_LINES}"
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}"


def every_shield_has_a_deadline(source: Source) -> Iterator[str]:
    """`trio.move_on_after(X, shield=True)` is the form: a shield without an end outlives its nursery's deadline."""
    for node in source.nodes:
        if isinstance(node, ast.Call) and any(k.arg == "shield" and not is_false(k.value) for k in node.keywords):
            ends = {k.arg for k in node.keywords} & {"deadline", "relative_deadline"}
            if name_of(node.func) not in TIMED_SCOPES and not ends:
                yield f"{node.lineno}: a shield without a deadline: use trio.move_on_after(SECONDS, shield=True)"
        elif isinstance(node, ast.Assign) and "shield" in map(name_of, node.targets) and not is_false(node.value):
            yield f"{node.lineno}: a shield set by hand: use trio.move_on_after(SECONDS, shield=True)"


def no_exception_is_swallowed(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield f"{node.lineno}: a bare except: name what you expect"
            elif name_of(node.type) in EVERYTHING and is_empty(node.body):
                yield f"{node.lineno}: `except {name_of(node.type)}: pass` hides our own bugs"
        elif isinstance(node, ast.Call) and name_of(node.func) == "suppress":
            yield from (
                f"{node.lineno}: suppress({name}) hides our own bugs"
                for name in map(name_of, node.args)
                if name in EVERYTHING
            )


def name_of(node: ast.expr) -> str:
    """`open` for `open` and for `path.open`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def opens_a_file(function: ast.expr) -> bool:
    """`open(...)` and `anything.read_text(...)`, but not a method that happens to be called open."""
    name = name_of(function)
    return name in FILE_METHODS if isinstance(function, ast.Attribute) else name == "open"


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def is_empty(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(statement, ast.Pass | ast.Continue)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in body
    )


RULES: tuple[Rule, ...] = (
    imports_go_down,
    docstring_says_pure_or_io,
    pure_modules_do_no_io,
    asyncio_only_in_the_ssh_worker,
    structlog_only_in_the_log,
    functions_and_files_stay_short,
    every_shield_has_a_deadline,
    no_exception_is_swallowed,
)


# --- The four packages against the rules -----------------------------------------------------------------------------


def read_sources(*folders: str) -> list[Source]:
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


SOURCES = read_sources(*LAYERS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_house_rule(rule: Rule) -> None:
    assert len(SOURCES) > 10, "the sources were not found"
    broken = [f"{source.path}:{problem}" for source in SOURCES for problem in rule(source)]
    assert not broken, "\n" + "\n".join(broken)


def test_pure_modules_import_only_pure_ones_of_ours() -> None:
    impure = {source.module for source in SOURCES if source.docstring.startswith("I/O:")}
    broken = [
        f"{source.path}:{line}: a Pure module imports {name}, which does I/O"
        for source in SOURCES
        if source.docstring.startswith("Pure:")
        for line, name in source.imports
        if name in impure or name.rpartition(".")[0] in impure
    ]
    assert not broken, "\n" + "\n".join(broken)


def test_ansible_is_no_package() -> None:
    """With an __init__.py it would shadow ansible-core's own package for whatever runs from here."""
    assert not (ROOT / "ansible" / "__init__.py").exists()


def imported_at_the_top(text: str) -> Iterator[str]:
    """Full names of what a formatted file imports from packages of ours; by its lines, because parsing takes longer."""
    for module, names in re.findall(rf"^from ((?:{'|'.join(LAYERS)})\S*) import (\([^)]*\)|.*)", text, re.MULTILINE):
        yield from (f"{module}.{name.split()[0]}" for name in names.strip("()").split(",") if name.strip())


def test_every_module_below_agents_has_a_test() -> None:
    tests = read_sources("tests/unit", "tests/properties")
    names = {Path(test.path).stem for test in tests}
    imported = {name for test in tests for name in imported_at_the_top(test.text)}

    def is_tested(source: Source) -> bool:
        parts = source.module.split(".")
        mirrored = {f"test_{'_'.join(parts[start:])}" for start in range(len(parts))}
        return bool(mirrored & names) or any(is_within(name, source.module) for name in imported)

    below = [s for s in SOURCES if s.layer in ("inventory", "bridge") and not s.path.endswith("__init__.py")]
    untested = {source.path for source in below if not is_tested(source)} - NOT_TESTED_BY_NAME.keys()
    assert not untested, f"no tests/unit/test_<module>.py, and no unit test imports it: {sorted(untested)}"
    gone = NOT_TESTED_BY_NAME.keys() - {source.path for source in below}
    assert not gone, f"exempt but not there any more: {sorted(gone)}"


# --- The rules against planted violations ----------------------------------------------------------------------------

PLANTED: tuple[tuple[Rule, str, str], ...] = (
    (imports_go_down, "bridge/a.py", "import agents.backoff"),
    (imports_go_down, "inventory/a.py", "def f():\n    from bridge import limits"),
    (imports_go_down, "cli/a.py", "from tests.support import estate"),
    (docstring_says_pure_or_io, "bridge/a.py", '"""Frames."""'),
    (docstring_says_pure_or_io, "bridge/__init__.py", "x = 1"),
    (pure_modules_do_no_io, "bridge/a.py", '"""Pure: x."""\nimport socket'),
    (pure_modules_do_no_io, "bridge/a.py", '"""Pure: x."""\nfrom urllib import request'),
    (pure_modules_do_no_io, "bridge/a.py", '"""Pure: x."""\nfrom dns import query'),
    (pure_modules_do_no_io, "bridge/a.py", '"""Pure: x."""\nPath("x").read_text()'),
    (asyncio_only_in_the_ssh_worker, "agents/workers/data_worker.py", "from asyncio import run"),
    (structlog_only_in_the_log, "agents/a.py", "import structlog"),
    (functions_and_files_stay_short, "bridge/a.py", "def f():\n" + "    x = 1\n" * FUNCTION_LINES),
    (functions_and_files_stay_short, "bridge/a.py", "x = 1\n" * (FILE_LINES + 1)),
    (every_shield_has_a_deadline, "agents/a.py", "with trio.CancelScope(shield=True): pass"),
    (every_shield_has_a_deadline, "agents/a.py", "nursery.cancel_scope.shield = True"),
    (no_exception_is_swallowed, "agents/a.py", "try: f()\nexcept: raise"),
    (no_exception_is_swallowed, "agents/a.py", "try: f()\nexcept Exception: pass"),
    (no_exception_is_swallowed, "agents/a.py", "with contextlib.suppress(Exception): f()"),
)

ALLOWED: tuple[tuple[Rule, str, str], ...] = (
    (imports_go_down, "bridge/a.py", "from inventory.errors import InputError\nfrom . import limits"),
    (docstring_says_pure_or_io, "bridge/__init__.py", ""),
    (pure_modules_do_no_io, "bridge/a.py", '"""Pure: x."""\nimport ssl\nfrom urllib.parse import quote'),
    (pure_modules_do_no_io, "bridge/a.py", '"""Pure: x."""\nsession.open(1)'),
    (pure_modules_do_no_io, "bridge/a.py", '"""I/O: x."""\nimport socket\nopen("x")'),
    (asyncio_only_in_the_ssh_worker, SSH_WORKER, "import asyncio"),
    (asyncio_only_in_the_ssh_worker, SSH_PACKAGE + "hop.py", "import asyncssh"),
    (structlog_only_in_the_log, LOGS, "import structlog"),
    (every_shield_has_a_deadline, "agents/a.py", "with trio.move_on_after(5, shield=True): pass"),
    (no_exception_is_swallowed, "agents/a.py", "try: f()\nexcept OSError: pass"),
)


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED)
def test_a_planted_violation_is_found(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_what_is_allowed_passes(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(Source(path, text)))
