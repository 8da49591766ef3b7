"""I/O: the search for secrets in files, trees, a disk with all that was ever written on it, and text."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.secret_forms import Secret

SEARCH_TIMEOUT = 300.0

Found = set[tuple[str, str]]
"""The secret's name, and where it is."""


def in_text(secrets: Iterable[Secret], where: str, text: str) -> Found:
    content = text.encode(errors="surrogateescape")
    return {(secret.name, where) for secret in secrets if any(needle in content for needle in secret.needles)}


def in_places(secrets: Iterable[Secret], *places: Path) -> Found:
    """In files, in whatever is below directories, and in disk images as they are."""
    names = {needle: secret.name for secret in secrets for needle in secret.needles}
    command = ["grep", "-r", "-a", "-D", "skip", "-o", "-F", "-Z", "-H", "-f", "-", *map(str, places)]
    # Not `skip` for what is named: a disk image is searched too.
    done = subprocess.run(
        command,
        input=b"\n".join(names) + b"\n",
        capture_output=True,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        timeout=SEARCH_TIMEOUT,
        check=False,
    )
    assert done.returncode in (0, 1) or not _serious(done.stderr), done.stderr[-2000:]
    found: Found = set()
    for line in done.stdout.removesuffix(b"\n").split(b"\n") if done.stdout else []:
        place, _, needle = line.partition(b"\0")
        found.add((names[needle], place.decode(errors="replace")))
    return found


def _serious(errors: bytes) -> list[bytes]:
    """All but files that went away while it searched."""
    return [line for line in errors.splitlines() if not re.search(rb"No such (file|device)|binary file", line)]


@contextlib.contextmanager
def disk(image: Path, size: str = "4G") -> Iterator[Path]:
    """A file system of its own in `image`: where things were that have been removed, they still are."""
    place = image.with_name(image.name + ".d")
    place.mkdir()
    with image.open("wb"):
        pass
    for command in (
        ["truncate", "-s", size, str(image)],
        ["mkfs.ext4", "-q", "-F", "-m", "0", str(image)],
        ["mount", "-o", "loop,nodiscard", str(image), str(place)],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False, timeout=60)
