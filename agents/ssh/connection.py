"""I/O: one ssh connection to a host: asyncssh's, with limits on what its peer may cost us, and a short way for streams.

Under AES-GCM, data of streams goes between a socket and the connection here, many packets at a time. Whatever else
comes or goes (keys, authentication, opening and closing, windows of other kinds) is asyncssh's, packet by packet. The
short way needs some of asyncssh's private parts; where a version of it has them no more, everything goes the long way.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, cast

import asyncssh
from asyncssh.encryption import GCMEncryption
from asyncssh.packet import PacketDecodeError, SSHPacket
from asyncssh.public_key import SSHKey
from cryptography.exceptions import InvalidTag

from agents.ssh.packets import DATA, HEAD, LENGTH, TAG, GcmPackets
from agents.ssh.stream import Channel, Stream
from agents.workers.ssh_page import SuspectNote, noted
from bridge import limits
from bridge.lines import plain
from inventory.names import shown

_PRIVATE = (
    *("_inpbuf", "_recv_data", "_recv_handler", "_recv_pkthdr", "_recv_packet", "_recv_seq", "_recv_encryption"),
    *("_max_recv_pktlen", "_send", "_send_seq", "_send_encryption", "_next_recv_encryption", "_auth_complete"),
    *("_kex_complete", "_rekey_bytes", "_rekey_bytes_sent", "_transport", "_force_close", "_reset_keepalive_timer"),
    *("_compressor", "_decompressor", "_send_deferred_packets", "internal_error", "send_newkeys"),
)
_IDLE_MESSAGES = frozenset((2, 3, 4, 80, 98))
"""IGNORE, UNIMPLEMENTED, DEBUG, GLOBAL_REQUEST, CHANNEL_REQUEST: no stream needs many of them."""


_COOKIE = 16
_SMALL = 1024


class Abuse(asyncssh.ProtocolError):
    """What a host sends is within the protocol, but no honest one would."""


class _Signed:
    """The host's key, once it was accepted: what it signs must be of a kind that was offered."""

    def __init__(self, key: SSHKey, offered: frozenset[bytes], used: Callable[[str], None]) -> None:
        self._key = key
        self._offered = offered
        self._used = used

    def verify(self, data: bytes, signature: bytes) -> bool:
        algorithm = signature[4 : 4 + int.from_bytes(signature[:4], "big")]
        if algorithm not in self._offered:
            return False
        self._used(algorithm.decode("ascii", "replace"))
        return self._key.verify(data, signature)


