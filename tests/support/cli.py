"""I/O: the command line in this process, for commands that need nobody else: arguments in, exit code and text out."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class CommandLine:
    """Commands on one home, as `python -m cli.main --home HOME …` would run them."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *args: str, input: str | bytes = "") -> Result:
        data = input.encode() if isinstance(input, str) else input
        out, err, before = io.StringIO(), io.StringIO(), sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main.run(["--home", str(self.home), *args])
        finally:
            sys.stdin = before
        return Result(code, out.getvalue(), err.getvalue())

    def ok(self, *args: str, input: str | bytes = "") -> Result:
        """A command that has to succeed."""
        result = self(*args, input=input)
        assert result.code == 0, f"meshbridge {' '.join(args)}: exit {result.code}\n{result.out}{result.err}"
        return result

    def json(self, *args: str) -> Any:
        """What a command that has to succeed says with -o json."""
        return self.ok("-o", "json", *args).json

    def refused(self, code: int, *args: str, input: str | bytes = "") -> str:
        """A command that has to fail with this code; what it said. Nothing may be on stdout, and no traceback."""
        result = self(*args, input=input)
        assert result.code == code, f"meshbridge {' '.join(args)}: exit {result.code}\n{result.out}{result.err}"
        assert not result.out
        assert "Traceback" not in result.err
        assert result.err.startswith("meshbridge: ")
        return result.err


def operator_home(directory: Path) -> CommandLine:
    """A fresh estate in `directory`/op."""
    op = CommandLine(directory / "op")
    op.ok("init", "--domain", "t.internal", "--gateway", "gw1=127.0.0.1:17443", "--operator", "alice")
    return op


def copy_of(made: CommandLine, directory: Path) -> CommandLine:
    """The same estate again, for one test: an estate takes ten times longer to make than to copy."""
    shutil.copytree(made.home, directory / "op")
    return CommandLine(directory / "op")
