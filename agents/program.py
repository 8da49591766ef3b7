"""I/O: the program that is on disk now in the place of the one that runs here.

An archive is started through a link, `current`, which may lead to another release at any moment. Its command looks once
where the link leads, so that all of one process is of one release, what is imported late and the workers that it starts
included; and names itself, as it is found through the link, in MESHBRIDGE_PROGRAM. Without that it is the files of the
running program that change.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import MetadataPathFinder, distributions
from pathlib import Path

import trio

from bridge import limits
from bridge.lines import plain
from inventory.errors import Unavailable

_VARIABLE = "MESHBRIDGE_PROGRAM"
_ROOT = Path(__file__).parents[1]
_PROBE = "import cli.main, agents.gateway_agent, agents.host_agent, agents.workers.data_worker"


def _through_link() -> Path | None:
    """The command of an archive; None where this Python is not an archive's."""
    named = Path(os.environ.get(_VARIABLE, ""))
    return named if named.is_absolute() and (Path(sys.executable).parents[2] / "bin" / named.name).exists() else None


def command() -> list[str]:
    """What starts the program on disk as this one was started."""
    through = _through_link()
    return [str(through), *sys.argv[1:]] if through is not None else [sys.executable, *sys.orig_argv[1:]]


def installed_version() -> str:
    """The version on disk; empty when there is none."""
    # Both trees may have the same times, by which a change is noticed otherwise.
    MetadataPathFinder().invalidate_caches()
    through = _through_link()
    path = [str(found) for found in through.parents[1].glob("python/lib/*/*-packages")] if through else sys.path
    return next((found.version for found in distributions(name="meshbridge", path=path)), "")


async def probe() -> None:
    """Whether what is on disk can be started at all: everything that a node needs is imported, in a process of its own.

    Raises:
        Unavailable: it cannot; with the last line of what Python said.
    """
    through = _through_link()
    if through is not None:
        argv, environment = [str(through.parents[1] / "python/bin/python3"), "-I", "-c", _PROBE], dict(os.environ)
    else:
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        argv, environment = [sys.executable, "-P", "-c", _PROBE], {**os.environ, "PYTHONPATH": path}
    try:
        # Whoever cancels this ends the process: one that hangs must not hold up the end of the node.
        with trio.fail_after(limits.PROBE_TIMEOUT):
            done = await trio.run_process(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                deliver_cancel=_kill,
            )
    except (OSError, trio.TooSlowError) as exc:
        raise Unavailable(f"the version on disk cannot be tried: {type(exc).__name__}") from None
    if done.returncode:
        said = done.stderr.decode(errors="backslashreplace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise Unavailable(f"the version on disk cannot be started: {plain(said[-1])}")


async def _kill(process: trio.Process) -> None:
    process.kill()
