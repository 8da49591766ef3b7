"""Pure: two machines with one identity are noticed, and one machine is never taken for two."""

from __future__ import annotations

from agents.control.twins import Twins
from bridge import limits

MANY = limits.TWIN_TURNS + 1
FIRST, CLONE = "10.0.0.1", "10.0.0.2"


class Door:
    """Hellos of the host vm1 at one gateway, a second apart."""

    def __init__(self) -> None:
        self.twins = Twins()
        self.now = 0.0
        self.port = 40000

    def came(self, epoch: int, address: str = FIRST, *, key: str = "k", is_here: bool = True) -> bool:
        self.now += 1.0
        self.port += 1
        return self.twins.came("vm1", key, epoch, f"{address}:{self.port}", is_here=is_here, now=self.now)

    @property
    def found(self) -> dict[str, list[str]]:
        return dict(self.twins.found(self.now))


def test_an_agent_that_comes_back_after_a_later_one_is_a_second_machine() -> None:
    door = Door()
    door.came(10, FIRST, is_here=False)
    door.came(11, CLONE)
    said = [door.came(10, FIRST) for _ in range(2 * MANY)]
    assert said.index(True) == MANY - 1 and said.count(True) == 1, "said once, and not for the first few"
    assert door.found == {"vm1": [FIRST, CLONE]}
    assert not door.came(11, CLONE) and door.found, "the later one is back: still two"
    door.now += limits.TWIN_WATCH
    assert door.found == {}, "one was stopped"
    assert [door.came(10, FIRST) for _ in range(MANY)].count(True) == 1, "said again when it begins again"


def test_two_that_were_cloned_with_their_memory_are_told_by_their_addresses() -> None:
    door = Door()
    said = [door.came(10, address) for _ in range(MANY) for address in (FIRST, CLONE)]
    assert said.count(True) == 1 and door.found == {"vm1": [FIRST, CLONE]}


def test_an_agent_that_starts_anew_again_and_again_is_one() -> None:
    door = Door()
    for epoch in range(3 * MANY):
        assert not door.came(epoch)
    assert door.found == {}


def test_an_agent_whose_link_moves_or_breaks_all_the_time_is_one() -> None:
    door = Door()
    for number in range(3 * MANY):
        address = f"10.0.1.{number}"
        assert not door.came(10, address, is_here=False), "another address, and the session before it ended"
        assert not door.came(10, address), "the same one, and the session before it looks alive"
    assert door.found == {}


def test_what_was_on_its_way_when_an_agent_started_anew_is_no_second_one() -> None:
    door = Door()
    for epoch in range(0, 2 * limits.TWIN_TURNS, 2):
        door.came(epoch + 1)
        assert not door.came(epoch)
    assert door.found == {}


def test_turns_that_are_far_apart_are_not_added_up() -> None:
    door = Door()
    door.came(11)
    for _ in range(3 * MANY):
        assert not door.came(10)
        door.now += limits.TWIN_WATCH / limits.TWIN_TURNS
    assert door.found == {}


def test_a_host_that_was_enrolled_again_is_another_one() -> None:
    door = Door()
    door.came(11)
    for _ in range(3 * MANY):
        assert not door.came(10, key="other"), "its clock was ahead before"
    assert door.found == {}
