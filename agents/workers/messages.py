"""Pure: what a supervisor and each of its data workers say to each other over their socketpair.

The supervisor knows; the worker moves bytes. Descriptors travel beside the message that names them (see `channel`).
Both ends are the same program at the same version, so nothing here is negotiated.
"""

from __future__ import annotations

import msgspec

from bridge.counters import CounterDeltas
from bridge.flows import Flow
from inventory.authority import AuthorityState
from inventory.model import Health, Instance, Presence
from inventory.names import Role
from inventory.policy_rules import Rule


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    fds = 0
    """How many descriptors travel with it."""


# --- supervisor to worker -----------------------------------------------------------------------------------------


class Begin(Message, frozen=True, kw_only=True, tag="begin"):
    """First message: who we are."""

    home: str
    trust_domain: str
    role: str
    name: str
    site: str | None
    root_certificate: str
    row: int = 0
    """This worker's row of the page on which workers tell each other what they carry (`shares`)."""


class Authority(Message, frozen=True, kw_only=True, tag="authority"):
    """What is allowed, verified by the supervisor: replaced as a whole."""

    state: AuthorityState
    allows: tuple[Rule, ...]


class Placement(Message, frozen=True, kw_only=True, tag="placement"):
    """What is where, and how it is: replaced as a whole."""

    revision: int
    presence: dict[str, Presence]
    reported: dict[str, tuple[Instance, ...]]
    health: dict[str, Health]


class PlacementChanged(Message, frozen=True, kw_only=True, tag="placement-changed"):
    """What is otherwise now than what was told before; None: it is gone (see `placement`)."""

    revision: int
    presence: dict[str, Presence | None]
    reported: dict[str, tuple[Instance, ...] | None]
    health: dict[str, Health | None]


class IdentityChanged(Message, frozen=True, kw_only=True, tag="identity-changed"):
    """identity.pem was renewed; new handshakes use it."""


class Listen(Message, frozen=True, kw_only=True, tag="listen"):
    """Serve the service on the listening socket that comes along."""

    fds = 1
    service: str
    site: str | None
    address: str
    port: int


class Unlisten(Message, frozen=True, kw_only=True, tag="unlisten"):
    address: str
    port: int


class ListenPublished(Message, frozen=True, kw_only=True, tag="listen-published"):
    """Take clients that know nothing of us on the listening socket that comes along."""

    fds = 1
    service: str
    address: str
    port: int
    tls: bool


class ListenTunnels(Message, frozen=True, kw_only=True, tag="listen-tunnels"):
    """Accept tunnels (and at a gateway their guests) on the listening socket that comes along."""

    fds = 1


class OpenControl(Message, frozen=True, kw_only=True, tag="open-control"):
    """Carry this socket as the stream `@control` to a gateway."""

    fds = 1
    gateway: str
    address: str


class Adopt(Message, frozen=True, kw_only=True, tag="adopt"):
    """Treat this connected socket like one accepted for the service (`meshbridge dial`)."""

    fds = 1
    id: int
    service: str
    site: str | None
    user: str | None


class AdoptForwarded(Message, frozen=True, kw_only=True, tag="adopt-forwarded"):
    """A program on an agentless host connected to a port that is published there: our end of it, and its witness
    (`bridge.relay.witnessed`)."""

    fds = 2
    host: str
    service: str


class PathFound(Message, frozen=True, kw_only=True, tag="path-found"):
    peer: str
    gateway: str
    address: str
    ticket: str
    is_only: bool = True
    """There is no other gateway that could be tried in its place."""


class PathFailed(Message, frozen=True, kw_only=True, tag="path-failed"):
    peer: str
    reason: str


class DialBack(Message, frozen=True, kw_only=True, tag="dial-back"):
    peer: str
    role: Role
    gateway: str
    address: str
    ticket: str


class Join(Message, frozen=True, kw_only=True, tag="join"):
    """Splice these two sockets: the path between hosts `a` and `b`."""

    fds = 2
    id: int
    a: str
    b: str


class Unjoin(Message, frozen=True, kw_only=True, tag="unjoin"):
    id: int
    reason: str


class Drain(Message, frozen=True, kw_only=True, tag="drain"):
    """No new streams from here on."""

    reason: str


class LeaveGateway(Message, frozen=True, kw_only=True, tag="leave-gateway"):
    """Open no new streams on tunnels through this gateway; they end with their last stream."""

    gateway: str
    reason: str


