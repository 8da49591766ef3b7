"""Pure: whose turn it is at a backend that falls over, by hand."""

from __future__ import annotations

from bridge import limits
from bridge.routing.governor import Bounds, Governor, Outcome


def governor(streams: int | None = None, rate: int | None = None) -> Governor[int]:
    return Governor("ledger", Bounds(streams, rate))


def ask(one: Governor[int], ticket: int, caller: str = "host:a", now: float = 0.0) -> list[Outcome[int]]:
    return one.ask(ticket, caller, now) + one.turn(now)


def given(outcomes: list[Outcome[int]]) -> list[int]:
    return [outcome.ticket for outcome in outcomes if outcome.refusal is None]


def why(outcomes: list[Outcome[int]]) -> dict[int, str]:
    return {outcome.ticket: outcome.refusal for outcome in outcomes if outcome.refusal is not None}


def fill(one: Governor[int], tickets: range, caller: str = "host:a", now: float = 0.0) -> None:
    for ticket in tickets:
        assert given(ask(one, ticket, caller, now)) == [ticket]
        one.began(ticket, now)


def test_what_fits_goes_at_once_and_the_next_one_when_one_ends() -> None:
    one = governor(2)
    fill(one, range(2))
    assert ask(one, 2) == []
    one.ended(0, 1.0)
    assert given(one.turn(1.0)) == [2]


def test_who_waited_too_long_hears_why() -> None:
    one = governor(2)
    fill(one, range(2))
    for ticket in range(2, 5):
        ask(one, ticket)
    late = limits.GOVERNOR_WAIT
    assert one.turn(late - 0.001) == []
    assert one.next_look(late - 0.001) == late
    said = "ledger takes at most 2 streams at once; 2 are open and {} waited before you"
    assert why(one.turn(late)) == {2: said.format(0), 3: said.format(1), 4: said.format(2)}
    assert one.next_look(late) is None


def test_a_caller_with_less_than_an_equal_part_comes_first_then_they_take_turns() -> None:
    one = governor(4)
    fill(one, range(4), "host:greedy")
    for ticket in range(10, 13):
        ask(one, ticket, "host:greedy")
    for ticket in range(20, 23):
        ask(one, ticket, "host:modest")
    turns = []
    for ended in range(4):
        one.ended(ended, 1.0)
        turns += given(one.turn(1.0))
    assert turns == [20, 21, 10, 11]  # equal parts are two, and two


def test_no_second_has_more_than_the_rate_however_late_the_connects() -> None:
    one, second = governor(rate=2), limits.GOVERNOR_SECOND
    assert given(ask(one, 0)) == [0] and given(ask(one, 1)) == [1]
    one.began(0, 0.0)
    assert ask(one, 2, now=0.5) == []
    assert given(one.turn(second)) == [2], "the second one is on its way yet, the first was a second ago"
    one.began(1, 1.25)
    one.began(2, 1.5)
    ask(one, 3, now=1.75)
    assert one.turn(2.0) == [] and one.next_look(2.0) == 1.25 + second
    assert given(one.turn(1.25 + second)) == [3]


def test_the_rate_is_the_reason_where_it_is() -> None:
    one = governor(5, rate=1)
    fill(one, range(1))
    ask(one, 1)
    ask(one, 2)
    for ticket in (0, 1, 2):
        one.began(ticket, limits.GOVERNOR_WAIT - 0.5)
    one.turn(limits.GOVERNOR_WAIT - 0.5)
    refused = why(one.turn(limits.GOVERNOR_WAIT))
    assert refused == {2: "ledger takes at most 1 new streams in a second; 1 waited before you"}


def test_a_slot_rests_when_the_backend_has_not_noticed_the_end() -> None:
    one = governor(1)
    fill(one, range(1))
    ask(one, 1)
    one.ended(0, 1.0, rest=True)
    assert one.turn(1.0) == [] and one.next_look(1.0) == 1.0 + limits.GOVERNOR_REST
    assert given(one.turn(1.0 + limits.GOVERNOR_REST)) == [1]


