"""I/O: `make dist`: a tree that brings its own Python, as one archive, and the wheels it was made from, as another.

The tree works wherever it is unpacked, on a machine without any Python: this machine's Python with its standard
library, the shared libraries that it needs, libc for machines where that is older, and the project with what it depends
on. Nothing in it leads to the place where it was made. Two runs of one commit give the same bytes.

    python .ci/dist.py [DIRECTORY]    the archives go there; without it into dist/
"""

from __future__ import annotations

import compileall
import gzip
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import shared_libraries

ROOT = Path(__file__).resolve().parents[1]
MACHINE = platform.machine()
SERIES = "{}.{}".format(*sys.version_info[:2])
PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux2010", "manylinux_2_5")
"""Of the wheels: those for old systems run on new ones too. RHEL 8 has glibc 2.28."""
FIRST_ZIP_TIME = 315532800
"""1980: a zip file knows nothing before."""

LEFT_OUT = {
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3", "ensurepip", "pydoc_data"),
    *("site-packages", "dist-packages", "__pycache__", "EXTERNALLY-MANAGED", "sitecustomize.py"),
}
LEFT_OUT_STARTS = (
    "config-",
    # Of lib-dynload: Python's own tests, what needs a display or a terminal, and what needs GPL libraries.
    *("_test", "_xxtest", "xxlimited", "_ctypes_test", "_tkinter", "_curses", "readline", "_dbm", "_gdbm", "ossaudio"),
    # libcrypt and libnsl for passwords and NIS, which nobody asks us for.
    *("_crypt.", "nis."),
)

COMMAND = """#!/bin/sh
# Where this file is. Below a `current` link what the link leads to may change at any moment: everything that runs is of
# the release that it led to here, and MESHBRIDGE_PROGRAM is where a running node finds the next one.
here=$0
while [ -h "$here" ]; do
    to=$(readlink "$here")
    case "$to" in /*) here=$to ;; *) here=${here%/*}/$to ;; esac
done
case "$here" in */*) ;; *) here=./$here ;; esac
root=$(CDPATH='' cd -- "${here%/*}/.." && pwd) || exit 69
MESHBRIDGE_PROGRAM=$root/bin/meshbridge
root=$(CDPATH='' cd -- "$root" && pwd -P) || exit 69
# Another Python's settings would lead ours astray. Everything is compiled already.
unset PYTHONHOME PYTHONPATH PYTHONSTARTUP
PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1
export PYTHONNOUSERSITE PYTHONDONTWRITEBYTECODE MESHBRIDGE_PROGRAM
exec "$root/python/bin/python3" -I -m cli.start "$@"
"""


PYTHON = """#!/bin/sh
# With this machine's libc; where that is older than what everything here was made for, with the one that is brought.
bin=${0%/*}
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null)
libc=${libc#glibc 2.}
if [ "${libc%%.*}" -ge NEEDED ] 2>/dev/null; then
    exec "$bin/python" "$@"
fi
exec "$bin/../libc/LOADER" --library-path "$bin/../libc:$bin/../lib" --argv0 "$0" "$bin/python" "$@"
"""


