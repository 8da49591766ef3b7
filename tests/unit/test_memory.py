"""Pure: when memory is given back."""

from __future__ import annotations

from bridge import limits
from bridge.memory import Returner

MIB = limits.MIB


def test_f30_memory_is_given_back_once_when_most_of_what_waited_has_gone() -> None:
    trims: list[int] = []
    returner = Returner(lambda: trims.append(1))
    for held in (0, 5 * MIB, 4 * MIB, 0):
        returner.look(held)
    assert not trims, "little is not worth it"
    for held in (50 * MIB, 40 * MIB, 30 * MIB):
        returner.look(held)
    assert not trims, "it is still in use"
    for held in (20 * MIB, 19 * MIB, 18 * MIB):
        returner.look(held)
    assert len(trims) == 1
    returner.look(0)
    assert len(trims) == 2


def test_the_real_one_can_be_called() -> None:
    returner = Returner()
    returner.look(100 * MIB)
    returner.look(0)
