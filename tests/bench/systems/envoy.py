"""I/O: Envoy as two TCP proxies with mutual TLS between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from inventory.endpoints import Endpoint
from tests.bench.certificates import Leaf
from tests.bench.systems.base import TwoProxies

_MANY = 1000000
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."


class Envoy(TwoProxies):
    """Session resumption is off on both sides; the circuit breakers (1,024 connections) are out of the way."""

    def configure(self, node: str) -> Sequence[str | Path]:
        ways = self.ways(node)
        listeners = [self._listener(node, service, listen) for service, (listen, _) in ways.items()]
        clusters = [self._cluster(node, service, onward) for service, (_, onward) in ways.items()]
        file = self.folder / f"{node}.json"
        static = {"listeners": listeners, "clusters": clusters}
        file.write_text(json.dumps({"static_resources": static}, indent=1), encoding="utf-8")
        return [
            self.program, "-c", file, "--concurrency", str(self.workers),
            "--disable-hot-restart", "--log-level", "error",
        ]  # fmt: skip

    def _listener(self, node: str, service: str, listen: Endpoint) -> dict[str, object]:
        proxy = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": service,
            "cluster": service,
        }
        chain: dict[str, object] = {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}
        if node == "far":
            context = {
                "@type": _TLS + "DownstreamTlsContext",
                "require_client_certificate": True,
                "disable_stateless_session_resumption": True,
                "disable_stateful_session_resumption": True,
                "common_tls_context": self._common(self.certificates.far),
            }
            chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": context}
        return {
            "name": service,
            "address": _address(listen),
            "tcp_backlog_size": 4096,
            "filter_chains": [chain],
        }

    def _cluster(self, node: str, service: str, onward: Endpoint) -> dict[str, object]:
        thresholds = [{"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY}]
        cluster: dict[str, object] = {
            "name": service,
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": thresholds},
            "load_assignment": {
                "cluster_name": service,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(onward)}}]}],
            },
        }
        if node == "near":
            context = {
                "@type": _TLS + "UpstreamTlsContext",
                "sni": self.certificates.far.name,
                "max_session_keys": 0,
                "common_tls_context": self._common(self.certificates.near),
            }
            cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": context}
        return cluster

    def _common(self, leaf: Leaf) -> dict[str, object]:
        ca = {"filename": str(self.certificates.ca)}
        other = self.certificates.near.name if leaf is self.certificates.far else self.certificates.far.name
        names = [{"san_type": "DNS", "matcher": {"exact": other}}]
        return {
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
                "ecdh_curves": ["X25519"],
            },
            "tls_certificates": [
                {"certificate_chain": {"filename": str(leaf.certificate)}, "private_key": {"filename": str(leaf.key)}}
            ],
            "validation_context": {"trusted_ca": ca, "match_typed_subject_alt_names": names},
        }


def _address(endpoint: Endpoint) -> dict[str, object]:
    return {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}