def main() -> None:
    if platform.libc_ver()[0] != "glibc":
        sys.exit("make dist: this Python is not built for glibc, and its archive would run on few machines")
    if len(sys.argv) > 1:
        out = Path(sys.argv[1]).resolve()
        work = out / "build"
    else:
        out, work = ROOT / "dist", ROOT / "build/dist"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    out.mkdir(exist_ok=True)
    epoch = source_date()
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    wheels = work / "wheels"
    version = gather_wheels(work, wheels)
    name = f"meshbridge-{version}"
    tree = work / name
    install(wheels, copy_python(tree / "python"))
    loader = shared_libraries.make_relocatable(tree / "python")
    needed = shared_libraries.glibc_needed(tree / "python")
    write_script(tree / "python/bin/python3", PYTHON.replace("NEEDED", str(needed)).replace("LOADER", loader))
    compile_all(tree)
    write_script(tree / "bin/meshbridge", COMMAND)
    shutil.copy2(ROOT / "LICENSE", tree / "LICENSE")
    about = {"version": version, "machine": MACHINE, "python": platform.python_version(), "glibc": f"2.{needed}"}
    (tree / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    write_archive(tree, out / f"{name}-{MACHINE}.tar.gz", epoch)
    tag = f"cp{SERIES.replace('.', '')}"
    write_archive(wheels, out / f"{name}-{tag}-{MACHINE}-wheels.tar.gz", epoch, top=f"{name}-wheels")


def source_date() -> int:
    """When the source was made: SOURCE_DATE_EPOCH, or the time of the commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not given:
        asked = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        given = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return max(int(given or 0), FIRST_ZIP_TIME)


def pip(*args: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    subprocess.run([sys.executable, "-m", "pip", args[0], *quiet, *args[1:]], cwd=ROOT, check=True)


def gather_wheels(work: Path, wheels: Path) -> str:
    """The project and everything it depends on, as wheels for systems as old as there are any for; its version."""
    # setuptools would take what an earlier build left there, also what is no longer in the source.
    shutil.rmtree(ROOT / "build/lib", ignore_errors=True)
    pip("wheel", "--no-deps", "--wheel-dir", str(work), ".")
    [wheel] = work.glob("meshbridge-*.whl")
    platforms = [f"--platform={platform}_{MACHINE}" for platform in PLATFORMS]
    pip("download", "--dest", str(wheels), "--only-binary=:all:", *platforms, f"--python-version={SERIES}", str(wheel))
    return wheel.name.split("-")[1]


def copy_python(to: Path) -> Path:
    """The Python that runs this, without what nobody needs; where it looks for packages."""
    program = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    library = Path(sysconfig.get_path("stdlib")).resolve()
    (to / "bin").mkdir(parents=True)
    # Without its series in the name: a node that becomes the next version starts it by the name that it knows.
    shutil.copy2(program, to / "bin/python")
    shutil.copytree(library, to / f"lib/python{SERIES}", ignore=left_out, ignore_dangling_symlinks=True)
    # Debian's looks elsewhere than others do.
    ask = "import site, sys; print(sys.prefix, site.getsitepackages()[0], sep='\\n')"
    answer = subprocess.run([str(program), "-I", "-c", ask], capture_output=True, text=True, check=True)
    prefix, packages = answer.stdout.splitlines()
    site = to / Path(packages).relative_to(prefix)
    site.mkdir(parents=True)
    return site


def left_out(_directory: str, names: list[str]) -> set[str]:
    return {name for name in names if name in LEFT_OUT or name.startswith(LEFT_OUT_STARTS)}


def install(wheels: Path, site: Path) -> None:
    # By their names and not by their paths: those would be written down.
    requirements = ["{}=={}".format(*path.name.split("-")[:2]) for path in sorted(wheels.glob("*.whl"))]
    only = ("--no-index", "--find-links", str(wheels), "--no-deps", "--no-compile", "--ignore-installed")
    pip("install", *only, "--target", str(site), *requirements)
    shutil.rmtree(site / "bin", ignore_errors=True)  # they name the Python that ran this


def compile_all(tree: Path) -> None:
    """By the Python in the tree, which proves that it runs, with the libc that it brings: `getconf` is not found.

    Paths are written as seen from the tree, sets in order.
    """
    python = tree / "python/bin/python3"
    mode = ("--invalidation-mode", "unchecked-hash", "-s", str(tree), "-q")
    environment = {"PYTHONHASHSEED": "0", "PATH": "/nonexistent"}
    # -B: what compileall itself imports would be kept with the times of this machine's files.
    command = [str(python), "-s", "-P", "-B", "-m", compileall.__name__, *mode, str(tree / "python/lib")]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def write_archive(tree: Path, archive: Path, epoch: int, top: str = "") -> None:
    """Names sorted, one time, owner and set of modes, so that the same tree is the same archive; and its checksum."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in [tree, *walk(tree)]:
            place = Path(top or tree.name) / path.relative_to(tree)
            entry = tar.gettarinfo(path, str(place))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            entry.mtime = epoch
            entry.mode = 0o755 if path.is_dir() or stat.S_IMODE(entry.mode) & 0o100 else 0o644
            if entry.isreg():
                with path.open("rb") as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    archive.with_name(archive.name + ".sha256").write_text(f"{digest}  {archive.name}\n", encoding="ascii")
    print(f"{archive}  {archive.stat().st_size / 1_000_000:.1f} MB  sha256 {digest}")


def walk(tree: Path) -> Iterator[Path]:
    for path in sorted(tree.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from walk(path)


if __name__ == "__main__":
    main()
