"""I/O: nginx with its stream module as two TCP proxies with mutual TLS between them; nginx as the web server behind."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from inventory.endpoints import Endpoint
from tests.bench.place import Place
from tests.bench.programs import nginx_stream_module
from tests.bench.systems.base import TwoProxies
from tests.support.processes import RunningProcess

BODY_BYTES = 256

_MAIN = """\
{load}{user}daemon off;
pid {folder}/{node}.pid;
worker_processes {workers};
worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
"""

_WEB = """\
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    server {{
        listen {web} backlog=4096;
        location / {{ default_type text/plain; return 200 "{body}"; }}
    }}
    server {{
        listen {status};
        location / {{ stub_status; }}
    }}
}}
"""

_FAR_TLS = """\
        ssl_certificate {leaf.certificate}; ssl_certificate_key {leaf.key};
        ssl_client_certificate {ca}; ssl_verify_client on;
        ssl_protocols TLSv1.3; ssl_ecdh_curve X25519; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        ssl_session_cache off; ssl_session_tickets off;
"""

_NEAR_TLS = """\
        proxy_ssl on; proxy_ssl_certificate {leaf.certificate}; proxy_ssl_certificate_key {leaf.key};
        proxy_ssl_trusted_certificate {ca}; proxy_ssl_verify on; proxy_ssl_name {peer}; proxy_ssl_server_name on;
        proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        proxy_ssl_session_reuse off;
"""


def _main(folder: Path, node: str, workers: int, load: Path | None = None) -> str:
    return _MAIN.format(
        load=f"load_module {load};\n" if load is not None else "",
        user="user root;\n" if os.geteuid() == 0 else "",  # else its workers could not enter our directory
        folder=folder,
        node=node,
        workers=workers,
        files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    )


def _command(program: Path, folder: Path, file: Path) -> list[str | Path]:
    return [program, "-e", "stderr", "-p", folder, "-c", file]


class WebServer:
    """What answers the requests: one worker, a fixed body, connections kept alive, a counter to read."""

    def __init__(self, place: Place, program: Path) -> None:
        self.endpoint = Endpoint("127.0.0.1", place.free_port())
        self.status = Endpoint("127.0.0.1", place.free_port())
        folder = place.path / "web"
        folder.mkdir()
        file = folder / "web.conf"
        http = _WEB.format(folder=folder, web=self.endpoint, status=self.status, body="x" * BODY_BYTES)
        file.write_text(_main(folder, "web", 1) + http, encoding="utf-8")
        command = [str(word) for word in _command(program, folder, file)]
        self.process: RunningProcess = place.start("web", command)


class NginxStream(TwoProxies):
    """Session cache, tickets and the client's session reuse are off."""

    def configure(self, node: str) -> Sequence[str | Path]:
        if self.workers > 1:
            self.fds_per_connection = 2.2 / self.workers  # its workers are processes, and share not quite evenly
        leaves = self.certificates
        if node == "near":
            tls = _NEAR_TLS.format(leaf=leaves.near, ca=leaves.ca, peer=leaves.far.name)
        else:
            tls = _FAR_TLS.format(leaf=leaves.far, ca=leaves.ca)
        options = " backlog=4096" + (" reuseport" if self.workers > 1 else "") + (" ssl" if node == "far" else "")
        servers = "".join(
            f"    server {{\n        listen {listen}{options}; proxy_pass {onward};\n{tls}    }}\n"
            for listen, onward in self.ways(node).values()
        )
        file = self.folder / f"{node}.conf"
        main = _main(self.folder, node, self.workers, nginx_stream_module())
        file.write_text(f"{main}stream {{\n{servers}}}\n", encoding="utf-8")
        return _command(self.program, self.folder, file)
