"""I/O: `dial` is a pipe to a service: binary, large, both ways, with half-close; and it says no when policy does."""

from __future__ import annotations

import hashlib
import random
import subprocess
from pathlib import Path

from tests.support.estate import Estate
from tests.support.pair import CLIENT, SERVER, start_pair

SIZE = 3_000_000


def dial(estate: Estate, home: str, name: str, *, stdin: bytes | Path) -> subprocess.CompletedProcess[bytes]:
    command = estate.command(home, "dial", name)
    if isinstance(stdin, Path):
        with stdin.open("rb") as file:
            return subprocess.run(command, stdin=file, capture_output=True, timeout=60, check=False)
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)


def test_dial_joins_stdin_and_stdout_to_a_service(estate: Estate, seed: int) -> None:
    kinds = {kind: f"127.0.0.1:{estate.start_server(kind)}" for kind in ("echo", "digest", "hold")}
    start_pair(estate, kinds, direct=True)
    data = random.Random(seed).randbytes(SIZE)
    file = estate.path / "data"
    file.write_bytes(data)

    done = dial(estate, CLIENT, "digest", stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split() == [str(SIZE), hashlib.sha256(data).hexdigest()], "the answer after half-close"

    done = dial(estate, CLIENT, "echo.bridge.internal", stdin=file)
    assert (done.returncode, done.stdout == data) == (0, True), "a file as stdin, byte for byte both ways"

    refused = dial(estate, SERVER, "echo", stdin=b"")
    assert refused.returncode == 1
    assert refused.stdout == b""
    assert refused.stderr.startswith(b"meshbridge: ")
    unknown = dial(estate, CLIENT, "nonsense", stdin=b"")
    assert unknown.returncode == 1
    assert dial(estate, CLIENT, "not a name", stdin=b"").returncode == 64

    one_line = (
        f"meshbridge() {{ {' '.join(estate.command(CLIENT, 'dial', 'hold'))}; }}; meshbridge </dev/zero | head -c 4"
    )
    done = subprocess.run(["bash", "-c", one_line], capture_output=True, timeout=60, check=False)
    assert len(done.stdout) == 4
    assert done.stderr == b"", "nobody reading any more is no error to talk about"

    estate.kill9(CLIENT)
    gone = dial(estate, CLIENT, "echo", stdin=b"")
    assert gone.returncode == 69
    assert b"agent run" in gone.stderr
