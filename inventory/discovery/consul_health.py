"""I/O: the question to Consul for the passing instances of one service, which may wait for news. One attempt."""

from __future__ import annotations

from consul import base

from inventory.discovery.consul_listing import Listed, read_rows
from inventory.registries.consul_http import TrioTransport

WAIT = 30
"""Seconds for which Consul holds an answer back; it adds up to a sixteenth."""
_FILTERED = "X-Consul-Results-Filtered-By-ACLs"


async def ask(http: TrioTransport, service: str, *, index: int = 0) -> Listed:
    """What Consul lists now; with `index`, once it has news after it or has waited for long enough.

    Raises:
        Unavailable: no answer, or one that says that Consul cannot or will not.
    """
    wait = (("index", str(index)), ("wait", f"{WAIT}s")) if index else ()
    waits = WAIT * 17 / 16 if index else 0.0
    return await http.ask("GET", _listed, f"/v1/health/service/{service}", (("passing", "1"), *wait), waits=waits)


def _listed(response: base.Response) -> Listed:
    """Raises ValueError: not an answer of Consul's, which numbers all of them."""
    if response.code != 200 or "X-Consul-Index" not in response.headers:
        raise ValueError("it lists no instances")
    rows = read_rows(response.body)
    if not rows and response.headers.get(_FILTERED) == "true":
        raise ValueError("the token may not read this service (service_prefix and node_prefix in its policy)")
    return Listed(rows, max(int(response.headers["X-Consul-Index"]), 1))
