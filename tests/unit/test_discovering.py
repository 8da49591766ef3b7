"""I/O: (a made-up /proc, a fake gateway) what is looked at from which home, how, and what keeps it from being so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from agents.discovery.local import LocalSockets
from agents.discovery.remote import COMMANDS, Printed, command_line, known_program, printed, read_printed, why_not
from agents.discovery.seen import Seen
from agents.discovery.sockets import ANY, End, Look, Socket
from agents.discovery.whose import Box, Whose
from agents.operating import discovering
from bridge import limits
from inventory.errors import InputError, Unavailable
from tests.support.cli import CommandLine, copy_of, operator_home

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIb4SVOlbVWnsEYgb8hxW6uQ8JEoQe5ugrDAB1zFR6G3"
HEADING = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
ROW = "   0: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 {inode} 1\n"


def make_proc(path: Path, ports: dict[int, int], programs: dict[int, tuple[str, list[int]]]) -> Path:
    """A /proc with listeners (port -> inode) and processes (pid -> name, the inodes that it holds)."""
    (path / "net").mkdir(parents=True)
    rows = (ROW.format(port=port, inode=inode) for port, inode in ports.items())
    (path / "net" / "tcp").write_text(HEADING + "".join(rows))
    for pid, (name, inodes) in programs.items():
        (path / str(pid) / "fd").mkdir(parents=True)
        (path / str(pid) / "comm").write_text(name + "\n")
        for number, inode in enumerate(inodes):
            (path / str(pid) / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
        (path / str(pid) / "fd" / "9").symlink_to("/dev/null")
    (path / "self").mkdir()
    return path


def test_sockets_have_the_names_of_the_programs_that_hold_them(tmp_path: Path) -> None:
    programs = {7: ("sshd", [11, 12]), 8: ("\x1b[2J", [12]), 9: ("odd", [])}
    proc = make_proc(tmp_path / "proc", {22: 11, 80: 12, 443: 13}, programs)
    (proc / "9" / "fd" / "3").symlink_to("socket:[x]")
    looked = LocalSockets(proc)
    named = {sock.own.port: sock.program for sock in looked.look().sockets}
    assert named[22] == "sshd" and named[80] in ("sshd", "\x1b[2J") and named[443] == ""
    (proc / "7" / "comm").write_text("other\n")
    assert {s.own.port: s.program for s in looked.look().sockets} == named, "nothing is new: nobody is looked through"


def test_a_system_without_such_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        LocalSockets(tmp_path).look()


# --- which box ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    home = tmp_path_factory.mktemp("made")
    op = operator_home(home)
    key = home / "aix1.pub"
    key.write_text(KEY + "\n")
    reach = ("--via", "gw1", "--reach")
    op.ok("host", "add", "aix1", *reach, "ssh://mesh@10.1.0.7:2222", "--host-key", str(key))
    op.ok("host", "add", "old1", *reach, "tcp://10.1.0.9")
    op.ok("service", "publish", "ledger", "--on", "aix1", "--port", "1414")
    return op


@pytest.fixture
def op(made: CommandLine, tmp_path: Path) -> CommandLine:
    return copy_of(made, tmp_path)


def test_what_would_be_run_on_a_host_is_said_and_nothing_is(op: CommandLine) -> None:
    said = op.ok("discover", "--host", "aix1", "--for", "1h", "--explain").out.splitlines()
    path = "PATH=/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin LC_ALL=C"
    assert said[:4] == [
        f"run on aix1, over ssh by gateway gw1: env {path} {command}"
        for command in ("ss -tanp", "onetstat -a", "netstat -an", "lsof -nP -iTCP")
    ]
    assert said[-1] == "every 30 s for 3600 s; nothing is written, there or here"
    assert op.json("discover", "--host", "aix1", "--explain")["steps"][0].endswith("ss -tanp")


def test_what_would_be_read_here_is_said(op: CommandLine, tmp_path: Path) -> None:
    for home in (op, CommandLine(tmp_path / "none")):
        said = home.ok("discover", "--explain").out.splitlines()
        assert said[:2] == ["read /proc/net/tcp", "read /proc/net/tcp6"] and said[-1].startswith("once;")


@pytest.mark.parametrize(
    ("host", "code", "said"),
    [
        ("nobody", 1, "there is no host nobody"),
        ("vm1", 1, "run `meshbridge discover` there, on vm1"),
        ("old1", 1, "is reached by tcp, over which nothing can be asked of it"),
        ("aix1", 69, "no agent or gateway is running on this home"),
        ("a b", 2, "is not a host name"),
    ],
)
def test_a_host_that_cannot_be_asked(op: CommandLine, host: str, code: int, said: str) -> None:
    op.ok("host", "add", "vm1")
    assert said in op.refused(code, "discover", "--host", host)


def test_times_have_an_end(op: CommandLine) -> None:
    assert "at most 30d" in op.refused(2, "discover", "--for", "31d")
    assert "is not a duration" in op.refused(2, "discover", "--for", "soon")


async def test_a_published_port_of_a_host_is_the_bridge(op: CommandLine) -> None:
    subject = await discovering.find_subject(op.home, "aix1")
    assert subject.is_remote and subject.interval == limits.DISCOVER_INTERVAL_REMOTE
    assert subject.box == Box("aix1", is_host=True, gateway="gw1", ssh_port=2222)
    assert subject.is_bridge(End("127.0.0.1", 1414)) and not subject.is_bridge(End("10.1.0.7", 1414))
    assert subject.whose.bridged(End("127.0.0.1", 1414)) == "ledger"


# --- asking a host ------------------------------------------------------------------------------------------------

SS = Printed(code=0, out="LISTEN 0 128 0.0.0.0:22 0.0.0.0:*\n")
NONE = Printed(code=127, err="env: 'ss': No such file or directory")


class Gateway:
    """What it answers, by program; what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Printed | Exception) -> None:
        self.answers = answers
        self.asked: list[str] = []
        monkeypatch.setattr(discovering, "call", self._call)

    async def _call(self, home: Path, command: str, *, answer_within: float, host: str, program: str) -> Any:
        assert (command, host) == ("sockets", "aix1") and answer_within > limits.DISCOVER_COMMAND_TIMEOUT
        self.asked.append(program)
        answer = self.answers.get(program, NONE)
        if isinstance(answer, Exception):
            raise answer
        return {name: getattr(answer, name) for name in answer.__struct_fields__}