def test_one_that_goes_away_leaves_its_place_in_the_queue() -> None:
    one = governor(1)
    fill(one, range(1))
    ask(one, 1)
    ask(one, 2, "host:b")
    one.ended(1, 0.5)
    one.ended(0, 0.5)
    assert given(one.turn(0.5)) == [2]


def test_after_an_outage_it_is_given_more_and_more() -> None:
    one = governor(100, rate=50)
    fill(one, range(50))
    one.checked(True, 1.0)
    first = Bounds(int(100 * limits.GOVERNOR_RAMP_SHARE), int(50 * limits.GOVERNOR_RAMP_SHARE))
    assert one.bounds_at(1.0) == first
    ask(one, 100, now=1.0)
    ask(one, 101, now=1.0)
    (words,) = {text.split(";")[0] for text in why(one.turn(1.0 + limits.GOVERNOR_WAIT)).values()}
    assert words == f"ledger, failing, takes at most {first.streams} of 100 streams"
    one.checked(False, 10.0)
    assert one.bounds_at(10.0) == first and one.state(10.0).is_recovering
    assert one.bounds_at(10.0 + limits.GOVERNOR_RAMP / 2) == Bounds(55, 27)
    ask(one, 102, now=10.0)
    assert one.next_look(10.0) == 10.0 + limits.GOVERNOR_LOOK
    assert one.bounds_at(10.0 + limits.GOVERNOR_RAMP) == Bounds(100, 50)


def test_connects_that_fail_are_an_outage_and_one_that_succeeds_ends_it() -> None:
    one = governor(100)
    for ticket in range(limits.GOVERNOR_FAILURES):
        assert one.bounds_at(0.0).streams == 100
        ask(one, ticket)
        one.failed(ticket, 0.0)
    assert one.bounds_at(0.0).streams == 10
    fill(one, range(50, 51), now=2.0)
    assert one.bounds_at(2.0).streams == 10
    assert one.bounds_at(2.0 + limits.GOVERNOR_RAMP).streams == 100
    one.ended(50, 3.0)
    one.turn(2.0 + limits.GOVERNOR_RAMP)
    assert one.is_idle


def test_even_one_stream_is_enough_to_find_out_that_it_is_back() -> None:
    one = governor(1)
    one.checked(True, 0.0)
    assert given(ask(one, 0)) == [0]


def test_a_limit_that_is_set_while_it_comes_back_grows_as_well() -> None:
    one = governor()
    one.checked(True, 0.0)
    one.checked(False, 0.0)
    one.turn(0.0)
    one.change(Bounds(streams=10))
    assert one.bounds_at(0.0) == Bounds(streams=1)
    one.turn(limits.GOVERNOR_RAMP)
    assert one.bounds_at(limits.GOVERNOR_RAMP) == Bounds(streams=10)
    assert one.is_idle


def test_with_a_full_queue_the_caller_that_fills_it_loses_one() -> None:
    one = governor(1)
    fill(one, range(1), "host:other")
    most = limits.GOVERNOR_QUEUE_MAX
    for ticket in range(1, most + 1):
        assert ask(one, ticket, "host:greedy") == []
    assert list(why(ask(one, most + 1, "host:greedy"))) == [most + 1]
    assert list(why(ask(one, most + 2, "host:modest"))) == [most], "the last one of the greedy caller"
    assert one.state(0.0).waiting == most


def test_a_limit_that_changes_counts_from_then_on() -> None:
    one = governor(3)
    fill(one, range(3))
    ask(one, 3)
    one.change(Bounds(1))
    one.ended(0, 1.0)
    assert one.turn(1.0) == []
    one.change(Bounds(None))
    assert given(one.turn(1.0)) == [3]


def test_what_was_there_before_the_governor_counts_and_a_second_passes() -> None:
    one = governor(2, rate=3)
    one.restore(1, "host:a", 5.0)
    assert ask(one, 2, now=5.5) == []
    assert given(one.turn(5.0 + limits.GOVERNOR_SECOND)) == [2]
    assert ask(one, 3, now=6.1) == [], "two are open"
