"""I/O: a certificate for a host whose own has ended: it proves that it holds the key it was enrolled with (F16). And
one for a gateway that does not issue: it asks one that does, in the same way, and shows the certificate that it has.

A host that was off for longer than its certificate lives cannot open a tunnel to ask. It comes back over the enrolment
preface: the request is signed with the enrolled key, so whoever replays it gets a certificate for a key it has not got.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import trio

from agents.control.enrolment import VERSION_MAX, Enrolled, Refused, ReissueWanted
from agents.control.joining import Dial, dial_tcp, open_desk
from bridge import limits
from bridge.errors import PeerError
from bridge.identity.certificates import PrivateKey
from bridge.identity.issuer import make_csr
from inventory.authority import DomainBody
from inventory.endpoints import parse_endpoint
from inventory.errors import Unavailable
from inventory.model import Gateway
from inventory.names import shown


async def reissue(
    gateways: Iterable[Gateway],
    genesis: DomainBody,
    *,
    name: str,
    key: PrivateKey,
    version: str,
    chain: str | None = None,
    dial: Dial = dial_tcp,
) -> str:
    """A new chain in PEM from the first gateway that gives one.

    Args:
        chain: a gateway's own certificate, PEM; None: a host asks.

    Raises:
        Unavailable: none does, with every reason.
    """
    reasons = []
    wanted = ReissueWanted(name=name, csr=make_csr(key), version=version[:VERSION_MAX])
    if chain is not None:
        wanted = msgspec.structs.replace(wanted, role="gateway", chain=chain)
    for gateway in gateways:
        endpoint = parse_endpoint(gateway.address)
        reason = f"no answer within {limits.PREAUTH_TIMEOUT:.0f} s"
        with trio.move_on_after(limits.PREAUTH_TIMEOUT):
            try:
                async with await dial(endpoint.host, endpoint.port) as stream:
                    tls = await open_desk(stream, genesis, {gateway.name})
                    await tls.send(wanted)
                    answer: Enrolled | Refused = await tls.receive(Enrolled | Refused)
                if isinstance(answer, Enrolled):
                    return answer.chain
                reason = shown(answer.reason)[1:-1]
            except (PeerError, Unavailable) as exc:
                reason = exc.what
        reasons.append(f"gateway {gateway.name} gave no new certificate: {reason}")
    raise Unavailable("; ".join(reasons) or "no gateway is known")
