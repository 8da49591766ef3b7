"""I/O: HAProxy as two TCP proxies with mutual TLS between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.systems.base import TwoProxies

MAXCONN = 9500
"""HAProxy wants twice as many descriptors, and a little more, before it starts."""

_GLOBAL = """\
global
    nbthread {workers}
    maxconn {maxconn}
    tune.ssl.cachesize 0
    ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
    ssl-default-server-options ssl-min-ver TLSv1.3 no-tls-tickets
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-bind-curves X25519

defaults
    mode tcp
    maxconn {maxconn}
    retries 0
    timeout connect 5s
    timeout client 300s
    timeout server 300s
"""


class HAProxy(TwoProxies):
    """Session cache, tickets and the client's session reuse are off."""

    def configure(self, node: str) -> Sequence[str | Path]:
        leaves = self.certificates
        bind, server = "", ""
        if node == "near":
            verify = f"verify required ca-file {leaves.ca} verifyhost {leaves.far.name} sni str({leaves.far.name})"
            server = f" ssl crt {leaves.near.both} {verify} no-ssl-reuse"
        else:
            bind = f" ssl crt {leaves.far.both} ca-file {leaves.ca} verify required"
        text = _GLOBAL.format(workers=self.workers, maxconn=MAXCONN)
        for service, (listen, onward) in self.ways(node).items():
            text += f"\nlisten {service}\n    bind {listen}{bind}\n    server onward {onward}{server}\n"
        file = self.folder / f"{node}.cfg"
        file.write_text(text, encoding="utf-8")
        return [self.program, "-db", "-f", file]
