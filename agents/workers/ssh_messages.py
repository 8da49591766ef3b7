"""Pure: what a gateway's supervisor and its ssh worker say to each other over their socketpair, and data workers to it.

The framing is that of `channel`; both ends are the same program at the same version, so nothing here is negotiated.
The supervisor says what is to be (all hosts, as a whole); the worker says what is (the hosts that changed).
"""

from __future__ import annotations

from typing import Literal

import msgspec

Cause = Literal[
    "unreachable", "key", "authentication", "algorithms", "protocol", "lost", "refused", "suspended", "local"
]
"""Why a host is down, for programs. refused: its sshd is full or punishes us. local: something of ours is wrong."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    fds = 0
    """How many descriptors travel with it."""


class Forward(msgspec.Struct, frozen=True, kw_only=True):
    """Listen on the host's own loopback at this port, for a service that is published there."""

    service: str
    port: int


class LastHop(msgspec.Struct, frozen=True, kw_only=True):
    """One host that a gateway reaches, as the operator signed it."""

    host: str
    scheme: Literal["ssh", "tls"]
    address: str
    port: int
    """Of sshd; with tls the port is that of each target."""
    user: str = ""
    host_keys: tuple[str, ...] = ()
    """Lines of OpenSSH's: a public key, or `@cert-authority` and the public key of a CA for the name `address`."""
    credential: str | None = None
    """A user's private key in OpenSSH's format, sealed to this gateway, base64. None: a certificate of the gateway's
    ssh CA."""
    ca: str | None = None
    """PEM, for tls. None: the system's."""
    allow_loopback: bool = False
    """Whether tls may lead to the gateway's own machine."""
    allowed: tuple[str, ...] = ()
    """Old algorithms and profiles that are in force here (`agents.ssh.algorithms`)."""
    allowed_until: float = 0.0
    """When that ends (seconds since 1970): from then on none of them is used, and connections that need them end."""
    forwards: tuple[Forward, ...] = ()
    suspended: str = ""
    """Why this host must not be dialled (it has hung a worker); empty: it may be."""


# --- supervisor to worker -----------------------------------------------------------------------------------------


class Begin(Message, frozen=True, kw_only=True, tag="begin"):
    """First message. Two descriptors: the listening unix socket on which data workers ask for channels, and the page
    on which the worker says which host it is busy with (`ssh_page`). The supervisor keeps both, so that nobody is
    refused while one worker follows another."""

    fds = 2
    home: str
    gateway: str


class LastHops(Message, frozen=True, kw_only=True, tag="last-hops"):
    """Every host of this worker: replaced as a whole. What did not change keeps its connection."""

    hosts: tuple[LastHop, ...]
    serves: bool = True
    """Whether it takes requests for channels from now on: not while the one of the version before still does."""


class Certificate(Message, frozen=True, kw_only=True, tag="certificate"):
    """A user certificate for the worker's key, or why there is none."""

    principal: str
    certificate: str = ""
    """A line of OpenSSH's."""
    ends: float = 0.0
    reason: str = ""


class Run(Message, frozen=True, kw_only=True, tag="run"):
    """Run this command of ours on a host; it must change nothing. Each word is quoted for a POSIX shell."""

    id: int
    host: str
    argv: tuple[str, ...]
    timeout: float


# --- worker to supervisor -----------------------------------------------------------------------------------------


class Started(Message, frozen=True, kw_only=True, tag="started"):
    pid: int
    public_key: str
    """Of the key that lives in this process only; certificates are for this one."""


class Beat(Message, frozen=True, kw_only=True, tag="beat"):
    """Every SSH_BEAT seconds, whatever happens: a worker that has said nothing for SSH_SILENT hangs, and is killed.
    The page says with which host."""

    channels: int
    opened: int
    """Since the start."""
    refused: int


class CertificateNeeded(Message, frozen=True, kw_only=True, tag="certificate-needed"):
    """Now, and again at half of its life."""

    principal: str


class HopState(msgspec.Struct, frozen=True, kw_only=True):
    """How it is with one host."""

    host: str
    state: Literal["connecting", "up", "down"]
    """connecting: for the first time. While it is tried again it is down, for the reason of the last try."""
    reason: str = ""
    """Why it is down: one line, nothing in it that could act on a terminal."""
    hint: str = ""
    cause: Cause | Literal[""] = ""
    next_try: float = 0.0
    """Seconds until it is tried again."""
    kex: str = ""
    cipher: str = ""
    host_key: str = ""
    """Algorithm and fingerprint of the key that the host proved."""
    software: str = ""
    """What it says of itself."""
    legacy: tuple[str, ...] = ()
    """Algorithms in use that are there by an allowance only."""
    connects: int = 0
    failures: int = 0
    """Since the last connection."""
    channels: int = 0
    not_forwarded: dict[str, str] = {}
    """Services whose port cannot be listened on at the host, and why."""


class HopStates(Message, frozen=True, kw_only=True, tag="hop-states"):
    """Those that changed; after the start all of them."""

    hosts: tuple[HopState, ...]


class Forwarded(Message, frozen=True, kw_only=True, tag="forwarded"):
    """A program on the host has connected to a published port: our end of that, and its fate (see CLEAN_END)."""

    fds = 2
    host: str
    service: str
    remote: str
    """Who connected, as sshd says."""


class Ran(Message, frozen=True, kw_only=True, tag="ran"):
    """What became of a Run. `reason`: it could not be run, or was cut short."""

    id: int
    code: int | None = None
    out: bytes = b""
    err: bytes = b""
    truncated: bool = False
    reason: str = ""


class PortsFree(Message, frozen=True, kw_only=True, tag="ports-free"):
    """It has retired, and listens on no port of a host any more: another one may."""


class Notice(Message, frozen=True, kw_only=True, tag="notice"):
    """Something an operator may want to read, already in words."""

    event: str
    text: str


ToSshWorker = Begin | LastHops | Certificate | Run
"""A supervisor that says nothing more, and has not closed the socketpair, means that another worker takes the requests:
this one ends with its last stream. Another version understands that, too."""
FromSshWorker = Started | Beat | CertificateNeeded | HopStates | Forwarded | Ran | PortsFree | Notice


# --- data worker to ssh worker, on the unix socket: one line of JSON each way, then the stream's bytes ---------------

CLEAN_END = b"F"
"""A unix socket cannot be reset: what a killed process or a lost connection leaves looks like an end of stream. So one
descriptor comes with an answer that says ok, the stream's fate: a socket on which CLEAN_END is sent before the end of
the stream that the host itself made. An end without it is a reset."""


class ChannelAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str
    target: str
    """As in the instance: ADDR:PORT as seen from the host (ssh), or of the host itself (tls)."""


class ChannelAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Open, or why not. `code` is that of a REFUSE frame (`bridge.tunnels.frames.Code`)."""

    ok: bool = False
    code: int = 0
    reason: str = ""
