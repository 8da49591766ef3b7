"""I/O: the release of `make dist` in the roots of other systems: Debian 11, whose libc is older than what it was made
for, Debian 12, both with every Python deleted, and one with a shell and no libc at all. A whole estate each time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.archives import make_archive
from tests.support.debian_programs import NoProgram, find_program
from tests.support.debian_roots import find_root

TOOLS = ("sh", "cat", "kill", "ls", "readlink", "sleep")
GLIBC = {"bullseye": 31, "bookworm": 36, "a shell and nothing else": 0}
TIMEOUT = 90.0

# The root below, a layer of the test's over it, and the release unpacked in it.
ENTER = """
set -e
ip link set lo up
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
cd "$2/root"
rm -rf usr/bin/python3* usr/lib/python3* usr/libexec/platform-python
mkdir -p opt/meshbridge proc dev
tar -xzf "$3" -C opt/meshbridge
ln -s "$(ls opt/meshbridge)" opt/meshbridge/current
mount -t proc proc proc
mount --bind /dev dev
exec chroot . /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c "$4"
"""

ESTATE = """
set -e
mesh=/opt/meshbridge/current/bin/meshbridge
ready() {
    left=60
    until "$mesh" --home "$1" status >/dev/null 2>&1; do
        left=$((left - 1))
        [ $left -gt 0 ] || { cat "$1.log"; exit 1; }
        sleep 1
    done
}
"$mesh" --home /op init --domain t.internal --gateway gw1=127.0.0.1:7443 2>&1
"$mesh" --home /op gateway run --workers 1 2>/op.log &
gateway=$!
ready /op
"$mesh" --home /op host add vm1 2>/dev/null | "$mesh" --home /vm1 agent join - 2>&1
"$mesh" --home /vm1 agent run --workers 1 2>/vm1.log &
agent=$!
ready /vm1
echo HOSTS $("$mesh" --home /op -o json host list)
echo MAPS $(cat /proc/$gateway/maps)
kill $agent $gateway
wait $agent && wait $gateway
echo ENDED
"""

pytestmark = pytest.mark.root


def root_of(system: str, tmp_path: Path) -> Path:
    if system in ("bullseye", "bookworm"):
        return find_root(system)
    busybox = find_program("busybox").path
    if b"/ld-linux" in busybox.read_bytes():
        raise NoProgram("the busybox of this machine needs a libc")
    root = tmp_path / "bare"
    for folder in ("bin", "usr/bin", "etc", "tmp"):
        (root / folder).mkdir(parents=True)
    shutil.copy2(busybox, root / "bin/busybox")
    for name in TOOLS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "usr/bin/env").symlink_to("/bin/busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    return root


@pytest.mark.parametrize("system", GLIBC)
def test_a_release_runs_without_python_and_with_an_older_libc_or_none(system: str, tmp_path: Path) -> None:
    try:
        root = root_of(system, tmp_path)
    except NoProgram as why:
        pytest.skip(str(why))
    for name in ("upper", "work", "root"):
        (tmp_path / "layer" / name).mkdir(parents=True)
    archive = make_archive()
    apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    argv = [*apart, "sh", "-c", ENTER, "sh", str(root), str(tmp_path / "layer"), str(archive), ESTATE]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and done.stdout.endswith("ENDED\n"), said
    [host] = json.loads(re.findall(r"^HOSTS (.*)$", done.stdout, re.MULTILINE)[0])
    assert (host["name"], host["presence"]) == ("vm1", "online")
    about = json.loads((tmp_path / "layer/upper/opt/meshbridge/current/about.json").read_text())
    is_too_old = GLIBC[system] < int(about["glibc"].removeprefix("2."))
    libc = set(re.findall(r" (/\S*/libc[.-]\S+)", done.stdout))
    print(f"{system}: libc is {', '.join(libc)}")
    assert len(libc) == 1 and all(path.startswith("/opt/meshbridge/") == is_too_old for path in libc)
