"""I/O: (names of errors only) what went wrong with a host, in words for an operator: cause, reason and what to do next.

Whatever comes from the host is escaped and cut: a banner may hold what acts on a terminal (H33).
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

import asyncssh

from agents.workers.ssh_messages import Cause
from bridge import limits
from bridge.lines import plain
from bridge.tunnels.frames import Code
from inventory.errors import MeshError
from inventory.names import shown

_NOT_NOW = re.compile(rb"exceeded maxstartups|not allowed at this time", re.IGNORECASE)
_NO_MATCH = re.compile(r"No matching (.+?) algorithm found, sent .*? and received (.*)", re.DOTALL)
_GONE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EHOSTDOWN})


@dataclass(frozen=True, slots=True)
class Why:
    cause: Cause
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of the other side when a connection failed."""

    where: str
    """ADDR:PORT."""
    user: str
    connected: bool = False
    """TCP was."""
    early: bytes = b""
    """What it said before its version."""
    version: str = ""
    banner: str = ""
    key: str = ""
    """Algorithm and fingerprint of the key that was signed; several in one line."""
    offers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Algorithms that it names, by what they are for, and ..."""
    wanted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """... those that we do."""


def why_failed(error: BaseException, heard: Heard) -> Why:
    """Why there is no connection."""
    if isinstance(error, MeshError):
        return Why("local", error.what, error.hint)
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return _key(str(error), heard)
    if isinstance(error, asyncssh.PermissionDenied):
        said = f"; its banner says {heard.banner}" if heard.banner else ""
        return Why(
            "authentication",
            f"{heard.where} does not let user {heard.user} in with our key{said}",
            f"on the host, look at the log of sshd and at ~{heard.user}/.ssh/authorized_keys",
        )
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return _no_common(str(error), heard)
    if isinstance(error, TimeoutError):
        return _timeout(heard)
    if isinstance(error, socket.gaierror):
        return Why("unreachable", f"the name in {heard.where} cannot be resolved: {plain(str(error.strerror))}")
    if isinstance(error, asyncssh.ConnectionLost | ConnectionResetError | BrokenPipeError) and heard.connected:
        return _closed(heard)
    if isinstance(error, OSError):
        return _unreachable(error, heard)
    if isinstance(error, asyncssh.ProtocolNotSupported):
        return Why("protocol", f"{heard.where} is no ssh server that we can speak to: {_quoted(heard.early)}")
    if isinstance(error, asyncssh.Error):
        return Why("protocol", f"{heard.where} broke the ssh protocol: {plain(error.reason)}")
    return Why("protocol", f"what {heard.where} sent could not be understood: {type(error).__name__}")


def _quoted(data: bytes) -> str:
    return shown(data[: limits.FOREIGN_TEXT_MAX].decode("latin-1"))


def _key(said: str, heard: Heard) -> Why:
    signed = f"signed: {heard.key}"
    if "certificate" in said.lower() or "principal" in said.lower() or "CA key" in said:
        return Why(
            "key",
            f"the host certificate of {heard.where} does not hold: {plain(said)} ({signed})",
            "it must name the address in --reach, be valid now, and come from the signed CA",
        )
    return Why(
        "key",
        f"{heard.where} shows another host key than the one that was signed ({signed})",
        "if its key was changed on purpose, sign the new one: meshbridge host add ... --host-key FILE; "
        "else somebody else answers there",
    )


def _no_common(said: str, heard: Heard) -> Why:
    found = _NO_MATCH.search(said)
    if found is None:
        return Why("protocol", f"the key exchange with {heard.where} failed: {plain(said)}")
    return _nothing_common(found[1], found[2], heard)


def _timeout(heard: Heard) -> Why:
    limit = f"{limits.SSH_CONNECT_TIMEOUT:g} s"
    if not heard.connected:
        return Why("unreachable", f"{heard.where} does not answer (no connection within {limit})")
    if not heard.version:
        said = f", it said {_quoted(heard.early)}" if heard.early else ""
        return Why("protocol", f"{heard.where} took the connection and said no ssh version within {limit}{said}")
    return Why("protocol", f"{heard.where} did not finish the key exchange and the login within {limit}")


def _closed(heard: Heard) -> Why:
    if _NOT_NOW.search(heard.early):
        return Why(
            "refused",
            f"{heard.where} takes no connection now: it says {_quoted(heard.early)}",
            "MaxStartups or PerSourcePenalties of its sshd; it is tried again, gently",
        )
    if heard.early.strip():
        return Why("protocol", f"{heard.where} is no ssh server that we can speak to: it says {_quoted(heard.early)}")
    if not heard.version:
        return Why(
            "refused",
            f"{heard.where} closed the connection before it said its ssh version",
            "MaxStartups, PerSourcePenalties or a host-based filter (hosts.allow, a firewall) do that",
        )
    for kind, theirs in heard.offers.items():
        if not set(theirs) & set(heard.wanted.get(kind, ())):
            return _nothing_common(kind, ", ".join(theirs), heard)
    return Why("lost", f"{heard.where} closed the connection during the login")


def _nothing_common(kind: str, theirs: str, heard: Heard) -> Why:
    old_rsa = "ssh-rsa" in theirs and any("rsa" in name for name in heard.wanted.get("host key", ()))
    if kind == "host key" and not old_rsa:
        return Why("key", f"{heard.where} has no host key of a kind that was signed; it offers {plain(theirs)}")
    return Why(
        "algorithms",
        f"{heard.where} offers no {kind} algorithm that is allowed; it offers {plain(theirs)}",
        "an allowance for this host: host add ... --crypto ssh-sha1 or ssh-cbc, with an owner and an end date",
    )


def system_words(error: OSError) -> str:
    """What the system calls it: asyncio puts words of its own into `strerror`."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return plain(str(error.strerror or error) or type(error).__name__)
    return os.strerror(error.errno)