class Connection(asyncssh.SSHClientConnection):
    """One connection, from the dial to its end.

    Args:
        offered: signature algorithms that the host's key may use.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: asyncssh.SSHClientConnectionOptions, *, host: str,
        note: SuspectNote, offered: frozenset[bytes],
    ) -> None:  # fmt: skip
        self.early = b""
        """What it said before its version, cut: an sshd that is full says so there."""
        self.kex = ""
        self.signature = ""
        """The algorithm with which it proved its key."""
        self.software = ""
        self.streams: dict[int, Stream] = {}
        self._name = noted(host)
        self._note = note
        self._offered = offered
        self._before = 0
        """Bytes that came before it was authenticated."""
        self._out: list[bytes] = []
        self._flushing = False
        self._full = False
        self._blocked: set[Stream] = set()
        """Streams that wait until something can be sent."""
        self._timer_set = 0.0
        self._resting = False
        self._idle_messages = 0
        self._idle_since = 0.0
        self._socket_transport: asyncio.Transport | None = None
        self._socket: Any = None
        super().__init__(loop, options, wait="auth")
        self._short_way = all(hasattr(self, name) for name in _PRIVATE)

    # --- coming in ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket_transport = cast(asyncio.Transport, transport)
        self._socket_transport.set_write_buffer_limits(high=limits.SSH_UNSENT_MAX)
        self._socket = transport.get_extra_info("socket")
        super().connection_made(transport)

    def data_received(self, data: bytes, datatype: Any = None) -> None:
        if not self._server_version and len(self.early) < limits.FOREIGN_TEXT_MAX:
            self.early += data[: limits.FOREIGN_TEXT_MAX]
        if not self._auth_complete:
            self._before += len(data)
            if self._before > limits.SSH_BEFORE_MAX:
                self._force_close(Abuse(f"it sent over {limits.SSH_BEFORE_MAX} bytes before the login was over"))
                return
        if 0 < len(data) < _SMALL:
            self._acknowledge()
        super().data_received(data, datatype)
        self._look_at_unsent()

    def _acknowledge(self) -> None:
        """Now, and not after the 40 ms in which Linux hopes for something to send along: without a session sshd leaves
        Nagle's algorithm on, and would not send its next packet before."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _look_at_unsent(self) -> None:
        """Answers to a peer that asks and does not read what it asked for."""
        transport = self._socket_transport
        if transport is not None and transport.get_write_buffer_size() > limits.SSH_UNREAD_MAX:
            self._force_close(Abuse("it does not read what it is sent"))

    def _recv_data(self) -> None:
        self._note.busy_with(self._name)
        try:
            self._work()
        finally:
            self._note.idle()

    def _work(self) -> None:
        if not self._short_way:
            super()._recv_data()
            return
        now = self._loop.time()
        if now - self._timer_set > limits.SSH_KEEPALIVE / 10:
            self._timer_set = now
            self._reset_keepalive_timer()
        try:
            self._work_off()
        except asyncssh.DisconnectError as exc:
            self._send_disconnect(exc.code, exc.reason, exc.lang)
            self._force_close(exc)
        except Exception:
            self.internal_error()

    def _work_off(self) -> None:
        """Packets that are here, a bounded number of them: then other hosts get their turn."""
        left = limits.SSH_PACKETS_PER_TURN
        while self._inpbuf and self._transport is not None:
            opener = self._recv_encryption
            if isinstance(opener, GcmPackets) and self._auth_complete and self._recv_handler == self._recv_pkthdr:
                before = len(self._inpbuf)
                left = self._take(opener, left)
                if left <= 0:
                    self._rest()
                    return
                if len(self._inpbuf) == before:
                    return
            else:
                left -= 1
                if not self._recv_handler():
                    return
                if left <= 0:
                    self._rest()
                    return

    def _rest(self) -> None:
        """The others first; what is here is looked at right after them."""
        transport = self._socket_transport
        if not self._resting and transport is not None:
            self._resting = True
            transport.pause_reading()
            self._loop.call_soon(self._rested)

    def _rested(self) -> None:
        self._resting = False
        transport = self._socket_transport
        if transport is not None and not transport.is_closing() and self._transport is not None:
            transport.resume_reading()
            self.data_received(b"")

    def _take(self, opener: Any, left: int) -> int:
        """Open whole packets; what is left of `left`. Data for streams that take it goes to them, all of a stream at
        once; any other packet is asyncssh's."""
        data = self._inpbuf
        view, end, at = memoryview(data), len(data), 0
        got: dict[Stream, list[memoryview]] = {}
        while left > 0 and end - at >= LENGTH:
            length = int.from_bytes(view[at : at + LENGTH], "big")
            if length > self._max_recv_pktlen:
                raise asyncssh.ProtocolError("Max packet size exceeded")
            stop = at + LENGTH + length + TAG
            if stop > end:
                break
            left -= 1
            try:
                packet = opener.open(view[at:stop])
            except InvalidTag:
                raise asyncssh.MACError("MAC verification failed") from None
            if len(packet) > HEAD.size and packet[1] == DATA and not self._decompressor:
                padding, _kind, channel, size = HEAD.unpack_from(packet)
                stream = self.streams.get(channel)
                if stream is not None and HEAD.size + size + padding == len(packet) and stream.takes(size):
                    got.setdefault(stream, []).append(memoryview(packet)[HEAD.size : HEAD.size + size])
                    self._recv_seq = (self._recv_seq + 1) & 0xFFFFFFFF
                    at = stop
                    continue
            _deliver(got)
            at = stop
            if not self._hand_over(opener, packet, data[at - LENGTH - length - TAG : at]) or self._transport is None:
                break
            if self._recv_encryption is not opener or self._recv_handler != self._recv_pkthdr:
                break
        self._inpbuf = data[at:] if self._transport is not None else b""
        _deliver(got)
        return left

    def _hand_over(self, opener: Any, packet: bytes, raw: bytes) -> bool:
        """One packet that is none of ours; False: nothing more may be looked at now."""
        if len(packet) > 1 and packet[1] in _IDLE_MESSAGES:
            self._count_idle()
        opener.ready = packet
        self._inpbuf = raw
        return bool(self._recv_pkthdr() and self._recv_packet())

    def _count_idle(self) -> None:
        now = self._loop.time()
        if now - self._idle_since > 1.0:
            self._idle_since, self._idle_messages = now, 0
        self._idle_messages += 1
        if self._idle_messages > limits.SSH_IDLE_MESSAGES_MAX:
            raise Abuse("it floods us with messages that carry nothing")

    # --- going out ------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        """Everything that is sent in one turn goes out with one call."""
        self._out.append(data)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        out, self._out = self._out, []
        transport = self._socket_transport
        if transport is not None and not transport.is_closing():
            transport.write(b"".join(out))

    @property
    def can_send(self) -> bool:
        """Whether data of streams is to be read and sent now; else `block`."""
        return not self._full and self._kex_complete

    def block(self, stream: Stream) -> None:
        """Call its `unblocked` when something can be sent again."""
        self._blocked.add(stream)

    def _unblock(self) -> None:
        blocked, self._blocked = self._blocked, set()
        for stream in blocked:
            stream.unblocked()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._unblock()

    def _send_deferred_packets(self) -> None:
        super()._send_deferred_packets()
        self._unblock()

    def send_data(self, channel: int, data: memoryview, most: int) -> bool:
        """Send data for which the peer's window has room; False: not the short way, now."""
        sealer = self._send_encryption
        if (
            not isinstance(sealer, GcmPackets)
            or not self._kex_complete
            or self._compressor
            or self._rekey_bytes_sent >= self._rekey_bytes
        ):
            return False
        before = len(self._out)
        counted = sealer.seal_data(channel, data, most, self._out)
        packets = (len(self._out) - before) // 2
        self._send_seq = (self._send_seq + packets) & 0xFFFFFFFF
        self._rekey_bytes_sent += counted
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return True

    def create_tcp_channel(
        self, encoding: str | None = None, errors: str = "strict", window: int = limits.SSH_WINDOW,
        max_pktsize: int = limits.SSH_PACKET,
    ) -> asyncssh.SSHTCPChannel[Any]:  # fmt: skip
        return Channel(self, self._loop, encoding, errors, window, max_pktsize)

    # --- keys -----------------------------------------------------------------------------------------------------

    def validate_server_host_key(self, key_data: bytes) -> SSHKey:
        key = super().validate_server_host_key(key_data)
        self.software = plain(self._server_version.decode("ascii", "replace"))
        return cast(SSHKey, _Signed(key, self._offered, self._proved))

    def _proved(self, algorithm: str) -> None:
        self.signature = algorithm

    def _validate_openssh_host_certificate(self, host: str, addr: str, port: int, cert: Any) -> SSHKey:
        if not cert.principals:
            raise ValueError("Host certificate names no host")
        return super()._validate_openssh_host_certificate(host, addr, port, cert)

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        if self._kex is not None:
            self.kex = self._kex.algorithm.decode("ascii", "replace")
        super().send_newkeys(k, h)
        if self._short_way:
            self._send_encryption = _short(self._send_encryption)
            self._next_recv_encryption = _short(self._next_recv_encryption)

    def offers(self) -> dict[str, tuple[str, ...]]:
        """Algorithms that the host has named, by what they are for; empty before it has."""
        packet = SSHPacket(self._server_kexinit)
        try:
            packet.get_bytes(1 + _COOKIE)
            found = [tuple(name.decode("ascii", "replace") for name in packet.get_namelist()) for _ in range(3)]
        except PacketDecodeError:
            return {}
        return dict(zip(("key exchange", "host key", "encryption"), found, strict=True))

    def fingerprint(self) -> str:
        """Of the key that the host has proved."""
        key = self.get_server_host_key()
        return f"{key.get_algorithm()} {key.get_fingerprint()}" if key is not None else ""


def _short(encryption: Any) -> Any:
    """Ours in its place, where it is AES-GCM."""
    cipher = getattr(encryption, "_cipher", None)
    key, iv = getattr(cipher, "_key", None), getattr(cipher, "_iv", None)
    if isinstance(encryption, GCMEncryption) and isinstance(key, bytes) and isinstance(iv, bytes):
        return GcmPackets(key, iv)
    return encryption


def _deliver(got: dict[Stream, list[memoryview]]) -> None:
    for stream, parts in got.items():
        stream.deliver(parts)
    got.clear()


class Client(asyncssh.SSHClient):
    """What asyncssh asks and tells of one connection. It trusts nothing that was not signed."""

    def __init__(self) -> None:
        self.banner = ""
        self.closed = asyncio.Event()
        self.reason: Exception | None = None

    def auth_banner_received(self, msg: str, lang: str) -> None:
        if not self.banner:
            self.banner = shown(msg.strip())

    def connection_lost(self, exc: Exception | None) -> None:
        self.reason = exc
        self.closed.set()
