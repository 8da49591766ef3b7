"""I/O: one real Consul server on loopback for a test: ACLs deny by default, TLS if asked for, stopped and restarted.

Tokens come from it as an administrator would make them, with the policy that docs/consul.md tells people to use.
"""

from __future__ import annotations

import ipaddress
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from bridge.identity import certificates
from inventory.registries.consul_place import ConsulPlace
from tests.support.consul_program import find_consul
from tests.support.estate import Estate
from tests.support.hostile_certificates import mint
from tests.support.processes import RunningProcess

START_TIMEOUT = 30.0
DOCUMENT = Path(__file__).parents[2] / "docs" / "consul.md"


def documented_policy(prefix: str = "meshbridge/") -> str:
    """The ACL rules of the document, for this prefix."""
    found = re.search(r"```hcl\n(key_prefix.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found, "docs/consul.md has no policy"
    return found[1].replace("meshbridge/", prefix)


class ConsulServer:
    """A server of its own. Leaving the `with` block ends it."""

    def __init__(self, directory: Path, ports: list[int], *, tls: bool = False) -> None:
        self.directory = directory
        self.tls = tls
        self._http, self._serf, self._raft = ports
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{self._http}"
        self.token = ""
        """An administrator's."""
        self.process: RunningProcess | None = None
        self._prefixes = 0
        directory.mkdir()
        if tls:
            _write_certificates(directory)
        (directory / "consul.json").write_text(json.dumps(self._config()))

    def _config(self) -> dict[str, Any]:
        closed = dict.fromkeys(("dns", "grpc", "serf_wan", "https" if not self.tls else "http"), -1)
        files = {"cert_file": "server.pem", "key_file": "server.key", "ca_file": "ca.pem"}
        return {
            "server": True,
            "bootstrap_expect": 1,
            "node_name": "consul-1",
            "datacenter": "dc1",
            "data_dir": str(self.directory / "data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": {
                **closed,
                "https" if self.tls else "http": self._http,
                "serf_lan": self._serf,
                "server": self._raft,
            },
            "acl": {"enabled": True, "default_policy": "deny", "down_policy": "deny"},
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "limits": {"http_max_conns_per_client": 1000},
            **({name: str(self.directory / file) for name, file in files.items()} if self.tls else {}),
        }

    def __enter__(self) -> ConsulServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        argv = [str(find_consul()), "agent", f"-config-file={self.directory / 'consul.json'}"]
        logs = self.directory / "logs"
        logs.mkdir(exist_ok=True)
        self.process = RunningProcess("consul", argv, logs=logs, cwd=self.directory, env={"HOME": str(self.directory)})
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                if not self.token:
                    self.token = self.ask("PUT", "/v1/acl/bootstrap")["SecretID"]
                self.ask("PUT", "/v1/kv/started", b"yes")  # it has a leader that takes writes
                return
            except OSError:
                if time.monotonic() > deadline or not self.process.running:
                    raise
                time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:
            if kill:
                self.process.kill9()
            self.process.end()
            self.process = None

    def ask(self, method: str, path: str, data: bytes | dict[str, Any] | None = None, *, token: str = "") -> Any:
        """One request of an administrator. Raises OSError (urllib's errors are)."""
        body = json.dumps(data).encode() if isinstance(data, dict) else data
        request = urllib.request.Request(f"{self.address}{path}", data=body, method=method)
        if token or self.token:
            request.add_header("X-Consul-Token", token or self.token)
        with urllib.request.urlopen(request, timeout=10, context=self._context()) as answer:
            text = answer.read()
        return json.loads(text) if text[:1] in (b"{", b"[", b"t", b"f") else text

    def _context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=str(self.directory / "ca.pem")) if self.tls else None

    # --- what a registry needs ------------------------------------------------------------------------------------

    def new_token(self, rules: str) -> tuple[str, str]:
        """Accessor and secret of a token with these rules."""
        self._prefixes += 1
        policy = self.ask("PUT", "/v1/acl/policy", {"Name": f"policy-{self._prefixes}", "Rules": rules})
        made = self.ask("PUT", "/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})
        return made["AccessorID"], made["SecretID"]

    def place(self, prefix: str | None = None, *, rules: str | None = None) -> ConsulPlace:
        """A prefix that nobody else uses, with a token of its own in a file."""
        prefix = prefix or f"estate-{self._prefixes}/"
        accessor, secret = self.new_token(rules or documented_policy(prefix))
        file = self.directory / f"token-{accessor}"
        file.touch(0o600)
        file.write_text(secret + "\n")
        ca = str(self.directory / "ca.pem") if self.tls else None
        return ConsulPlace(address=self.address, prefix=prefix, token_file=str(file), ca_file=ca)

    def revoke(self, place: ConsulPlace) -> None:
        assert place.token_file is not None
        self.ask("DELETE", f"/v1/acl/token/{place.token_file.rpartition('token-')[2]}")

    def keys(self, prefix: str) -> list[str]:
        try:
            return list(self.ask("GET", f"/v1/kv/{prefix}?keys"))
        except urllib.error.HTTPError as exc:
            if exc.code == 404:
                return []
            raise

    def snapshot(self) -> bytes:
        return bytes(self.ask("GET", "/v1/snapshot"))

    def restore(self, snapshot: bytes) -> None:
        self.ask("PUT", "/v1/snapshot", snapshot)


def new_consul(directory: Path, estate: Estate, *, tls: bool = False) -> ConsulServer:
    """Ready to be started, in `directory`/consul, on ports that nobody has."""
    return ConsulServer(directory / "consul", [estate.free_port() for _ in range(3)], tls=tls)


def options(place: ConsulPlace) -> list[str]:
    """The options of `init` and `registry copy` that name `place`."""
    found = ["--consul-address", place.address, "--consul-prefix", place.prefix]
    found += ["--consul-token-file", place.token_file] if place.token_file else []
    return found + (["--consul-ca", place.ca_file] if place.ca_file else [])


def _write_certificates(directory: Path) -> None:
    """A CA, and a server's certificate for 127.0.0.1 from it."""
    ca_key, key = certificates.generate_key(), certificates.generate_key()
    now = time.time()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    common: dict[str, Any] = {
        "issuer_key": ca_key,
        "issuer_name": name,
        "not_before": now - 60,
        "not_after": now + 3600,
    }
    ca = mint(public_key=ca_key.public_key(), common_name="test CA", ca=True, usages=(), **common)
    alone = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = mint(public_key=key.public_key(), common_name="consul", names=alone, **common)
    (directory / "ca.pem").write_text(certificates.to_pem(ca))
    (directory / "server.pem").write_text(certificates.to_pem(server))
    (directory / "server.key").write_text(certificates.private_key_pem(key))
