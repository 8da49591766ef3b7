"""I/O: runs the README's own commands, as they are written there, so that they are true.

    python -m tests.support.readme_commands README.md

A fenced `sh` block that follows the line `<!-- ci: run -->` is run. Blocks run in order, in one shell, so that
variables and background processes live on from one to the next. The shell starts in an empty directory that is also
HOME, with this environment's `meshbridge` first in PATH. The first command that fails ends it; background processes
are ended with it. Exits 1 when a command failed, when it took too long, or when no block is marked.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

MARKED = re.compile(r"^<!-- ci: run -->\n+```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMEOUT = 240.0


def marked_blocks(text: str) -> list[str]:
    """The commands of each marked block, in order."""
    return MARKED.findall(text)


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MESHBRIDGE_", "XDG_"))}
    return {**kept, "HOME": str(home), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(script: str, home: Path, timeout: float = TIMEOUT) -> int:
    """Runs `script` in a shell of its own group; the shell's exit code, 124 when it took longer than `timeout`."""
    options = ["-e", "-u", "-x", "-o", "pipefail"]
    shell = subprocess.Popen(
        ["bash", *options, "-c", script],
        cwd=home,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return shell.wait(timeout)
    except subprocess.TimeoutExpired:
        return 124
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


def main(path: str) -> int:
    try:
        blocks = marked_blocks(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        print(f"{path}: {exc.strerror}", file=sys.stderr)
        return 1
    if not blocks:
        print(f"{path}: no block is marked with <!-- ci: run -->", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        code = run("\n".join(blocks), Path(home))
    if code:
        print(f"{path}: its commands ended with exit code {code}; the last one shown above failed", file=sys.stderr)
        return 1
    print(f"{path}: {len(blocks)} marked blocks ran as written")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
