"""I/O: a gateway's ssh worker beside OpenSSH's own `ssh -L`, to the same sshd, in one run.

    python -m tests.bench.ssh [--rounds 5] [--seconds 2] [--many 200]     about 3 minutes; `make bench` runs it

Prints one table, writes build/bench/ssh.json and its part of docs/performance.md. Without sshd or ssh it says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.cpu import cpu_seconds
from tests.bench.programs import find, version
from tests.bench.ssh.ends import Connect, Target, bulk, opened, requests
from tests.bench.ssh.many import measure_many
from tests.support.debian_programs import NoProgram, find_program
from tests.support.ssh_worker import SshWorkerUnderTest
from tests.support.sshd import Sshd

PAGE = Path("docs/performance.md")
BEGIN, END = "<!-- tests.bench.ssh writes from here -->", "<!-- to here -->"
SIZE = 256 << 20
OURS, DEFAULT = "ssh worker", "ssh -L"
GOALS = {"bulk to the host": 1.0, "bulk from the host": 1.0, "requests/s, 32 connections": 0.5}


@dataclass
class System:
    name: str
    connect: Connect
    pid: int


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def forwarded(ssh: Path, box: Sshd, key: Path, target: Target, cipher: str | None) -> Iterator[System]:
    """OpenSSH's client with a local port for the target."""
    port = free_port()
    options = ["-N", "-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    options += ["-o", "LogLevel=ERROR", *(["-c", cipher] if cipher else [])]
    command = [ssh, *options, "-L", f"{port}:{target.address}", "-p", str(box.port), f"{box.user}@{box.address}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 15
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                target.listener.accept()[0].close()
                break
            if time.monotonic() > deadline:
                raise RuntimeError("ssh does not come up")
            time.sleep(0.05)
        name = f"{DEFAULT}, {cipher.partition('@')[0]}" if cipher else DEFAULT
        yield System(name, lambda _target: socket.create_connection(("127.0.0.1", port), 15), process.pid)
    finally:
        process.kill()
        process.wait()


def measure(systems: list[System], target: Target, rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Load by load, one system directly after the other; each round begins with another one."""
    loads: dict[str, Callable[[System], float]] = {
        "bulk to the host": lambda s: bulk(s.connect, target, up=True, size=SIZE) / 1e6,
        "bulk from the host": lambda s: bulk(s.connect, target, up=False, size=SIZE) / 1e6,
        "requests/s, 1 connection": lambda s: requests(s.connect, target, connections=1, seconds=seconds),
        "requests/s, 32 connections": lambda s: requests(s.connect, target, connections=32, seconds=seconds),
        "requests/s, 256 connections": lambda s: requests(s.connect, target, connections=256, seconds=seconds),
        "new connections/s": lambda s: opened(s.connect, target, seconds=seconds),
    }
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        for load, run in loads.items():
            for system in systems[number % len(systems) :] + systems[: number % len(systems)]:
                cpu = cpu_seconds([system.pid])
                value = run(system)
                used = cpu_seconds([system.pid]) - cpu
                found.setdefault(load, {}).setdefault(system.name, []).append(value)
                if load.startswith("bulk"):
                    row = f"CPU per GB {load.removeprefix('bulk ')}"
                    found.setdefault(row, {}).setdefault(system.name, []).append(used / (SIZE / 1e9))
                print(f"round {number + 1}  {load:<28} {system.name:<24} {value:,.0f}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, dict[str, list[float]]], names: list[str]) -> list[str]:
    """Rows of Markdown: medians, and ours against `ssh -L` as the median of the rounds' ratios."""
    lines = [f"|  | {' | '.join(names)} | {OURS} : {DEFAULT} | goal |", "|---" * (len(names) + 3) + "|"]
    for load, values in found.items():
        unit = " MB/s" if load.startswith("bulk") else " s" if load.startswith("CPU") else ""
        shown = [f"{statistics.median(values[name]):,.{2 if unit == ' s' else 0}f}{unit}" for name in names]
        ratio = statistics.median(a / b for a, b in zip(values[OURS], values[DEFAULT], strict=True))
        goal = GOALS.get(load)
        verdict = f"≥ {goal:g}: {'met' if ratio >= goal else 'MISSED'}" if goal else ""
        lines.append(f"| {load} | {' | '.join(shown)} | {ratio:.2f} | {verdict} |")
    return lines


def publish(lines: list[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    if begin:
        PAGE.write_text(
            before + begin + "\n\n" + "\n".join(lines) + "\n\n" + END + rest.partition(END)[2], encoding="utf-8"
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ssh")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="one measurement of requests (default 2)")
    parser.add_argument("--many", type=int, default=200, help="hosts of one worker (default 200; 0: not measured)")
    parser.add_argument("--no-docs", dest="docs", action="store_false", help="leave docs/performance.md as it is")
    asked = parser.parse_args()
    ssh = find("ssh")
    try:
        find_program("sshd")
    except NoProgram as why:
        ssh = None
        print(why, file=sys.stderr)
    if ssh is None:
        print("left out: the ssh worker beside ssh -L (needs ssh and sshd)", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        directory, target = Path(folder), Target()
        stack.enter_context(target.listener)
        box = stack.enter_context(Sshd(directory / "box", free_port(), options=["MaxSessions 1000", "MaxStartups 100"]))
        worker = stack.enter_context(SshWorkerUnderTest(directory / "worker"))
        key = box.new_user_key()
        worker.know(worker.hop(box, key))
        state = worker.wait("box", "up")
        assert worker.process is not None
        systems = [
            System(OURS, lambda address: worker.ask("box", address).alone(), worker.process.pid),
            stack.enter_context(forwarded(ssh, box, key, target, None)),
            stack.enter_context(forwarded(ssh, box, key, target, "aes128-gcm@openssh.com")),
        ]
        found = measure(systems, target, asked.rounds, asked.seconds)
    lines = table(found, [system.name for system in systems])
    lines += ["", f"- The worker spoke {state.cipher}, `ssh -L` its default; OpenSSH {version(ssh, '-V')}; medians."]
    if asked.many:
        lines.append(measure_many(asked.many))
    print("\n".join(lines))
    out = Path("build/bench")
    out.mkdir(parents=True, exist_ok=True)
    (out / "ssh.json").write_text(json.dumps(found, indent=1))
    if asked.docs and PAGE.exists():
        publish(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