class Retire(Message, frozen=True, kw_only=True, tag="retire"):
    """Other workers have taken over: accept nothing more, and end when the last stream has ended."""


class CutAll(Message, frozen=True, kw_only=True, tag="cut-all"):
    id: int
    reason: str
    host: str | None = None
    """Only those to this agentless host."""


class ListStreams(Message, frozen=True, kw_only=True, tag="list-streams"):
    id: int


class SlotGiven(Message, frozen=True, kw_only=True, tag="slot-given"):
    id: int


class SlotRefused(Message, frozen=True, kw_only=True, tag="slot-refused"):
    id: int
    reason: str


# --- worker to supervisor -----------------------------------------------------------------------------------------


class Started(Message, frozen=True, kw_only=True, tag="started"):
    pid: int


class PathNeeded(Message, frozen=True, kw_only=True, tag="path-needed"):
    peer: str
    avoid: tuple[str, ...] = ()
    """Gateways through which it was tried already."""


class Guest(Message, frozen=True, kw_only=True, tag="guest"):
    """A connection that starts with a preface; not a byte of it has been read."""

    fds = 1
    remote: str
    waited: float = 0.0
    """Seconds since it was accepted: they count against PREAUTH_TIMEOUT (C24)."""


class ControlStream(Message, frozen=True, kw_only=True, tag="control-stream"):
    """A host opened `@control`; this socket is our end of it."""

    fds = 1
    spiffe_id: str
    key: str
    remote: str
    not_after: float


class GatewayLeaves(Message, frozen=True, kw_only=True, tag="gateway-leaves"):
    """The tunnel that carries the control stream to a gateway takes no new streams: it is to move to another one."""

    gateway: str


class ControlEnded(Message, frozen=True, kw_only=True, tag="control-ended"):
    """The control stream to a gateway could not be opened; its socket has been closed as well."""

    gateway: str
    reason: str


class Adopted(Message, frozen=True, kw_only=True, tag="adopted"):
    """What became of an Adopt: open, or refused with the reason."""

    id: int
    error: str = ""
    hint: str = ""
    denied: bool = False


class Unjoined(Message, frozen=True, kw_only=True, tag="unjoined"):
    id: int
    moved: int
    reason: str


class TunnelState(msgspec.Struct, frozen=True, kw_only=True):
    """One live tunnel, for `status`."""

    peer: str
    role: str
    via: str | None
    streams: int
    age: float
    remote_certificate_ends: float


class WorkerReport(Message, frozen=True, kw_only=True, tag="report"):
    """About once a second while something changed."""

    tunnels: tuple[TunnelState, ...]
    streams: int
    counters: CounterDeltas
    flows: tuple[Flow, ...]
    ejected: tuple[str, ...] = ()
    behind: dict[str, int] = {}
    """Agentless host -> streams to it."""


class SlotAsked(Message, frozen=True, kw_only=True, tag="slot-asked"):
    """A stream wants to go to an instance with a limit (see `agents.governors`)."""

    id: int
    instance: str
    service: str
    caller: str
    max_streams: int | None
    max_rate: int | None


class SlotUsed(Message, frozen=True, kw_only=True, tag="slot-used"):
    """It connected; or could not, and has no slot any more."""

    id: int
    connected: bool


class SlotLeft(Message, frozen=True, kw_only=True, tag="slot-left"):
    """It has ended, or does not wait any longer."""

    id: int
    rest: bool
    """The instance has not said its own end, and may not have noticed ours."""


class StreamList(Message, frozen=True, kw_only=True, tag="stream-list"):
    id: int
    streams: tuple[Flow, ...]
    cut: int = 0


class Notice(Message, frozen=True, kw_only=True, tag="notice"):
    """Something an operator may want to read, already in words."""

    event: str
    text: str


ToWorker = (
    Begin
    | Authority
    | Placement
    | PlacementChanged
    | IdentityChanged
    | Listen
    | Unlisten
    | ListenPublished
    | ListenTunnels
    | OpenControl
    | Adopt
    | AdoptForwarded
    | PathFound
    | PathFailed
    | DialBack
    | Join
    | Unjoin
    | Drain
    | LeaveGateway
    | Retire
    | CutAll
    | ListStreams
    | SlotGiven
    | SlotRefused
)
FromWorker = (
    Started
    | PathNeeded
    | Guest
    | ControlStream
    | GatewayLeaves
    | ControlEnded
    | Adopted
    | Unjoined
    | WorkerReport
    | SlotAsked
    | SlotUsed
    | SlotLeft
    | StreamList
    | Notice
)