def _unreachable(error: OSError, heard: Heard) -> Why:
    if error.errno == errno.ECONNREFUSED:
        return Why("unreachable", f"nothing listens at {heard.where} (connection refused)", "is sshd running there?")
    if error.errno in _GONE:
        return Why("unreachable", f"{heard.where} cannot be reached: {system_words(error)}")
    return Why("unreachable", f"{heard.where}: {system_words(error)}")


def why_lost(error: BaseException | None, where: str) -> Why:
    """Why a connection that was up ended."""
    if error is None:
        return Why("lost", f"{where} ended the connection")
    text = str(error)
    if "keepalive" in text:
        silent = limits.SSH_KEEPALIVE * (limits.SSH_KEEPALIVE_MISSES + 1)
        return Why("lost", f"{where} has not answered for {silent:.0f} s")
    if isinstance(error, asyncssh.ConnectionLost):
        return Why("lost", f"the connection to {where} was lost")
    if isinstance(error, asyncssh.Error):
        return Why("protocol", f"the connection to {where} ended: {plain(error.reason)}")
    if isinstance(error, OSError):
        return Why("lost", f"the connection to {where} was lost: {system_words(error)}")
    return Why("protocol", f"what {where} sent could not be understood: {type(error).__name__}")


def why_not_opened(error: asyncssh.ChannelOpenError, host: str, target: str) -> tuple[Code, str]:
    """sshd's refusal of a channel."""
    said = plain(error.reason)
    if error.code == 1:
        return Code.CONNECT_FAILED, (
            f"{host}: administratively prohibited: the sshd's PermitOpen/AllowTcpForwarding does not let it ({target})"
        )
    if error.code == 2:
        if "refused" in said.lower():
            return Code.CONNECT_FAILED, f"connection refused at the host: nothing listens at {target} on {host}"
        return Code.CONNECT_FAILED, f"{host} cannot connect to {target}: {said or 'connect failed'}"
    if error.code == 4:
        return Code.LIMIT, f"{host} takes no more channels: {said}"
    return Code.CONNECT_FAILED, f"{host} does not open a channel to {target}: {said}"
