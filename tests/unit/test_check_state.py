"""Pure: how many results in a row change a verdict."""

from __future__ import annotations

from agents.checks.state import Verdict
from inventory.model import Health


def states(verdict: Verdict, results: str) -> str:
    """`+` and `-` in, what was reported out: `P`, `F` or `.` for nothing."""
    marks = {"passing": "P", "failing": "F"}
    reports = [verdict.result(mark == "+", "" if mark == "+" else "refused") for mark in results]
    return "".join(marks[report.state] if report else "." for report in reports)


def test_the_first_result_decides_at_once() -> None:
    assert states(Verdict(rise=5, fall=5), "+") == "P"
    assert states(Verdict(rise=5, fall=5), "-") == "F"
    assert Verdict(rise=1, fall=1).health == Health()


def test_it_takes_some_in_a_row_to_change() -> None:
    assert states(Verdict(rise=2, fall=3), "+--+---+-++") == "P.....F...P"


def test_f38_with_the_default_rise_recovery_takes_one_check() -> None:
    assert states(Verdict(rise=1, fall=2), "--+") == "F.P"


def test_the_reason_is_kept() -> None:
    verdict = Verdict(rise=1, fall=1)
    assert verdict.result(False, "connection refused") == Health(state="failing", reason="connection refused")
    assert verdict.result(True, "") == Health(state="passing")


def test_new_words_for_the_same_verdict_are_told_once_they_stay() -> None:
    verdict = Verdict(rise=1, fall=2)
    verdict.result(True, "certificate ends on 2027-01-05")
    soon = "certificate ends in 20 days, on 2027-01-05"
    told = [verdict.result(True, soon) for _ in range(4)]
    assert told == [None, Health(state="passing", reason=soon), None, None]


def test_words_that_differ_each_time_are_told_once() -> None:
    verdict = Verdict(rise=1, fall=1)
    assert verdict.result(False, "it answered '500 at 0:00'") is not None
    assert not any(verdict.result(False, f"it answered '500 at 0:{at:02}'") for at in range(1, 50))
