"""I/O: an estate of real nodes for one test: one operator's home with a gateway, hosts with homes of their own.

    with Estate(tmp_path) as estate:
        estate.init()
        estate.start_gateway()
        estate.add_host("vm1", serve=["web"])
        estate.add_host("vm2")
        web = estate.start_server("http", name="web-1")
        estate.service_add("web", host="vm1", target=f"127.0.0.1:{web}", port=8080)
        estate.apply_policy(allow("host:vm2", "web"))
        for name in ("vm1", "vm2"):
            estate.start_agent(name)
        address = estate.ok("vm2", "resolve", "web").strip()

Everything goes through the command line (design, section 13), as an operator would. Each estate has slices of
127.0.0.0/8 and ports that no other estate on the machine uses, so tests may run side by side. Methods block: an async
test that serves something itself calls them with `trio.to_thread.run_sync`.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.support.processes import RunningProcess

ROOT = Path(__file__).parents[2]
MESHBRIDGE = (sys.executable, "-m", "cli.main")
OPERATOR = "op"
"""Home of the operator and of the first gateway."""
TRUST_DOMAIN = "t.internal"
COMMAND_TIMEOUT = 30.0
READY_TIMEOUT = 30.0
RESERVATION_PORT = 5299


def allow(source: str, service: str, *, name: str = "test") -> str:
    """A policy file with one rule."""
    return f'[[allow]]\nname = "{name}"\nfrom = ["{source}"]\nto = ["{service}"]\n'


class Estate:
    """All nodes and servers of one test. Leaving the `with` block ends every process."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.logs = tmp_path / "logs"
        self.logs.mkdir()
        self.gateway_address = ""
        self.init_options: tuple[str, ...] = ()
        """Added to every `init`: which registry, when the test is run with more than one."""
        self.nodes: dict[str, RunningProcess] = {}
        self.prefixes: dict[str, tuple[str, ...]] = {}
        """Words before every command of a home: `ip netns exec ...`, `prlimit ...`."""
        self.options: dict[str, tuple[str, ...]] = {}
        """Words after the `run` of a home's node: `--metrics ...`."""
        self.programs: dict[str, tuple[str, ...]] = {}
        """What runs a home's node in the place of `-m cli.main`."""
        self.variables: dict[str, str] = {}
        """Added to the environment of everything."""
        self._started: list[RunningProcess] = []
        self._reserved: list[socket.socket] = []
        self._ports: set[int] = set()
        self._slices = 0
        self._net = self._reserve_net()

    # --- Addresses that no one else has ---------------------------------------------------------------------------

    def _reserve_net(self) -> str:
        """`127.X`, held for the life of this estate by a listening socket in it that nothing else binds."""
        for number in random.sample([*range(64, 96), *range(128, 255)], 40):
            holder = socket.socket()
            try:
                holder.bind((f"127.{number}.255.254", RESERVATION_PORT))
                holder.listen(1)
            except OSError:
                holder.close()
                continue
            self._reserved.append(holder)
            return f"127.{number}"
        raise RuntimeError("no free slice of 127.0.0.0/8: too many estates at once")

    def next_slice(self) -> str:
        """A fresh CIDR for one host: at most 15 hosts of 4,094 addresses each."""
        assert self._slices < 15, "an estate has 15 slices"
        self._slices += 1
        return f"{self._net}.{(self._slices - 1) * 16}.0/20"

    def free_port(self, address: str = "127.0.0.1") -> int:
        """A port free at `address` now. Below the kernel's ephemeral range, so that no outgoing connection takes it."""
        for port in random.sample(range(10240, 32768), 200):
            if port in self._ports:
                continue
            with socket.socket() as probe:
                try:
                    probe.bind((address, port))
                except OSError:
                    continue
            self._ports.add(port)
            return port
        raise RuntimeError(f"no free port at {address}")

    def free_endpoint(self) -> str:
        """`127.0.0.1:PORT` for `add_host(listen=...)`."""
        return f"127.0.0.1:{self.free_port()}"

    # --- Commands -------------------------------------------------------------------------------------------------

    def home(self, name: str) -> Path:
        return self.path / name

    def command(self, home: str, *args: str) -> list[str]:
        return [*self.prefixes.get(home, ()), *MESHBRIDGE, "--home", str(self.home(home)), *args]

    def environment(self) -> dict[str, str]:
        """Ours without anything that could lead a command to another home."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MESHBRIDGE_", "XDG_"))}
        return {**kept, "HOME": str(self.path), "PYTHONUNBUFFERED": "1", **self.variables}

    def cli(
        self, home: str, *args: str, input: str | None = None, timeout: float = COMMAND_TIMEOUT
    ) -> subprocess.CompletedProcess[str]:
        """Runs one command to its end; whether its exit code is right is the caller's question."""
        return subprocess.run(
            self.command(home, *args),
            cwd=ROOT,
            env=self.environment(),
            input=input if input is not None else "",
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=timeout,
            check=False,
        )

    def ok(self, home: str, *args: str, input: str | None = None, timeout: float = COMMAND_TIMEOUT) -> str:
        """Runs one command that has to succeed; its standard output."""
        done = self.cli(home, *args, input=input, timeout=timeout)
        shown = f"meshbridge --home {home} {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, shown
        return done.stdout

    # --- The operator's steps -------------------------------------------------------------------------------------

    def init(self, *args: str, gateway: str | None = None) -> None:
        """`gateway` is its ADDR:PORT as others dial it; further options go to the command as they are."""
        self.gateway_address = gateway or self.free_endpoint()
        self.ok(
            OPERATOR,
            "init",
            "--domain",
            TRUST_DOMAIN,
            "--gateway",
            f"gw1={self.gateway_address}",
            *self.init_options,
            *args,
        )

    def add_host(
        self,
        name: str,
        *,
        serve: Sequence[str] = (),
        addresses: str | None = None,
        listen: str | None = None,
        labels: Mapping[str, str] | None = None,
        site: str | None = None,
    ) -> None:
        """Records a host and enrols it; the gateway must run. Without `listen` the host can only dial out."""
        options = [arg for service in serve for arg in ("--serve", service)]
        options += [arg for key, value in (labels or {}).items() for arg in ("--label", f"{key}={value}")]
        options += ["--site", site] if site else []
        token = self.ok(OPERATOR, "host", "add", name, *options)
        reach = ["--listen", listen, "--advertise", listen] if listen else []
        self.ok(name, "agent", "join", "-", "--addresses", addresses or self.next_slice(), *reach, input=token)

    def service_add(self, name: str, *args: str, host: str, target: str, port: int) -> None:
        where = ["--host", host, "--target", target, "--port", str(port)]
        self.ok(OPERATOR, "service", "add", name, *where, *args)

    def apply_policy(self, text: str, message: str = "test") -> None:
        file = self.path / "policy.toml"
        file.write_text(text, encoding="utf-8")
        self.ok(OPERATOR, "policy", "apply", str(file), "-m", message)

    # --- Processes ------------------------------------------------------------------------------------------------

    def start(self, name: str, argv: Sequence[str]) -> RunningProcess:
        """Starts any process of this test; `name` names its output files."""
        number = len(self._started)
        process = RunningProcess(f"{number:02}-{name}", argv, logs=self.logs, cwd=ROOT, env=self.environment())
        self._started.append(process)
        return process

    def start_gateway(self, *args: str, home: str = OPERATOR, ready: bool = True) -> RunningProcess:
        return self._start_node(home, "gateway", *args, ready=ready)

    def start_agent(self, name: str, *args: str, ready: bool = True) -> RunningProcess:
        return self._start_node(name, "agent", *args, ready=ready)

    def _start_node(self, home: str, kind: str, *args: str, ready: bool) -> RunningProcess:
        command = self.command(home, kind, "run", *self.options.get(home, ()), *args)
        at = command.index(MESHBRIDGE[1])
        command[at : at + 2] = self.programs.get(home, MESHBRIDGE[1:])
        self.nodes[home] = self.start(home, command)
        if ready:
            self.wait_ready(home)
        return self.nodes[home]

    def wait_ready(self, home: str, timeout: float = READY_TIMEOUT) -> str:
        """The node's ready line."""
        return self.nodes[home].stderr.wait_for(" is ready", timeout)

    def start_server(self, kind: str, *, name: str | None = None, host: str = "127.0.0.1", delay: float = 0.0) -> int:
        """A server of tests/support/servers.py as a process; the port it listens on."""
        shown = name or kind
        argv = [sys.executable, "-m", "tests.support.servers", kind, "--host", host, "--name", shown]
        server = self.start(f"server-{shown}", [*argv, "--delay", str(delay)])
        self.nodes[shown] = server
        return int(server.stdout.wait_for("", READY_TIMEOUT))

    def kill9(self, name: str) -> None:
        self.nodes[name].kill9()

    def terminate(self, name: str) -> int:
        """SIGTERM and wait; the exit code."""
        return self.nodes[name].terminate()

    def last_words(self) -> list[tuple[str, str]]:
        """What each process wrote to stderr, for the report of a failed test."""
        said = [(f"stderr of {process.name}", process.stderr.tail()) for process in self._started]
        return [(title, text) for title, text in said if text]

    def __enter__(self) -> Estate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.ExitStack() as stack:
            for holder in self._reserved:
                stack.callback(holder.close)
            for process in self._started:
                stack.callback(process.end)
            for process in reversed(self._started):  # all at once: each takes a moment to say goodbye
                process.ask_to_end()
