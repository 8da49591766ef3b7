"""I/O: `meshbridge policy`: what is allowed, and who said so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.app import App, pass_app, run, words
from cli.output import moment as shown_moment
from cli.output import print_json, print_table
from cli.values import USER, moment

_FILE = click.Path(readable=False, allow_dash=True)
"""What is wrong with it its reader says, with every other problem."""

if TYPE_CHECKING:
    from agents.operating.audit import AuditLine
    from agents.operating.policy import AppliedPolicy, PolicyChange
    from inventory.loading.policy_file import PolicyFile
    from inventory.policy_rules import Rule
    from inventory.snapshot import Snapshot


@click.group()
def policy() -> None:
    """The policy: check, apply, show, explain; the audit trail."""


def _load(file: str) -> PolicyFile:
    """FILE, or - for stdin. Raises InputError with every problem in it."""
    from inventory.loading.policy_file import load_policy, parse_policy
    from inventory.loading.toml_text import FILE_MAX_BYTES

    if file == "-":
        return parse_policy(sys.stdin.buffer.read(FILE_MAX_BYTES + 1), file="stdin")
    return load_policy(Path(file))


def _counts(rules: tuple[Rule, ...]) -> dict[str, int]:
    return {
        "rules": len(rules),
        "allow": sum(rule.effect == "allow" for rule in rules),
        "deny": sum(rule.effect == "deny" for rule in rules),
        "observed": sum(rule.mode == "observe" for rule in rules),
    }


@policy.command(epilog="Example: meshbridge policy check policy.toml")
@click.argument("file", type=_FILE)
@pass_app
def check(app: App, file: str) -> None:
    """Say whether FILE (- for stdin) is a policy; every problem is listed.

    Needs no estate. In a gateway's or operator's home it also lists the names in it that nobody has registered (yet),
    which is no error.
    """
    loaded = _load(file)
    counts, unmatched = _counts(loaded.rules), _unmatched(app, loaded.rules)
    if app.is_json:
        print_json({"ok": True, **counts, "unmatched": unmatched})
        return
    _print_notes(unmatched or [])
    rules = "1 rule" if counts["rules"] == 1 else f"{counts['rules']} rules"
    words("good: {0}, {allow} allow, {deny} deny, {observed} only observed".format(rules, **counts))


def _unmatched(app: App, rules: tuple[Rule, ...]) -> list[str] | None:
    """Names that are not in the estate; None when this home does not know what is in it."""
    from agents.operating.home_snapshot import load_estate
    from agents.operating.policy import matching_nothing
    from inventory.errors import MeshError

    async def work() -> list[str] | None:
        state = await load_estate(app.home)
        return matching_nothing(rules, state) if state is not None else None

    try:
        return run(work)
    except MeshError as exc:
        words(f"the names in it are not compared with the estate: {exc}")
        return None


def _print_notes(unmatched: list[str]) -> None:
    for text in unmatched:
        words(f"  note: {text} (yet)")


@policy.command(epilog="Example: meshbridge policy apply policy.toml -m 'billing may read the ledger'")
@click.argument("file", type=_FILE)
@click.option("-m", "--message", default="", metavar="TEXT", help="Why, for the audit trail.")
@pass_app
def apply(app: App, file: str, message: str) -> None:
    """Sign the policy in FILE (- for stdin) and put it in force everywhere."""
    from agents.estate import operate
    from agents.operating.policy import apply_policy, compare, matching_nothing, read_policy
    from inventory.errors import InputError

    loaded = _load(file)

    async def work() -> tuple[int, PolicyChange, list[str]]:
        async with operate(app.home) as operator:
            try:
                before = (await read_policy(operator.registry, operator.state)).rules
            except InputError as exc:
                words(f"the policy in force cannot be compared with: {exc}")
                before = ()
            number = await apply_policy(operator, loaded, message or f"policy apply {Path(file).name}")
            return number, compare(before, loaded.rules), matching_nothing(loaded.rules, operator.state)

    number, change, unmatched = run(work)
    for word, names in (("added", change.added), ("removed", change.removed), ("changed", change.changed)):
        for name in names:
            words(f"  {word:8} {name}")
    _print_notes(unmatched)
    if app.is_json:
        lists = {"added": change.added, "removed": change.removed, "changed": change.changed, "unmatched": unmatched}
        print_json({"number": number, **_counts(loaded.rules), **lists})
    words(f"policy {number} is in force" + (", with the same rules as before" if change.is_empty else ""))


@policy.command(epilog="Example: meshbridge policy show > policy.toml")
@pass_app
def show(app: App) -> None:
    """Print the policy in force, as it was applied."""
    from agents.estate import inspect
    from agents.operating.policy import read_policy

    async def work() -> AppliedPolicy:
        async with inspect(app.home) as (_, registry, log):
            return await read_policy(registry, log.state)

    applied = run(work)
    if app.is_json:
        print_json({"number": applied.number, "source": applied.source, "rules": [_as_json(r) for r in applied.rules]})
        return
    if not applied.number:
        words("no policy was ever applied, so nothing is allowed")
        return
    click.echo(applied.source, nl=not applied.source.endswith("\n"))


def _as_json(rule: Rule) -> dict[str, object]:
    """Every field under its name in the file, defaults included."""
    names = {name: "from" if name == "sources" else name for name in rule.__struct_fields__}
    return {shown: getattr(rule, name) for name, shown in names.items()}


@policy.command(epilog="Example: meshbridge policy explain host:vm2 web --user batch --at 2026-11-23T23:00+01:00")
@click.argument("subject")
@click.argument("service")
@click.option("--user", type=USER, metavar="U", help="As this local user.  [default: unknown]")
@click.option("--at", "at", type=moment, metavar="TIME", help="At this moment, like 2026-11-23T04:00.  [default: now]")
@pass_app
def explain(app: App, subject: str, service: str, user: str | None, at: float | None) -> int:
    """Say whether SUBJECT (host:NAME, client:NAME or NAME) may reach SERVICE, and why.

    Answers from what is on disk: the registry in the operator's home, what this host was told in an agent's. Exit code
    1 means that it may not.
    """
    from agents import clock
    from agents.operating.home_snapshot import load_snapshot
    from bridge.policy.decide import Permit, parse_subject_name
    from bridge.policy.explain import explain as explained
    from inventory.names import parse_service_name

    who = parse_subject_name(subject)

    async def work() -> Snapshot:
        return await load_snapshot(app.home)

    snapshot = run(work)
    name = parse_service_name(service, snapshot.authority.namespace).service
    now = clock.now() if at is None else at
    found = explained(snapshot, who, name, now=now, user=user)
    decision = found.decision
    is_allowed = isinstance(decision, Permit)
    if app.is_json:
        print_json(
            {
                "allowed": is_allowed,
                "subject": str(decision.subject),
                "service": decision.service,
                "rule": decision.rule,
                "reason": "" if isinstance(decision, Permit) else decision.reason,
                "expires_at": decision.expires_at,
                "needs_user": decision.needs_user,
                "observed": decision.observed,
                "remarks": found.remarks,
                "rules": [{"rule": r.rule, "effect": r.effect, "missing": r.missing} for r in found.rules],
                "left_out": found.left_out,
                "lines": found.lines(),
            }
        )
    else:
        for line in found.lines():
            click.echo(line)
    return 0 if is_allowed else 1


@policy.command(epilog="Example: meshbridge policy log --limit 20")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the last N entries.")
@pass_app
def log(app: App, limit: int | None) -> None:
    """The audit trail: every signed entry, with who, when and why."""
    from agents.estate import inspect
    from agents.operating.audit import audit_trail
    from inventory.authority import read_log

    async def work() -> list[AuditLine]:
        async with inspect(app.home) as (_, registry, known):
            # Up to what was verified just now, and not an entry further.
            return audit_trail((await read_log(registry))[: known.state.number])

    lines = run(work)
    lines = lines[-limit:] if limit is not None else lines
    if app.is_json:
        print_json(lines)
        return
    rows = [(line.number, shown_moment(line.at), line.operator, line.what, line.message) for line in lines]
    print_table(("NUMBER", "TIME", "OPERATOR", "WHAT", "MESSAGE"), rows)
