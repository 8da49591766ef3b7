"""I/O: a unix socket whose end of stream counts only if a witness says so.

A unix socket cannot be reset: when the process at its other end is killed, or the connection behind it is lost, what
is read looks like an end of stream, and a file that was cut would look complete. The witness is a second socket, on
which a byte is sent before an end that is one.
"""

from __future__ import annotations

import socket


class WitnessedSocket(socket.socket):
    """Owns its witness. Without one every end counts."""

    witness: socket.socket | None = None

    def ended_well(self) -> bool:
        """To be asked once, when an end of stream was read."""
        if self.witness is None:
            return True
        self.witness.setblocking(False)
        try:
            return bool(self.witness.recv(1))
        except OSError:
            return False

    def close(self) -> None:
        super().close()
        if self.witness is not None:
            self.witness.close()


def ended_well(sock: socket.socket) -> bool:
    """Whether the end of stream that was read from the socket is one."""
    return not isinstance(sock, WitnessedSocket) or sock.ended_well()
