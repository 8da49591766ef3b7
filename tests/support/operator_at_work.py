"""I/O: an operator who gives one command after the other until killed, and prints what was acknowledged; a process.

    python -m tests.support.operator_at_work HOME NAME

Prints `host H`, `service S H` or `policy RULE` once the command's exit code was 0.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from cli.main import run
from inventory.errors import MeshError


def steps(name: str, policy: Path) -> Iterator[tuple[str, list[str]]]:
    """What to print, and the command. The policy keeps every rule that was ever in it."""
    rules = ""
    for number in count(1):
        host = f"{name}-{number}"
        yield f"host {host}", ["host", "add", host]
        yield (
            f"service {host} {host}",
            ["service", "add", host, "--host", host, "--target", "127.0.0.1:9", "--port", "80"],
        )
        rules += f'[[allow]]\nname = "{host}"\nfrom = ["host:{host}"]\nto = ["{host}"]\n'
        policy.write_text(rules)
        yield f"policy {host}", ["policy", "apply", str(policy), "-m", host]


def main() -> None:
    home, name = sys.argv[1:]
    for line, command in steps(name, Path(home).parent / f"{name}.toml"):
        with contextlib.redirect_stdout(io.StringIO()):
            code = run(["--home", home, *command])
        if code != 0:
            raise MeshError(f"{command} ended with {code}")
        print(line, flush=True)


if __name__ == "__main__":
    main()
