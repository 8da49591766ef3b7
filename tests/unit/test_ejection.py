"""Pure: how long an instance is left alone, and how many may be."""

from __future__ import annotations

from bridge import limits
from bridge.routing.ejection import Ejections


def test_ejection_doubles_up_to_the_most_and_success_resets_it() -> None:
    ejections, now, lengths = Ejections(), 100.0, []
    for _ in range(9):
        ejections.report_failure("a", now)
        ends = ejections.next_change(now)
        assert ends is not None
        lengths.append(ends - now)
        assert ejections.is_ejected("a", ends - 0.001)
        assert not ejections.is_ejected("a", ends)
        now = ends
    assert lengths == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    ejections.report_success("a", now)
    ejections.report_failure("a", now)
    assert ejections.next_change(now) == now + limits.EJECT_FIRST


def test_failures_during_an_ejection_do_not_lengthen_it() -> None:
    ejections = Ejections()
    for _ in range(100):
        ejections.report_failure("a", 1.0)
    assert ejections.next_change(1.0) == 1.0 + limits.EJECT_FIRST


def test_success_ends_an_ejection() -> None:
    ejections = Ejections()
    ejections.report_failure("a", 1.0)
    ejections.report_success("a", 1.0)
    assert not ejections.is_ejected("a", 1.0)
    assert ejections.next_change(1.0) is None


def test_f37_never_more_than_half_are_ejected() -> None:
    ejections, names = Ejections(), ["a", "b", "c", "d", "e"]
    for name in names:
        ejections.report_failure(name, 1.0)
    assert len(ejections.ejected(names, 2.0)) == 2
    assert ejections.ejected(["a"], 2.0) == frozenset()
    assert ejections.ejected(["a", "b"], 2.0) == {"a"}


def test_f37_the_worst_stay_ejected() -> None:
    ejections = Ejections()
    ejections.report_failure("z", 0.0)
    ejections.report_failure("z", 50.0)
    ejections.report_failure("a", 50.0)
    assert ejections.ejected(["a", "z"], 51.0) == {"z"}


def test_f37_a_flapping_instance_is_tried_at_most_once_per_ejection() -> None:
    ejections, tries = Ejections(), 0
    for second in range(60):
        if not ejections.is_ejected("a", float(second)):
            tries += 1
            (ejections.report_failure if second % 2 else ejections.report_success)("a", float(second))
    assert tries <= 60 / limits.EJECT_FIRST + 60 / 2


def test_what_came_and_went_is_forgotten() -> None:
    ejections = Ejections()
    for number in range(100_000):
        ejections.report_failure(f"i{number}", number * 1.0)
    assert len(ejections._ejections) < 2000
