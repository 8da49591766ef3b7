"""I/O: strangers at a gateway's one port whose connection began with a preface: a host with a ticket, or a token.

The worker tells them from TLS; who they are nobody knows yet.
"""

from __future__ import annotations

import socket
from collections import OrderedDict

import trio

from agents.control.enrolment import EnrolmentServer
from agents.control.paths import Paths
from agents.control.prefaces import PREFACE_ENROL, PREFACE_RELAY, peek_preface
from agents.guards import must_pass
from agents.issuing import issued
from agents.workers import messages as m
from bridge import limits
from bridge.bugs import tell_bug
from bridge.errors import PeerError
from bridge.logs import get_logger
from inventory.errors import MeshError
from inventory.names import shown

log = get_logger()


class Guests:
    """Each costs one of GUESTS_MAX slots; when all are taken, who has waited longest loses his (C23)."""

    def __init__(self, enrolment: EnrolmentServer, paths: Paths) -> None:
        self._enrolment = enrolment
        self._paths = paths
        self._waiting: OrderedDict[socket.socket, trio.CancelScope] = OrderedDict()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def came(self, sock: socket.socket, guest: m.Guest, nursery: trio.Nursery) -> None:
        """Serve one in `nursery`. Owns the socket."""
        if len(self._waiting) >= limits.GUESTS_MAX:
            _, longest = self._waiting.popitem(last=False)
            longest.cancel()
        scope = self._waiting[sock] = trio.CancelScope()
        nursery.start_soon(self._within_slot, sock, guest, scope)

    async def _within_slot(self, sock: socket.socket, guest: m.Guest, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._serve(sock, guest.remote, trio.current_time() - guest.waited)
        finally:
            self._waiting.pop(sock, None)

    async def _serve(self, sock: socket.socket, remote: str, began: float) -> None:
        """The one guard of this connection. The worker accepted it at `began` (trio's time): its deadline goes on, it
        does not begin anew (C24)."""
        sock.setblocking(False)
        owned = True
        try:
            with trio.fail_at(began + limits.PREAUTH_TIMEOUT):
                line = await peek_preface(sock)
                if line == PREFACE_ENROL:
                    owned = False
                    waited = trio.current_time() - began
                    record = await self._enrolment.serve_guest(sock, remote, waited=waited)
                    if record is not None:
                        issued(record)
                elif line.startswith(PREFACE_RELAY):
                    sock.recv(len(line))  # what follows is for the other end
                    owned = False
                    await self._paths.arrive(line[len(PREFACE_RELAY) : -1].decode("ascii", "replace"), sock)
                else:
                    raise PeerError(f"unknown preface {shown(line.decode('latin-1'))}")
        except trio.TooSlowError:
            log.info("guest was too slow", remote=remote)
        except MeshError as exc:
            log.info("guest refused", remote=remote, reason=exc.what)
        except BaseException as exc:
            if must_pass(exc):
                raise
            tell_bug("guest ended by a bug", exc, remote=remote)
        finally:
            if owned:
                sock.close()
