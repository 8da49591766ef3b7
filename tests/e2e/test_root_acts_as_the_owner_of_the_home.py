"""I/O: what root does on homes of other users is theirs: every file and every process, and their nodes work with it.

One home belongs to a number without a name, the other to `nobody`, who has one.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.by_hand import Person
from tests.support.estate import Estate
from tests.support.processes import RunningProcess

pytestmark = pytest.mark.root

NAMELESS, ITS_GROUP = 54321, 54322
NOBODY = pwd.getpwnam("nobody")
POLICY = '[[allow]]\nname = "it reads the web itself"\nfrom = ["host:vm1"]\nto = ["web"]\n'


@pytest.fixture
def root(estate: Estate) -> Iterator[Person]:
    """Root at a terminal, in a directory of root's with two of other users in it."""
    with tempfile.TemporaryDirectory(prefix="meshbridge-") as made:
        directory = Path(made)
        directory.chmod(0o755)
        for name, uid, gid in (("theirs", NAMELESS, ITS_GROUP), ("agents", NOBODY.pw_uid, NOBODY.pw_gid)):
            (directory / name).mkdir(mode=0o700)
            os.chown(directory / name, uid, gid)
        instead = {"ADDRESS": estate.free_endpoint(), "SLICE": estate.next_slice()}
        instead["PORT"] = str(estate.start_server("http", name="web"))
        yield Person(directory, instead=instead, is_followed=True)


def files_of_others(directory: Path, uid: int, gid: int) -> list[str]:
    """What in a home is not its owner's, or is open to anybody else."""
    found = []
    for path in directory.rglob("*"):
        info = path.lstat()
        if (info.st_uid, info.st_gid) != (uid, gid) or stat.S_IMODE(info.st_mode) & 0o077:
            found.append(f"{path} {info.st_uid}:{info.st_gid} {info.st_mode:o}")
    return found


def ids_of(node: RunningProcess) -> set[tuple[str, ...]]:
    """Real, effective, saved and file system user, likewise group, and further groups, of the node and its workers."""
    found = set()
    for pid in (node.pid, *node.children()):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found.add(tuple(" ".join(line.split()[1:]) for line in lines if line.startswith(("Uid:", "Gid:", "Groups:"))))
    return found


def test_root_acts_as_the_owner_of_the_home(root: Person, estate: Estate) -> None:
    theirs, agents = root.directory / "theirs", root.directory / "agents"
    with contextlib.ExitStack() as running:
        root.types("meshbridge --home theirs/op init --domain t.internal --gateway gw1=ADDRESS")
        gateway = root.runs("meshbridge --home theirs/op gateway run", "gateway")
        running.callback(gateway.end)
        token = "meshbridge --home theirs/op host add vm1"
        root.types(f"{token} | meshbridge --home agents/vm1 agent join - --addresses SLICE")
        agent = root.runs("meshbridge --home agents/vm1 agent run --workers 1", "vm1")
        running.callback(agent.end)
        root.types("meshbridge --home theirs/op service add web --host vm1 --target 127.0.0.1:PORT --port 8080")

        # A file that is root's alone: refused in words, and taken where root itself opens it.
        secret = root.directory / "policy.toml"
        secret.write_text(POLICY)
        secret.chmod(0o600)
        said = root.is_refused(64, "meshbridge --home theirs/op policy apply policy.toml")
        assert f"policy.toml: it cannot be read as user {NAMELESS}, to whom {theirs}/op belongs" in said
        assert "hint: use - and give it on stdin: < policy.toml" in said
        root.types("meshbridge --home theirs/op policy apply - < policy.toml")
        said = root.is_refused(64, "meshbridge --home theirs/op registry backup backup.db")
        assert f"backup.db: it cannot be written as user {NAMELESS}" in said

        # The nodes work on with what root did.
        fetch = "curl --silent --max-time 10 http://$(meshbridge --home agents/vm1 resolve web):8080/"
        assert root.types_until(fetch, "hello") == "hello from web\n"
        root.types("meshbridge --home theirs/op status && meshbridge --home agents/vm1 status")
        agent.signal(signal.SIGHUP)
        agent.stderr.wait_for("reload", 30)
        assert root.types_until(fetch, "hello") == "hello from web\n"

        ids = (f"{NAMELESS} " * 4).strip(), (f"{ITS_GROUP} " * 4).strip(), str(ITS_GROUP)
        assert ids_of(gateway) == {ids}
        [(uids, gids, groups)] = ids_of(agent)
        assert set(uids.split()) == {str(NOBODY.pw_uid)} and set(gids.split()) == {str(NOBODY.pw_gid)}
        assert set(map(int, groups.split())) == set(os.getgrouplist("nobody", NOBODY.pw_gid))

    # With nothing running, whoever opens the registry makes files beside it.
    root.types("meshbridge --home theirs/op discover")
    root.types("meshbridge --home theirs/op host list")
    assert files_of_others(theirs, NAMELESS, ITS_GROUP) == []
    assert files_of_others(agents, NOBODY.pw_uid, NOBODY.pw_gid) == []
    assert (theirs / "op" / "registry.db").exists() and (agents / "vm1" / "identity.pem").exists()


def test_discover_names_everybodys_programs_all_the_same(root: Person) -> None:
    """It reads the home as its owner, and the machine as root: another user is not told whose a connection is."""
    root.types("meshbridge --home theirs/op init --domain t.internal --gateway gw1=ADDRESS")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        seen = root.types("meshbridge --home theirs/op -o json discover")
    assert f'"{Path("/proc/self/comm").read_text().strip()}"' in seen
    assert files_of_others(root.directory / "theirs", NAMELESS, ITS_GROUP) == []
