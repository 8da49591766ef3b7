"""I/O: a data worker that is stopped is named by `status` and `doctor` until it goes on; nobody ends it meanwhile."""

from __future__ import annotations

import os
import signal

import pytest

from bridge import limits
from tests.support.estate import OPERATOR, Estate
from tests.support.pair import status, worker_pids
from tests.support.traffic import eventually


@pytest.mark.slow
def test_a_stopped_worker_is_named_until_it_goes_on(estate: Estate) -> None:
    estate.init()
    estate.options[OPERATOR] = ("--workers", "1")
    estate.start_gateway()
    [pid] = worker_pids(estate, OPERATOR)

    def silent() -> str:
        found = [w["text"] for w in status(estate, OPERATOR)["warnings"] if w["code"] == "worker-silent"]
        return found[0] if found else ""

    assert not silent()
    os.kill(pid, signal.SIGSTOP)
    try:
        said = eventually(silent, what="the warning", timeout=3 * limits.WORKER_SILENT)
        assert f"worker {pid} " in said and f"kill -CONT {pid}" in said
        assert said.partition(" s, ")[2] in estate.cli(OPERATOR, "doctor").stdout  # the seconds go on
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not silent(), what="its end", timeout=3 * limits.REPORT_QUIET)
    assert worker_pids(estate, OPERATOR) == [pid]
