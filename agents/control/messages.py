"""Pure: the messages of the control stream, between a host's supervisor and a gateway's. docs/protocol.md lists them.

Length-prefixed JSON, decoded strictly into these types; an unknown type or field ends the stream. What a gateway says
here is placement and signed entries; nothing in it is believed about authority that the operator did not sign.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from bridge import limits
from bridge.flows import Flow
from inventory.authority import SignedEntry
from inventory.model import Health, Instance, Presence
from inventory.policy_document import PolicyLeaf

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""What every JSON reader can hold; a question's `id` is one as well."""
Name = Annotated[str, msgspec.Meta(max_length=253)]
Words = Annotated[str, msgspec.Meta(max_length=limits.CONTROL_WORDS_MAX)]
Csr = Annotated[bytes, msgspec.Meta(max_length=limits.CSR_MAX_BYTES)]


def words(text: str) -> str:
    """Text for a field of type Words: cut, and without what a reader would refuse."""
    cut = text[: limits.CONTROL_WORDS_MAX].replace("\0", " ")
    return cut.encode("utf-8", "replace").decode("utf-8")


class Message(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"
):
    """Base of all control messages."""


# --- host to gateway --------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """First message of a host. `epoch` grows with every start of its agent: of two sessions the older one
    is ended (F19)."""

    version: Name
    epoch: Count
    number: Count
    """Highest authority entry it has seen; a gateway that knows fewer is behind and says so."""
    advertise: Words | None = None


class Report(Message, frozen=True, kw_only=True, tag="report"):
    """The whole of what the host says about itself; sent when it changed."""

    instances: tuple[Instance, ...] = ()
    """Instances from its own services.toml."""
    health: dict[str, Health] = {}
    """By instance id, for every instance that it hosts."""
    streams: Count = 0
    """Live streams, so that a drain can be followed."""
    certificate_ends: Count = 0
    """Of its own, unix seconds; 0: it does not say. For words about how long it lives, never for a decision."""


class Flows(Message, frozen=True, kw_only=True, tag="flows"):
    records: tuple[Flow, ...]


class Renew(Message, frozen=True, kw_only=True, tag="renew"):
    id: Count
    csr: Csr
    """DER."""


class PathWanted(Message, frozen=True, kw_only=True, tag="path-wanted"):
    """Let me reach the host `peer` through you."""

    id: Count
    peer: Name


class Streams(Message, frozen=True, kw_only=True, tag="streams"):
    """Answer to StreamsWanted and Cut."""

    id: Count
    streams: tuple[Flow, ...]
    """The first STREAMS_LISTED of them."""
    count: Count = 0
    """How many there are."""
    cut: Count = 0


class Returning(Message, frozen=True, kw_only=True, tag="returning"):
    """My agent becomes another version in place: end this session, the next one is opened within RETURN_PATIENCE."""


# --- gateway to host --------------------------------------------------------------------------------------------------


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    gateway: Name
    now: float
    """The gateway's clock, unix seconds: for words about clocks that disagree, never for a decision."""


class Update(Message, frozen=True, kw_only=True, tag="update"):
    """What the host may see changed. With `full` it is the whole, and what is not in it is gone (but for what can never
    be dropped: revocations, policy, operators)."""

    revision: Count
    full: bool = False
    more: bool = False
    """It goes on in the next update: the parts count together or not at all (see `parts`)."""
    entries: tuple[SignedEntry, ...] = ()
    dropped: tuple[str, ...] = ()
    """Entry keys no longer visible."""
    leaves: tuple[PolicyLeaf, ...] | None = None
    """The allow rules that can concern this host, all of them, when they changed."""
    presence: dict[str, Presence | None] = {}
    reported: dict[str, tuple[Instance, ...]] = {}
    health: dict[str, Health | None] = {}
    """By instance id; None: no longer known."""


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """The last message of a session that the gateway ends, and why."""

    reason: Words


class Renewed(Message, frozen=True, kw_only=True, tag="renewed"):
    id: Count
    chain: str
    """PEM, leaf first; empty with `error`."""
    error: Words = ""


class PathOffered(Message, frozen=True, kw_only=True, tag="path-offered"):
    id: Count
    ticket: Name


class PathRefused(Message, frozen=True, kw_only=True, tag="path-refused"):
    id: Count
    reason: Words


class DialBack(Message, frozen=True, kw_only=True, tag="dial-back"):
    """Connect to me with this ticket: `peer` is waiting at the other end."""

    ticket: Name
    peer: Name
    role: Literal["host", "gateway"] = "host"
    """Of the peer. A gateway that wants a tunnel of its own to a host that cannot be dialled is its own other end."""


class StreamsWanted(Message, frozen=True, kw_only=True, tag="streams-wanted"):
    id: Count


class Cut(Message, frozen=True, kw_only=True, tag="cut"):
    """End every live stream: the drain deadline has passed."""

    id: Count
    reason: Words


class Draining(Message, frozen=True, kw_only=True, tag="draining"):
    """I am about to end: ask others for paths, and leave those that run through me when their streams have ended."""

    reason: Words


FromHost = Hello | Report | Flows | Renew | PathWanted | Streams | Returning
FromGateway = (
    Welcome | Refused | Update | Renewed | PathOffered | PathRefused | DialBack | StreamsWanted | Cut | Draining
)
