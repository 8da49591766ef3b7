"""Pure: what can be checked, as typed values. `spec` reads them from text, `probes` asks."""

from __future__ import annotations

from dataclasses import dataclass

from bridge import limits


@dataclass(frozen=True, slots=True)
class TcpProbe:
    """Passes when the target accepts a connection."""


@dataclass(frozen=True, slots=True)
class HttpProbe:
    path: str
    expect: tuple[tuple[int, int], ...] = ((200, 399),)
    """Ranges of accepted status codes, both ends included."""

    def accepts(self, status: int) -> bool:
        return any(low <= status <= high for low, high in self.expect)


@dataclass(frozen=True, slots=True)
class ExecProbe:
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Send:
    data: bytes


@dataclass(frozen=True, slots=True)
class Expect:
    data: bytes


@dataclass(frozen=True, slots=True)
class ExchangeProbe:
    steps: tuple[Send | Expect, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsProbe:
    """Passes when a handshake completes and the certificate is valid now. Nobody's signature is looked at."""

    name: str | None = None
    """What is asked for (SNI)."""
    warn: int = limits.CHECK_TLS_WARN
    """Days before the certificate's end from which on it is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SshProbe:
    """Passes when sshd proves its host key in a key exchange; nothing is authenticated."""

    key: str | None = None
    """`SHA256:…`: the host key that it must be."""


@dataclass(frozen=True, slots=True)
class FtpProbe:
    """Passes when the greeting is 220; says QUIT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tn3270Probe:
    """Passes when a 3270 session was negotiated."""

    device: str = "IBM-3278-2-E"
    lu: str | None = None
    screen: bytes | None = None
    """What its first screen must hold, in its code page."""
    page: str = "cp037"


Probe = TcpProbe | HttpProbe | ExecProbe | ExchangeProbe | TlsProbe | SshProbe | FtpProbe | Tn3270Probe


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSpec:
    """One check, ready to run. Times are seconds."""

    probe: Probe = TcpProbe()
    interval: float = limits.CHECK_INTERVAL
    timeout: float = limits.CHECK_TIMEOUT
    rise: int = limits.CHECK_RISE
    """Successes in a row that make a failing instance pass."""
    fall: int = limits.CHECK_FALL
    """Failures in a row that make a passing instance fail."""
