"""I/O: `meshbridge demo`: the whole thing on this machine, with real processes, real clients and real traffic.

A gateway and three hosts, each with its own home and its own slice of the loopback addresses: `lpar7` stands for a
mainframe partition and `vm1` for a VM, both can only dial out; `web` runs containers and can be dialled. Each step says
in one line what it showed; the exit code is 0 only if every step did what it says.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import click
import trio

from cli.demo_services import EBCDIC, NEWLINE
from inventory.errors import Unavailable

HOSTS = {"lpar7": "127.101.0.0/16", "vm1": "127.102.0.0/16", "web": "127.103.0.0/16"}
DNS = {"lpar7": "127.101.0.1", "vm1": "127.102.0.1", "web": "127.103.0.1"}
_DNS_PORT = 5300
_STEP_TIMEOUT = 20.0
_READY_TIMEOUT = 15.0
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

POLICY = """\
[[allow]]
name = "orders and sites read the ledger"
from = ["host:vm1"]
to = ["ledger"]

[[allow]]
name = "the mainframe and the shop call orders"
from = ["host:lpar7", "label:role=shop"]
to = ["orders"]

[[allow]]
name = "everybody sees the shop"
from = ["host:*"]
to = ["shop"]
"""
TERMINAL_RULE = """
[[allow]]
name = "operators use terminals"
from = ["host:vm1"]
to = ["terminal"]
"""


class StepFailed(Exception):
    """A step did not do what it says."""


class Demo:
    """The estate of the demo: its directory and its processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}

    # --- processes ------------------------------------------------------------------------------------------------

    async def command(self, home: str, *arguments: str, stdin: str | None = None) -> str:
        """A meshbridge command as a person would type it; what it printed. Raises StepFailed."""
        done = await trio.run_process(
            [*program(self, home), *arguments],
            stdin=(stdin or "").encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        if done.returncode != 0:
            raise StepFailed(f"meshbridge --home {home} {' '.join(arguments)}: {done.stderr.decode().strip()}")
        return done.stdout.decode().strip()

    async def node(self, home: str, *arguments: str) -> None:
        """Start `gateway run` or `agent run` and wait for its ready line."""
        log = self.directory / f"{home}.log"
        with log.open("ab") as stderr:
            self.processes[home] = subprocess.Popen(  # noqa: ASYNC220 - a fork and exec
                [*program(self, home), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )
        with trio.move_on_after(_READY_TIMEOUT):
            while b"ready" not in log.read_bytes():
                if self.processes[home].poll() is not None:
                    raise StepFailed(f"{home} ended: {log.read_text().strip()}")
                await trio.sleep(0.05)
            return
        raise StepFailed(f"{home} was not ready in time: {log.read_text().strip()}")

    async def service(self, name: str, kind: str) -> int:
        """Start a demo service; the port it listens on."""
        process = subprocess.Popen(  # noqa: ASYNC220 - a fork and exec
            [sys.executable, "-m", "cli.demo_services", kind, name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.processes[name] = process
        assert process.stdout is not None
        line = await trio.to_thread.run_sync(process.stdout.readline)
        self.ports[name] = int(line)
        return self.ports[name]

    def kill(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)

    def end(self) -> None:
        """End every process that the demo started, and no other."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
        for process in self.processes.values():
            process.wait()

    # --- clients --------------------------------------------------------------------------------------------------

    async def address(self, host: str, service: str) -> str:
        """The service's address by a real DNS query to the host's own DNS server."""
        import dns.asyncquery
        import dns.exception
        import dns.message
        import dns.rdatatype

        question = dns.message.make_query(f"{service}.bridge.internal", "A")
        with trio.move_on_after(_STEP_TIMEOUT):
            while True:
                with contextlib.suppress(OSError, dns.exception.DNSException):
                    answer = await dns.asyncquery.udp(question, DNS[host], port=_DNS_PORT, timeout=2)
                    for rrset in answer.answer:
                        if rrset.rdtype == dns.rdatatype.A:
                            return str(rrset[0])
                await trio.sleep(0.1)
        raise StepFailed(f"{service} has no address on {host}")

    async def http(self, host: str, service: str, port: int) -> str:
        """One HTTP request by name from a host; the body."""
        address = await self.address(host, service)
        return await http_get(address, port)


def program(demo: Demo, home: str) -> list[str]:
    return [sys.executable, "-m", "cli.main", "--home", str(demo.directory / home)]


async def http_get(address: str, port: int) -> str:
    """One request on a connection of its own. Raises StepFailed."""
    with trio.move_on_after(_STEP_TIMEOUT):
        try:
            async with await trio.open_tcp_stream(address, port) as stream:
                await stream.send_all(f"GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join([chunk async for chunk in stream])
        except OSError as exc:
            raise StepFailed(f"{address}:{port}: {exc}") from None
        except trio.BrokenResourceError:
            raise StepFailed(f"{address}:{port}: the connection was cut") from None
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise StepFailed(f"{address}:{port}: no answer")
        return body.decode().strip()
    raise StepFailed(f"{address}:{port}: no answer in time")


async def until(what: str, attempt: Callable[[], Awaitable[str]]) -> str:
    """Try until it works (things are still starting), at most _STEP_TIMEOUT."""
    reason = ""
    with trio.move_on_after(_STEP_TIMEOUT):
        while True:
            try:
                return await attempt()
            except StepFailed as exc:
                reason = str(exc)
                await trio.sleep(0.1)
    raise StepFailed(f"{what}: {reason}")


# --- the steps ----------------------------------------------------------------------------------------------------


async def build(demo: Demo) -> str:
    """A trust domain, a gateway, three hosts enrolled with tokens, their services registered, a policy signed."""
    port = free_port()
    await demo.command("op", "init", "--domain", "demo.internal", "--gateway", f"gw1=127.0.0.1:{port}")
    await demo.node("op", "gateway", "run")
    web_port = free_port()
    for name, addresses in HOSTS.items():
        labels = ["--label", "role=shop"] if name == "web" else []
        token = await demo.command("op", "host", "add", name, *labels)
        dialable = (
            ["--listen", f"127.0.0.1:{web_port}", "--advertise", f"127.0.0.1:{web_port}"] if name == "web" else []
        )
        await demo.command(name, "agent", "join", "-", "--addresses", addresses, *dialable, stdin=token)
    async with trio.open_nursery() as nursery:
        for name in HOSTS:
            nursery.start_soon(demo.node, name, "agent", "run")
        for name, kind in (("ledger", "ebcdic"), ("terminal", "terminal"), ("orders", "http")):
            nursery.start_soon(demo.service, name, kind)
        for name in ("shop-1", "shop-2"):
            nursery.start_soon(demo.service, name, "http")
    for service, host, process, listen in (
        ("ledger", "lpar7", "ledger", 7001),
        ("terminal", "lpar7", "terminal", 3270),
        ("orders", "vm1", "orders", 8080),
        ("shop", "web", "shop-1", 8081),
        ("shop", "web", "shop-2", 8081),
    ):
        await add_instance(demo, service, host, process, listen)
    await apply(demo, POLICY + TERMINAL_RULE, "the demo's policy")
    return f"gateway on one port ({port}); lpar7 and vm1 only dial out; 4 services, 5 instances, 1 signed policy"


async def add_instance(demo: Demo, service: str, host: str, process: str, port: int) -> None:
    target = f"127.0.0.1:{demo.ports[process]}"
    await demo.command("op", "service", "add", service, "--host", host, "--target", target, "--port", str(port))


async def apply(demo: Demo, text: str, message: str) -> None:
    file = demo.directory / "policy.toml"
    file.write_text(text)
    await demo.command("op", "policy", "apply", str(file), "-m", message)


async def ebcdic_call(demo: Demo) -> str:
    """vm1 asks the mainframe in its own code page."""
    address = await demo.address("vm1", "ledger")

    async def ask() -> str:
        try:
            async with await trio.open_tcp_stream(address, 7001) as stream:
                await stream.send_all("BALANCE 4711".encode(EBCDIC) + NEWLINE)
                answer = await stream.receive_some()
        except (OSError, trio.BrokenResourceError) as exc:
            raise StepFailed(str(exc)) from None
        if not answer:
            raise StepFailed("the connection was closed")
        return bytes(answer).rstrip(NEWLINE).decode(EBCDIC)

    said = await until("ledger", ask)
    if said != "ACCOUNT 4711 BALANCE 1024.00":
        raise StepFailed(f"the ledger said {said!r}")
    return f"vm1 -> ledger.bridge.internal:7001 on lpar7, in EBCDIC, through the gateway: {said!r}"


async def http_call_back(demo: Demo) -> str:
    """The other direction: the mainframe calls the VM."""
    body = await until("orders", lambda: demo.http("lpar7", "orders", 8080))
    return f"lpar7 -> orders.bridge.internal:8080 on vm1, HTTP, through the gateway: {body!r}"


async def direct_call(demo: Demo) -> str:
    """vm1 can dial web: no gateway in between."""
    body = await until("shop", lambda: demo.http("vm1", "shop", 8081))
    status = await demo.command("vm1", "-o", "json", "status")
    if '"direct"' not in status:
        raise StepFailed("the tunnel to web is not direct")
    return f"vm1 -> shop.bridge.internal:8081 on web, HTTP, by a direct tunnel: {body!r}"


async def refused(demo: Demo) -> str:
    """web has no rule for the ledger: it is not even shown its name, and the operator can see why."""
    done = await trio.run_process(
        [*program(demo, "web"), "dial", "ledger"],
        stdin=b"",
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    if done.returncode != 1:
        raise StepFailed(f"dial ended with {done.returncode}: {done.stderr.decode().strip()}")
    explained = await trio.run_process(
        [
            sys.executable,
            "-m",
            "cli.main",
            "--home",
            str(demo.directory / "op"),
            "policy",
            "explain",
            "host:web",
            "ledger",
        ],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    if explained.returncode != 1:
        raise StepFailed(f"explain ended with {explained.returncode}: {explained.stderr.decode().strip()}")
    first = explained.stdout.decode().strip().splitlines()[0]
    return f"web -> ledger is refused: {first}"


async def seen(name: str, answers: dict[str, int]) -> str:
    if name not in answers:
        raise StepFailed(f"only {', '.join(answers)} answered")
    return name


async def kill_under_load(demo: Demo) -> str:
    """One of two instances stops under load and a new one takes its place: no request fails."""
    address = await demo.address("vm1", "shop")
    answers: dict[str, int] = {}
    failed: list[str] = []

    async def client(stop: trio.Event) -> None:
        while not stop.is_set():
            try:
                body = await http_get(address, 8081)
                answers[body] = answers.get(body, 0) + 1
            except StepFailed as exc:
                failed.append(str(exc))

    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        for _ in range(8):
            nursery.start_soon(client, stop)
        await trio.sleep(1.0)
        demo.kill("shop-1", signal.SIGTERM)
        await trio.sleep(1.0)
        await demo.service("shop-3", "http")
        await add_instance(demo, "shop", "web", "shop-3", 8081)
        await demo.command(
            "op", "service", "remove", "shop", "--host", "web", "--target", f"127.0.0.1:{demo.ports['shop-1']}"
        )
        await until("the new instance takes requests", lambda: seen("shop-3", answers))
        stop.set()
    if failed:
        raise StepFailed(f"{len(failed)} requests failed, the first: {failed[0]}")
    shares = ", ".join(f"{name} {count}" for name, count in sorted(answers.items()))
    return f"shop-1 killed and replaced by shop-3 under load: {sum(answers.values())} requests, 0 failed ({shares})"


async def policy_cuts(demo: Demo) -> str:
    """A live session is cut when the policy no longer allows it."""
    address = await demo.address("vm1", "terminal")
    stream = await trio.open_tcp_stream(address, 3270)
    async with stream:
        first = await stream.receive_some()
        if not first:
            raise StepFailed("no session")
        ended: list[float] = []

        async def watch() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
            ended.append(trio.current_time())

        with trio.move_on_after(_STEP_TIMEOUT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await apply(demo, POLICY, "terminals are closed")
                returned = trio.current_time()
    if not ended:
        raise StepFailed("the session goes on although no rule allows it")
    took = (ended[0] - returned) * 1000
    when = f"{took:.0f} ms after" if took > 0 else "before"
    return f"a live terminal session was cut {when} the command that took its rule away had returned"


async def without_gateway(demo: Demo) -> str:
    """kill -9 of the gateway: direct tunnels go on, new streams too."""
    address = await demo.address("vm1", "shop")
    demo.kill("op", signal.SIGKILL)
    demo.processes["op"].wait()
    for _ in range(20):
        await http_get(address, 8081)
    return "gateway killed (SIGKILL): 20 of 20 new requests vm1 -> shop went on by the direct tunnel"


async def show_status(demo: Demo) -> str:
    click.echo(await demo.command("vm1", "status"))
    return "status of vm1, above: what it knows, what it reaches, what is wrong (the gateway is away)"


STEPS: tuple[Callable[[Demo], Awaitable[str]], ...] = (
    build,
    ebcdic_call,
    http_call_back,
    direct_call,
    refused,
    kill_under_load,
    policy_cuts,
    without_gateway,
    show_status,
)


def check_addresses() -> None:
    """Raises Unavailable: somebody has the addresses of the demo, most likely another demo."""
    for address in DNS.values():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.bind((address, _DNS_PORT))
            except OSError as exc:
                raise Unavailable(
                    f"the demo cannot listen on {address}:{_DNS_PORT}: {exc.strerror}",
                    hint="end the demo that runs here already (`meshbridge demo --keep` says how), or whatever has it",
                ) from None


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.asynccontextmanager
async def estate(keep: bool) -> AsyncIterator[Demo]:
    directory = Path(tempfile.mkdtemp(prefix="meshbridge-demo-"))
    demo = Demo(directory)
    kept = False
    try:
        yield demo
        kept = keep
    finally:
        if not kept:
            demo.end()
            shutil.rmtree(directory, ignore_errors=True)


async def run(keep: bool) -> bool:
    """The demo, until it is over or told to end (_ENDS). Raises KeyboardInterrupt then, with everything cleared up."""
    done: list[bool] = []
    # What is ignored stays so: SIGHUP under nohup, SIGINT of a script's background job.
    heeded = [n for n in _ENDS if n == signal.SIGTERM or signal.getsignal(n) != signal.SIG_IGN]
    with trio.open_signal_receiver(*heeded) as told:
        async with trio.open_nursery() as nursery:

            async def show() -> None:
                done.append(await show_all(keep))
                nursery.cancel_scope.cancel()

            nursery.start_soon(show)
            async for _ in told:
                nursery.cancel_scope.cancel()
    if not done:
        raise KeyboardInterrupt
    return done[0]


async def show_all(keep: bool) -> bool:
    began = trio.current_time()
    async with estate(keep) as demo:
        for step in STEPS:
            failure: list[str] = []
            try:
                click.echo(f"ok    {await step(demo)}")
            except* StepFailed as group:
                failure = [str(exc) for exc in group.exceptions]
            if failure:
                click.echo(f"FAIL  {step.__name__.replace('_', ' ')}: {failure[0]}")
                return False
        click.echo(f"done in {trio.current_time() - began:.0f} s")
        if keep:
            await demo.node("op", "gateway", "run")
            await apply(demo, POLICY + TERMINAL_RULE, "terminals again")
            say_how_to_play(demo)
    return True


def say_how_to_play(demo: Demo) -> None:
    program = f"{sys.executable} -m cli.main" if shutil.which("meshbridge") is None else "meshbridge"
    d = demo.directory
    click.echo(f"\nEverything keeps running in {d}. Try:")
    for line in (
        f"{program} --home {d}/op status",
        f"{program} --home {d}/vm1 status",
        f"{program} --home {d}/op policy show",
        f"{program} --home {d}/op policy explain host:web ledger",
        f"{program} --home {d}/op flows",
        f"curl http://$({program} --home {d}/vm1 resolve shop):8081/",
        f"dig @{DNS['vm1']} -p {_DNS_PORT} shop.bridge.internal",
    ):
        click.echo(f"  {line}")
    pids = " ".join(str(p.pid) for p in demo.processes.values() if p.poll() is None)
    click.echo(f"End it with:\n  kill {pids}; rm -r {d}")


@click.command(epilog="Example: meshbridge demo --keep")
@click.option("--keep", is_flag=True, help="Leave everything running, and print the commands to play with it.")
def demo(keep: bool) -> int:
    """Show the whole thing on this machine, with real processes and traffic, in under a minute."""
    os.umask(0o077)
    check_addresses()
    return 0 if trio.run(run, keep) else 1