def remote(whose: Whose | None = None) -> discovering.Subject:
    box = Box("aix1", is_host=True, gateway="gw1")
    return discovering.Subject(box, whose or Whose(None, {}, 0.0), lambda end: False, is_remote=True)


async def test_the_first_command_that_says_something_is_the_one(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    gateway = Gateway(monkeypatch, netstat=Printed(code=0, out="tcp4 0 0 *.22 *.* LISTEN"))
    said: list[str] = []
    seen = await discovering.watch(tmp_path, remote(), seconds=65.0, say=said.append)
    assert gateway.asked == ["ss", "onetstat", *["netstat"] * 4]
    assert seen.looks == 4 and list(seen.listening) == [End(ANY, 22)]
    assert said[0] == "looking for 65 s; Ctrl-C ends it early, and reports"
    assert said[1] == "3 looks, 0 services used, 0 callers; 5 s to go"


async def test_a_host_that_has_none_of_them_says_why_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Gateway(monkeypatch, lsof=Printed(code=1, err="a\x1b[2Jb\n"), netstat=Printed(code=126))
    with pytest.raises(Unavailable) as caught:
        await discovering.watch(tmp_path, remote(), seconds=0.0, say=print)
    assert str(caught.value) == (
        "host aix1 does not say what its sockets are: ss: the host has none; onetstat: the host has none;"
        " netstat: the host has none; lsof: exit code 1, 'a\\x1b[2Jb'"
    )


async def test_a_host_that_is_away_or_refuses_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gateway = Gateway(monkeypatch, ss=Printed(reason="aix1 does not run it: no shell"))
    with pytest.raises(Unavailable, match="host aix1 cannot be asked: aix1 does not run it: no shell"):
        await discovering.watch(tmp_path, remote(), seconds=0.0, say=print)
    assert gateway.asked == ["ss"]


async def test_what_was_seen_is_reported_when_the_host_goes_away(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    gateway = Gateway(monkeypatch, ss=SS)
    said: list[str] = []
    add: Callable[[Seen, Look, float], None] = Seen.add

    def add_and_leave(self: Seen, look: Look, now: float) -> None:
        add(self, look, now)
        gateway.answers = {"ss": Unavailable("host aix1 did not answer")}

    monkeypatch.setattr(Seen, "add", add_and_leave)
    seen = await discovering.watch(tmp_path, remote(), seconds=3600.0, say=said.append)
    assert seen.looks == 1
    assert said.count("this look failed: host aix1 did not answer") == limits.DISCOVER_FAILURES


async def test_an_answer_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def call(*args: object, **named: object) -> object:
        return {"out": 7}

    monkeypatch.setattr(discovering, "call", call)
    with pytest.raises(InputError, match="the gateway's answer is not one"):
        await discovering.watch(tmp_path, remote(), seconds=0.0, say=print)


def test_only_the_known_commands_are_run() -> None:
    assert [known_program(name) for name in COMMANDS] == list(COMMANDS)
    with pytest.raises(InputError, match="is not a command for this"):
        known_program("rm -rf /")
    assert command_line("ss") == "env PATH=/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin LC_ALL=C ss -tanp"


def test_h30_what_a_host_prints_is_passed_on_harmless_and_bounded() -> None:
    out = bytes(range(256)) * (limits.DISCOVER_TEXT_MAX // 128)
    made = printed(0, out, b"\x1b]0;" * 1000, is_cut=True, reason="")
    assert len(made.out) == limits.DISCOVER_TEXT_MAX and len(made.err) <= 200
    assert made.out.isascii() and made.out.replace("\n", "").replace("\t", "").isprintable() and made.err.isprintable()
    assert read_printed("ss", made) is None and why_not("ss", Printed(code=3)).endswith("nothing that can be read")
    cut = dataclasses.replace(Look((Socket("listening", End(ANY, 22), None),)), is_cut=True)
    assert read_printed("ss", Printed(code=0, out=SS.out, is_cut=True)) == cut


# --- an interrupt -------------------------------------------------------------------------------------------------


async def test_an_interrupt_reports_what_was_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os
    import signal

    Gateway(monkeypatch, ss=SS)
    said: list[str] = []
    add: Callable[[Seen, Look, float], None] = Seen.add

    def add_and_interrupt(self: Seen, look: Look, now: float) -> None:
        add(self, look, now)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Seen, "add", add_and_interrupt)
    seen = await discovering.watch(tmp_path, remote(), seconds=3600.0, say=said.append)
    assert seen.looks == 1 and list(seen.listening) == [End(ANY, 22)]
