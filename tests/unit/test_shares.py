"""I/O: (a page of memory) which worker lets the others take connections first."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from agents.workers.shares import Shares, SharesBoard
from bridge import limits


@pytest.fixture
def board() -> Iterator[SharesBoard]:
    made = SharesBoard()
    yield made
    made.close()


def share(board: SharesBoard) -> Shares:
    return Shares(os.dup(board.fd), board.take())


def spread(one: Shares, two: Shares, arrivals: int) -> tuple[int, int]:
    """Where long-lived tunnels go when the first worker is always asked first."""
    carried = [0, 0]
    for _ in range(arrivals):
        taker = 1 if one.is_ahead("tunnels") else 0
        carried[taker] += 1
        for mine, tunnels in zip((one, two), carried, strict=True):
            mine.publish(accepts=True, streams=0, tunnels=tunnels)
    return carried[0], carried[1]


@pytest.mark.parametrize("arrivals", [2, 16, 200, 2000])
def test_nobody_gets_clearly_more_than_its_share(board: SharesBoard, arrivals: int) -> None:
    one, two = share(board), share(board)
    most, least = spread(one, two, arrivals)
    assert most + least == arrivals
    assert most - least <= limits.SHARE_LEAD + least // limits.SHARE_LEAD_DIVISOR


def test_one_worker_alone_is_never_ahead(board: SharesBoard) -> None:
    one = share(board)
    one.publish(accepts=True, streams=1000, tunnels=1000)
    assert not one.is_ahead("streams") and not one.is_ahead("tunnels")


def test_streams_and_tunnels_are_spread_apart(board: SharesBoard) -> None:
    one, two = share(board), share(board)
    one.publish(accepts=True, streams=9, tunnels=0)
    two.publish(accepts=True, streams=0, tunnels=9)
    assert one.is_ahead("streams") and not one.is_ahead("tunnels")
    assert two.is_ahead("tunnels") and not two.is_ahead("streams")


def test_who_takes_no_connections_is_not_waited_for(board: SharesBoard) -> None:
    """It has not been told to listen yet, is on its way out, or is dead."""
    one, two = share(board), share(board)
    one.publish(accepts=True, streams=9, tunnels=0)
    assert not one.is_ahead("streams")
    two.publish(accepts=True, streams=0, tunnels=0)
    assert one.is_ahead("streams")
    two.publish(accepts=False, streams=0, tunnels=0)
    assert not one.is_ahead("streams")


def test_a_dead_worker_is_not_waited_for_and_its_row_is_used_again(board: SharesBoard) -> None:
    one = share(board)
    row = board.take()
    two = Shares(os.dup(board.fd), row)
    one.publish(accepts=True, streams=9, tunnels=0)
    two.publish(accepts=True, streams=1, tunnels=1)
    assert board.load(row) == 2 and one.is_ahead("streams")
    board.free(row)
    assert not one.is_ahead("streams")
    assert board.take() == row and board.load(row) == 0


def test_there_is_a_row_for_every_worker_there_may_be(board: SharesBoard) -> None:
    most = limits.WORKERS_MAX * (limits.OLD_GENERATIONS_MAX + 2)
    assert len({board.take() for _ in range(most)}) == most
