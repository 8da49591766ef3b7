"""Pure: how a check is written. Parsed once into typed values; never a regular expression, never a shell.

    check     = probe *( ";" option )
    probe     = "tcp" [ ":" ADDR:PORT ]
              | "http:" PATH            GET, judged by its status alone; redirects are never followed
              | "http://" ADDR:PORT PATH
              | ( "tls" | "ssh" | "ftp" | "tn3270" ) [ ":" ADDR:PORT ]      see docs/operations.md; without logging in
              | "exec:" PROGRAM *( " " ARGUMENT )        quoted as in a shell, run without one; exit code 0 passes
              | exchange *( " " exchange )               in this order over one connection
    exchange  = "send:" STRING | "expect:" STRING        expect passes when the bytes arrive, whatever came before them
    PATH      = "/" … [ ( "?" | "&" ) "expect=" STATUS *( "," STATUS ) ]      at its end; default 200-399
    STATUS    = code | code "-" code                     200, 200-299
    STRING    = '"' … '"' with \\r \\n \\t \\0 \\\\ \\" in the code page, and \\xNN for one byte as it is
    option    = "interval=" TIME | "timeout=" TIME | "rise=" N | "fall=" N
              | "ebcdic=" CODE-PAGE                    of send, expect and screen
              | "name=" HOST | "warn=" DAYS            of tls: the name to ask for; days before the certificate's end
              | "key=SHA256:" FINGERPRINT              of ssh: the host key that it must be, as ssh-keygen -l prints it
              | "device=" TYPE | "lu=" NAME | "screen=" STRING    of tn3270: what to ask for; what its screen must hold
    TIME      = 2, 2s, 500ms, 1m

An address, where one is written, must be the instance's own target: a check reaches nothing else (C38).

    tcp
    http:/health?expect=200,204;interval=5s;fall=3
    exec:/usr/lib/nagios/plugins/check_mq -Q ORDERS;timeout=10s
    expect:"220 " send:"QUIT\\r\\n" expect:"221 "
    send:"PING\\n" expect:"PONG";ebcdic=cp037
    tn3270;lu=CHECK01;screen="WELCOME TO CICS"
    tls;name=db.corp;warn=30
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import NoReturn

from agents.checks.kinds import (
    CheckSpec,
    ExchangeProbe,
    ExecProbe,
    Expect,
    FtpProbe,
    HttpProbe,
    Probe,
    Send,
    SshProbe,
    TcpProbe,
    TlsProbe,
    Tn3270Probe,
)
from bridge import limits
from inventory.endpoints import Endpoint, parse_endpoint
from inventory.errors import InputError
from inventory.names import parse_dotted, shown

INTERVAL_MIN, INTERVAL_MAX = 0.1, 3600.0
TIMEOUT_MIN, TIMEOUT_MAX = 0.1, 60.0
COUNT_MAX = 20
STEPS_MAX = 32
CODE_PAGES = ("cp037", "cp273", "cp424", "cp500", "cp875", "cp1026", "cp1140")
"""The EBCDIC code pages that Python knows."""

_OPTIONS_OF: dict[str, tuple[type[Probe], ...]] = {
    "ebcdic": (ExchangeProbe, Tn3270Probe),
    "name": (TlsProbe,),
    "warn": (TlsProbe,),
    "key": (SshProbe,),
    "device": (Tn3270Probe,),
    "lu": (Tn3270Probe,),
    "screen": (Tn3270Probe,),
}
_OPTIONS = ("interval", "timeout", "rise", "fall", *_OPTIONS_OF)
_WORDS: dict[type[Probe], str] = {
    ExchangeProbe: "send and expect",
    Tn3270Probe: "tn3270",
    TlsProbe: "tls",
    SshProbe: "ssh",
}
_BY_NAME: dict[str, Probe] = {
    "tcp": TcpProbe(),
    "tls": TlsProbe(),
    "ssh": SshProbe(),
    "ftp": FtpProbe(),
    "tn3270": Tn3270Probe(),
}
_PACE: dict[type[Probe], tuple[float, float, float]] = {
    TlsProbe: (limits.CHECK_INTERVAL_DEAR, limits.CHECK_TIMEOUT_DEAR, INTERVAL_MIN),
    FtpProbe: (limits.CHECK_INTERVAL_DEAR, limits.CHECK_TIMEOUT_DEAR, INTERVAL_MIN),
    Tn3270Probe: (limits.CHECK_INTERVAL_DEAR, limits.CHECK_TIMEOUT_DEAR, INTERVAL_MIN),
    SshProbe: (limits.CHECK_INTERVAL_SSH, limits.CHECK_TIMEOUT_DEAR, limits.CHECK_INTERVAL_SSH_MIN),
}
"""Default interval and timeout, and the shortest interval; of all others those of limits.py."""
_TIME = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(ms|s|m)?", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}
_EXPECT = re.compile(r"[?&]expect=([^?&]*)$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_DEVICE = re.compile(r"[A-Z0-9-]{1,40}", re.ASCII)
_LU = re.compile(r"[A-Z0-9@#$.]{1,17}", re.ASCII)
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}", re.ASCII)
_EXCHANGE = re.compile(r'(send|expect):"((?:[^"\\]|\\.)*)"(?: +|$)')
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_SIMPLE_ESCAPES = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\", '"': '"'}


def parse_check(text: str | None, *, target: Endpoint | None = None, allow_exec: bool = False) -> CheckSpec:
    """A check as an operator wrote it; None is a plain `tcp`.

    Args:
        target: the instance's own target, the only address a check may name; None: it may name none.
        allow_exec: the text is from this machine's services.toml or from an entry an operator signed. A host's own
            word never makes another machine run a program.

    Raises:
        InputError: with the position (characters, from 1) in `where`.
    """
    if text is None:
        return CheckSpec()
    if len(text) > limits.CHECK_SPEC_MAX:
        _refuse(0, f"a check has {len(text)} characters, at most {limits.CHECK_SPEC_MAX} are allowed")
    (_, first), *rest = _split(text)
    options = _options(rest)
    page = options.get("ebcdic", (0, "ascii"))[1]
    probe = _probe(first, target=target, allow_exec=allow_exec, page=page)
    for name, kinds in _OPTIONS_OF.items():
        if name in options and not isinstance(probe, kinds):
            _refuse(options[name][0], f"{name}= is for {' and '.join(_WORDS[kind] for kind in kinds)} only")
    default = (limits.CHECK_INTERVAL, limits.CHECK_TIMEOUT, INTERVAL_MIN)
    interval, timeout, shortest = _PACE.get(type(probe), default)
    return CheckSpec(
        probe=_with_options(probe, options),
        interval=_time(options, "interval", interval, (shortest, INTERVAL_MAX)),
        timeout=_time(options, "timeout", timeout, (TIMEOUT_MIN, TIMEOUT_MAX)),
        rise=_count(options, "rise", limits.CHECK_RISE),
        fall=_count(options, "fall", limits.CHECK_FALL),
    )


def _refuse(position: int, what: str, hint: str = "") -> NoReturn:
    raise InputError(what, where=f"check, character {position + 1}", hint=hint)


def _split(text: str) -> list[tuple[int, str]]:
    """The parts between semicolons outside quotes, each with where it starts."""
    parts: list[tuple[int, str]] = []
    start, at, quote = 0, 0, ""
    while at < len(text):
        char = text[at]
        if char == "\\" and quote != "'":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote, opened = char, at
        elif char == ";":
            parts.append((start, text[start:at]))
            start = at + 1
        at += 1
    if quote:
        _refuse(opened, f"the quote {quote} is never closed")
    return [*parts, (start, text[start:])]


def _options(parts: list[tuple[int, str]]) -> Mapping[str, tuple[int, str]]:
    """Option values by name, each with where it starts."""
    found: dict[str, tuple[int, str]] = {}
    for position, part in parts:
        name, equals, value = part.partition("=")
        if name not in _OPTIONS or not equals:
            _refuse(position, f"{shown(part)} is not an option", f"options are {', '.join(o + '=' for o in _OPTIONS)}")
        if name in found:
            _refuse(position, f"{name}= is given twice")
        if name == "ebcdic" and value not in CODE_PAGES:
            _refuse(position, f"{shown(value)} is not an EBCDIC code page", f"use one of {', '.join(CODE_PAGES)}")
        found[name] = (position, value)
    return found


def _with_options(probe: Probe, options: Mapping[str, tuple[int, str]]) -> Probe:
    """The options that are a probe's own."""
    if isinstance(probe, TlsProbe):
        return TlsProbe(name=_name(options), warn=_days(options))
    if isinstance(probe, SshProbe):
        hint = "write it as ssh-keygen -l prints it, SHA256: and 43 characters"
        return SshProbe(key=_matching(options, "key", _FINGERPRINT, "a fingerprint", hint))
    if isinstance(probe, Tn3270Probe):
        device = _matching(options, "device", _DEVICE, "a device type", "write it like IBM-3278-2-E")
        lu = _matching(options, "lu", _LU, "an LU or pool name", "up to 17 of A-Z 0-9 @ # $ and .")
        page = options.get("ebcdic", (0, probe.page))[1]
        screen = _screen(options, page)
        return Tn3270Probe(device=device or probe.device, lu=lu, screen=screen, page=page)
    return probe


