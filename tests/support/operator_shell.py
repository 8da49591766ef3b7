"""I/O: an operator who gives many commands without a process for each: arguments in, exit code and words out.

    with OperatorShell(estate) as op:
        code, out, words = op("host", "add", "vm1")

It is a process of its own, on the host of the operator's home, which may be killed like any other: a command that it
did not live to answer has no exit code, and nobody knows whether the change was made.
"""

from __future__ import annotations

import contextlib
import io
import json
import select
import subprocess
import sys
from typing import IO

from tests.support.estate import OPERATOR, ROOT, Estate
from tests.support.reaper import REAPER

ANSWER_TIMEOUT = 120.0
"""A command asks Consul several times, and each of its servers may take 10 s to say nothing."""
Answer = tuple[int | None, str, str]


class OperatorShell:
    """One command at a time."""

    def __init__(self, estate: Estate, home: str = OPERATOR) -> None:
        self._estate = estate
        self._home = home
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, *args: str) -> Answer:
        """Exit code (None: it was killed meanwhile), standard output, and what it said."""
        process = self._running()
        try:
            answer = _exchange(process, ["--home", str(self._estate.home(self._home)), *args])
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._end()
            return None, "", "the operator was killed"
        code, out, words = json.loads(answer)
        return code, out, words

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is not None:
            self._end()  # it was killed between two commands
        if self._process is None:
            prefix = self._estate.prefixes.get(self._home, ())
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "tests.support.operator_shell"],
                cwd=ROOT,
                env=self._estate.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            REAPER.watch(self._process.pid)
        return self._process

    def kill9(self) -> None:
        """From another thread; the next command starts another one."""
        process = self._process
        if process is not None:
            process.kill()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            process.kill()
            process.wait()
            REAPER.forget(process.pid)

    def __enter__(self) -> OperatorShell:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()


def _exchange(process: subprocess.Popen[str], arguments: list[str]) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(arguments) + "\n")
    process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], ANSWER_TIMEOUT)
    assert ready, f"no answer within {ANSWER_TIMEOUT:.0f} s to {arguments}"
    return process.stdout.readline()


def serve(commands: IO[str], answers: IO[str]) -> None:
    from cli.main import run

    for line in commands:
        out, words = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(words):
            code = run(json.loads(line))
        answers.write(json.dumps([code, out.getvalue(), words.getvalue()]) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
