"""I/O: a run of the tests that is killed in the middle leaves none of its processes behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.reaper import ROOT

RUN = """
import pathlib, signal, sys
from tests.support.processes import RunningProcess
path = pathlib.Path(sys.argv[1])
ended = RunningProcess("ended", ["sleep", "300"], logs=path, cwd=path)
ended.end()
print(RunningProcess("left", ["sh", "-c", "sleep 300 & wait"], logs=path, cwd=path).pid, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_test_run_that_is_killed(tmp_path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        left = os.pidfd_open(int(run.stdout.readline()))
        try:
            run.send_signal(how)
            poll = select.poll()
            poll.register(left, select.POLLIN)  # readable: the process has ended
            assert poll.poll(20_000), "what the run started is still there"
        finally:
            os.close(left)