def _matching(
    options: Mapping[str, tuple[int, str]], name: str, form: re.Pattern[str], what: str, hint: str
) -> str | None:
    if name not in options:
        return None
    position, text = options[name]
    if not form.fullmatch(text):
        _refuse(position, f"{name}={shown(text)} is not {what}", hint)
    return text


def _name(options: Mapping[str, tuple[int, str]]) -> str | None:
    if "name" not in options:
        return None
    position, text = options["name"]
    try:
        return parse_dotted(text, "host name")
    except InputError as exc:
        _refuse(position, exc.what, exc.hint)


def _days(options: Mapping[str, tuple[int, str]]) -> int:
    if "warn" not in options:
        return limits.CHECK_TLS_WARN
    position, text = options["warn"]
    if not (text.isascii() and text.isdigit() and len(text) <= 3):
        _refuse(position, f"warn={shown(text)} is not a number of days from 0 to 999", "write it like warn=30")
    return int(text)


def _screen(options: Mapping[str, tuple[int, str]], page: str) -> bytes | None:
    if "screen" not in options:
        return None
    position, text = options["screen"]
    match = _STRING.fullmatch(text)
    if match is None or not match[1]:
        _refuse(position, f"screen={shown(text)} is not a text", 'write it like screen="WELCOME"')
    return _bytes(match[1], position + len('screen="'), page)


