"""I/O: services in Consul's catalog, registered as programs that know nothing of the bridge would do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

from tests.support.consul_server import ConsulServer

NODE = "nomad-1"


class Catalog:
    """Leaving the `with` block removes what is left.

    Args:
        consul: a server that runs; the catalog is changed by its administrator.
    """

    def __init__(self, consul: ConsulServer) -> None:
        self._consul = consul

    def register(
        self,
        name: str,
        target: str,
        *,
        tags: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
        status: str = "passing",
    ) -> None:
        address, _, port = target.rpartition(":")
        service_id = f"{name}-{target}"
        service = {
            "ID": service_id,
            "Service": name,
            "Address": address.strip("[]"),
            "Port": int(port),
            "Tags": list(tags),
            "Meta": dict(meta or {}),
        }
        check = {"CheckID": f"check-{service_id}", "Name": "alive", "Status": status, "ServiceID": service_id}
        body = {"Node": NODE, "Address": "192.0.2.7", "SkipNodeUpdate": False, "Service": service, "Check": check}
        self._consul.ask("PUT", "/v1/catalog/register", body)

    def deregister(self, name: str, target: str) -> None:
        self._consul.ask("PUT", "/v1/catalog/deregister", {"Node": NODE, "ServiceID": f"{name}-{target}"})

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consul.ask("PUT", "/v1/catalog/deregister", {"Node": NODE})
