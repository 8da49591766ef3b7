"""I/O: the program as it is installed: a copy of the source whose version a test changes under running nodes."""

from __future__ import annotations

import compileall
import shutil
from pathlib import Path

from tests.support.estate import ROOT

PACKAGES = ("agents", "bridge", "cli", "inventory")


class Installed:
    """The program on disk, version 1.0.0 at first."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for package in PACKAGES:
            shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(place, quiet=1)
        self.version("1.0.0")

    def version(self, number: str) -> None:
        info = self.place / "meshbridge-1.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: meshbridge\nVersion: {number}\n")