def _time(options: Mapping[str, tuple[int, str]], name: str, default: float, bounds: tuple[float, float]) -> float:
    if name not in options:
        return default
    position, text = options[name]
    match = _TIME.fullmatch(text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else -1.0
    if not bounds[0] <= seconds <= bounds[1]:
        _refuse(
            position,
            f"{name}={shown(text)} is not a time from {bounds[0]:g} s to {bounds[1]:g} s",
            "write it like 2s, 500ms or 1m",
        )
    return seconds


def _count(options: Mapping[str, tuple[int, str]], name: str, default: int) -> int:
    if name not in options:
        return default
    position, text = options[name]
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= COUNT_MAX):
        _refuse(position, f"{name}={shown(text)} is not a number from 1 to {COUNT_MAX}")
    return int(text)


def _probe(text: str, *, target: Endpoint | None, allow_exec: bool, page: str) -> Probe:
    kind, colon, address = text.partition(":")
    if kind in _BY_NAME:
        if colon:
            _own_address(address, len(kind) + 1, target)
        return _BY_NAME[kind]
    if text.startswith("http://"):
        address, slash, path = text[7:].partition("/")
        _own_address(address, 7, target)
        return _http(slash + path, 7 + len(address))
    if text.startswith("http:"):
        return _http(text[5:], 5)
    if text.startswith("exec:"):
        if not allow_exec:
            _refuse(0, "exec checks are allowed only in services.toml and in instances that an operator signed")
        return _exec(text[5:])
    if text.startswith(("send:", "expect:")):
        return _exchange(text, page)
    possible = 'tcp, http:/path, tls, ssh, ftp, tn3270, exec:/program or send:"…" expect:"…"'
    _refuse(0, f"{shown(text)} is not a check", f"write {possible}")


