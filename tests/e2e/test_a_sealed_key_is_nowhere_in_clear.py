"""I/O: a private key that an operator gives to a gateway for a box is in clear in the operator's own file and in the
gateway's ssh worker, and nowhere else: no command line, environment, log, registry, other file or core has it."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_an_agentless_host_is_a_host_like_any_other import place, reached, wait_up
from tests.support.debian_programs import Program
from tests.support.estate import OPERATOR, ROOT, Estate, allow
from tests.support.pair import CLIENT, join, locate, pids, wait_connected
from tests.support.sshd import Sshd
from tests.support.town import Town
from tests.support.traffic import Backend, ask, eventually

ED25519_SEED = 32
CHUNK = 1 << 20


@pytest.fixture
def box(openssh: Program, estate: Estate) -> Iterator[Sshd]:
    with Sshd(estate.path / "box", estate.free_port()) as made:
        yield made


def canaries(key: Path) -> list[bytes]:
    """What betrays the key: lines of its file, and its secret half as bytes, in hex and in base64."""
    lines = key.read_bytes().splitlines()[1:-1]
    blob = base64.b64decode(b"".join(lines))
    public = base64.b64decode(key.with_name(key.name + ".pub").read_bytes().split()[1])[-ED25519_SEED:]
    at = [found.start() for found in re.finditer(re.escape(public), blob)][-1]
    seed = blob[at - ED25519_SEED : at]
    assert blob[at - ED25519_SEED - 4 : at - ED25519_SEED] == (2 * ED25519_SEED).to_bytes(4, "big"), "where the seed is"
    return [*lines[1:], seed, seed.hex().encode(), base64.b64encode(seed).rstrip(b"="), repr(seed).encode()]


def holds(path: Path, wanted: list[bytes]) -> bool:
    """Whether a file has any of it; one that cannot be read has nothing to tell."""
    longest, tail = max(map(len, wanted)), b""
    try:
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                if any(one in tail + data for one in wanted):
                    return True
                tail = data[-longest:]
    except OSError:
        pass
    return False


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]


def in_memory(pid: int, wanted: list[bytes]) -> bool:
    """Whether a process has it in memory that it can write to."""
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except OSError:
                continue
            if any(one in data for one in wanted):
                return True
    return False


def test_a_sealed_key_is_nowhere_but_with_the_operator_and_in_the_ssh_worker(estate: Estate, box: Sshd) -> None:
    if os.geteuid() == 0 and shutil.which("prlimit"):
        estate.prefixes[OPERATOR] = ("prlimit", "--core=unlimited", "--")
    estate.init()
    estate.start_gateway()
    join(estate, CLIENT)
    estate.start_agent(CLIENT)
    wait_connected(estate, CLIENT)
    town = Town(estate)
    key = box.new_user_key()
    wanted = canaries(key)
    assert holds(key, wanted), "the test knows what to look for"
    host_key = estate.path / "aix1.pub"
    host_key.write_text(box.host_key_line + "\n")
    add = ("host", "add", "aix1", "--reach", box.url, "--via", "gw1", "--host-key", str(host_key), "--key", str(key))
    assert estate.ok(OPERATOR, *add) == "", "no token, and nothing else"
    wait_up(estate, "aix1")
    with Backend("ledger") as ledger:
        place(town, "ledger", "aix1", ledger.target)
        town.policy(allow(f"host:{CLIENT}", "ledger"))
        at = locate(estate, CLIENT, "ledger")
        assert eventually(lambda: ask(*at)) == "ledger"
    lines = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes() for home in (OPERATOR, CLIENT) for pid in pids(estate, home)
    }
    (worker,) = (pid for pid, line in lines.items() if b"agents.workers.ssh_worker" in line)
    assert len(lines) >= 7, "two supervisors, two data workers each, one ssh worker"
    for name in ("cmdline", "environ"):
        assert not [pid for pid in lines if holds(Path(f"/proc/{pid}/{name}"), wanted)], name
    if os.geteuid() == 0:
        assert {pid for pid in lines if in_memory(pid, wanted)} == {worker}
    os.kill(worker, signal.SIGABRT)  # which would leave a core
    eventually(lambda: not Path(f"/proc/{worker}").exists() and reached(estate, "aix1")["state"] == "up", timeout=20)
    everywhere = [*files(estate.path), *files(Path("/dev/shm")), *ROOT.glob("core*"), *Path("/tmp").glob("core*")]
    assert [path for path in everywhere if holds(path, wanted)] == [key]
    secrets = [
        path for path in files(estate.home(OPERATOR)) if path.suffix in (".key", ".db", ".sqlite") or "key" in path.name
    ]
    assert {path.name for path in secrets} >= {"seal.key", "registry.db"}
    open_to_others = [
        path for path in files(estate.home(OPERATOR)) if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]
    print(f"{len(everywhere)} files, {len(lines)} processes; readable for others in the home: {open_to_others}")
    assert not [path for path in secrets if path in open_to_others]