def _own_address(text: str, position: int, target: Endpoint | None) -> None:
    """C38: a check that names an address may name only the instance's own."""
    try:
        endpoint = parse_endpoint(text)
    except InputError as exc:
        _refuse(position, exc.what, exc.hint)
    if endpoint != target:
        own = f", {target}" if target else ""
        _refuse(
            position, f"a check reaches only the instance's own target{own}, not {endpoint}", "leave the address out"
        )


def _http(text: str, position: int) -> HttpProbe:
    match = _EXPECT.search(text)
    path = text[: match.start()] if match else text
    if not path.startswith("/"):
        _refuse(position, f"{shown(path)} is not a path: it must start with /")
    if not (path.isascii() and path.isprintable()) or " " in path or "#" in path:
        _refuse(position, f"{shown(path)} is not a path: write other characters as %NN")
    if match is None:
        return HttpProbe(path)
    return HttpProbe(path, tuple(_status(part, position + match.start(1)) for part in match[1].split(",")))


def _status(text: str, position: int) -> tuple[int, int]:
    match = re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", text, re.ASCII)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        _refuse(position, f"expect={shown(text)} is not a status or a range", "write it like 200, 200-299 or 200,204")
    return int(match[1]), int(match[2] or match[1])


def _exec(text: str) -> ExecProbe:
    try:
        argv = tuple(shlex.split(text))
    except ValueError as exc:
        _refuse(5, f"the command cannot be split: {exc}")
    if not argv or not argv[0].startswith("/"):
        _refuse(5, "the program must be an absolute path")
    if any("\0" in word for word in argv):
        _refuse(5, "NUL cannot be part of a command")
    return ExecProbe(argv)


def _exchange(text: str, page: str) -> ExchangeProbe:
    steps: list[Send | Expect] = []
    at = 0
    while at < len(text):
        match = _EXCHANGE.match(text, at)
        if match is None:
            _refuse(at, f'{shown(text[at:])} is not send:"…" or expect:"…"')
        data = _bytes(match[2], match.start(2), page)
        if not data:
            _refuse(match.start(2), f"an empty {match[1]} says nothing")
        steps.append(Send(data) if match[1] == "send" else Expect(data))
        at = match.end()
    if len(steps) > STEPS_MAX:
        _refuse(0, f"a check has {len(steps)} steps, at most {STEPS_MAX} are allowed")
    if not any(isinstance(step, Expect) for step in steps):
        _refuse(0, "nothing is expected", 'add expect:"…", or use tcp')
    return ExchangeProbe(tuple(steps))


def _bytes(text: str, position: int, page: str) -> bytes:
    """What a STRING stands for on the wire."""
    data, at = b"", 0

    def encoded(piece: str) -> bytes:
        try:
            return piece.encode(page)
        except UnicodeEncodeError as exc:
            _refuse(
                position + at + exc.start, f"{shown(piece[exc.start])} is not in {page}", "write its bytes as \\xNN"
            )

    for match in _ESCAPE.finditer(text):
        data += encoded(text[at : match.start()])
        at = match.start()
        code = match[1]
        if len(code) == 3:
            data += bytes.fromhex(code[1:])
        elif code in _SIMPLE_ESCAPES:
            data += encoded(_SIMPLE_ESCAPES[code])
        else:
            _refuse(position + at, f"{shown(match[0])} is not an escape", 'use \\r \\n \\t \\0 \\\\ \\" or \\xNN')
        at = match.end()
    return data + encoded(text[at:])
