"""I/O: one real Consul server for a test: ACLs deny by default, TLS if asked for, stopped and restarted.

Alone it is on loopback; tests/support/consul_cluster.py puts several into namespaces. Tokens come from it as an
administrator would make them, with the policy that docs/consul.md tells people to use.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from bridge.identity import certificates
from bridge.identity.certificates import PrivateKey
from inventory.registries.consul_place import ConsulPlace
from tests.support.consul_program import find_consul
from tests.support.estate import Estate
from tests.support.hostile_certificates import mint
from tests.support.processes import RunningProcess

START_TIMEOUT = 30.0
ASK_TIMEOUT = 10.0
DOCUMENT = Path(__file__).parents[2] / "docs" / "consul.md"
_CA_NAME = "test CA"


def documented_policy(prefix: str = "meshbridge/") -> str:
    """The ACL rules of the document, for this prefix."""
    found = re.search(r"```hcl\n(key_prefix.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found, "docs/consul.md has no policy"
    return found[1].replace("meshbridge/", prefix)


def documented_catalog_policy(domain: str) -> str:
    """The further rules of the document for a gateway that writes the catalog."""
    found = re.search(r"```hcl\n(node_prefix.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found, "docs/consul.md has no policy for the catalog"
    return found[1].replace("corp.internal", domain)


class Authority:
    """A CA for the certificates of Consul servers."""

    def __init__(self, directory: Path) -> None:
        self._key = certificates.generate_key()
        self.file = directory / "ca.pem"
        ca = self._mint(self._key, _CA_NAME, ca=True, usages=())
        self.file.write_text(certificates.to_pem(ca))

    def certify(self, directory: Path, address: str) -> None:
        """`server.pem` and `server.key` for a server at this address."""
        key = certificates.generate_key()
        server = self._mint(key, "consul", names=[x509.IPAddress(ipaddress.ip_address(address))])
        (directory / "server.pem").write_text(certificates.to_pem(server))
        (directory / "server.key").write_text(certificates.private_key_pem(key))

    def _mint(self, key: PrivateKey, common_name: str, **more: Any) -> x509.Certificate:
        now = time.time()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _CA_NAME)])
        signed: dict[str, Any] = {"issuer_key": self._key, "issuer_name": name}
        times = {"not_before": now - 60, "not_after": now + 3600}
        return mint(public_key=key.public_key(), common_name=common_name, **signed, **times, **more)


@dataclass(frozen=True)
class Seat:
    """Where a server runs, and with whom.

    Args:
        http: the address of its HTTP API.
        raft: its address for the other servers.
        peers: the `raft` of all, itself included.
        prefix: words that make a program run there.
        inside: what makes a thread's sockets be opened where its API can be reached.
    """

    name: str = "consul-1"
    http: str = "127.0.0.1"
    raft: str = "127.0.0.1"
    peers: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    inside: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext


class Administrator:
    """What an administrator of Consul does. `directory`, `address` and `ask` are the subclass's."""

    directory: Path
    ca_file: Path | None

    def __init__(self) -> None:
        self.token = ""
        """An administrator's."""
        self._prefixes = 0

    @property
    def address(self) -> str:
        raise NotImplementedError

    def ask(self, method: str, path: str, data: bytes | dict[str, Any] | None = None, *, token: str = "") -> Any:
        raise NotImplementedError

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
        ca = str(self.ca_file) if self.ca_file else None
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


class ConsulServer(Administrator):
    """A server of its own. Leaving the `with` block ends it.

    Args:
        ports: of HTTP, of gossip and of Raft.
        authority: who certifies it; None: HTTP without TLS.
    """

    def __init__(
        self, directory: Path, ports: list[int], *, authority: Authority | None = None, seat: Seat | None = None
    ) -> None:
        super().__init__()
        self.directory = directory
        self.seat = seat or Seat()
        self.ca_file = authority.file if authority else None
        self._http, self._serf, self._raft = ports
        self.process: RunningProcess | None = None
        directory.mkdir()
        if authority:
            authority.certify(directory, self.seat.http)
        (directory / "consul.json").write_text(json.dumps(self._config()))

    @property
    def address(self) -> str:
        return f"{'https' if self.ca_file else 'http'}://{self.seat.http}:{self._http}"

    def _config(self) -> dict[str, Any]:
        seat, scheme, other = self.seat, *(("https", "http") if self.ca_file else ("http", "https"))
        files = {"cert_file": self.directory / "server.pem", "key_file": self.directory / "server.key"}
        files |= {"ca_file": self.ca_file} if self.ca_file else {}
        return {
            "server": True,
            "bootstrap_expect": max(1, len(seat.peers)),
            "retry_join": list(seat.peers),
            "retry_interval": "1s",
            "node_name": seat.name,
            "datacenter": "dc1",
            "data_dir": str(self.directory / "data"),
            "bind_addr": seat.raft,
            "client_addr": seat.http,
            "ports": {
                **dict.fromkeys(("dns", "grpc", "serf_wan", other), -1),
                scheme: self._http,
                "serf_lan": self._serf,
                "server": self._raft,
            },
            "acl": {"enabled": True, "default_policy": "deny", "down_policy": "deny"},
            # As fast as Consul's own documentation says that production may be, and gossip as on one machine.
            "performance": {"raft_multiplier": 1},
            "gossip_lan": {"probe_interval": "250ms", "probe_timeout": "150ms", "gossip_interval": "50ms"},
            "autopilot": {"cleanup_dead_servers": False},
            "disable_update_check": True,
            "limits": {"http_max_conns_per_client": 1000},
            **({name: str(file) for name, file in files.items()} if self.ca_file else {}),
        }

    def __enter__(self) -> ConsulServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when it takes writes."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        config = f"-config-file={self.directory / 'consul.json'}"
        argv = [*self.seat.prefix, str(find_consul()), "agent", config]
        logs = self.directory / "logs"
        logs.mkdir(exist_ok=True)
        home = {"HOME": str(self.directory)}
        self.process = RunningProcess(self.seat.name, argv, logs=logs, cwd=self.directory, env=home)

    def wait(self) -> None:
        """Until it has a leader that takes writes."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                if not self.token:
                    self.token = self.ask("PUT", "/v1/acl/bootstrap")["SecretID"]
                self.ask("PUT", "/v1/kv/started", b"yes")
                return
            except OSError:
                if time.monotonic() > deadline or self.process is None or not self.process.running:
                    raise
                time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:
            if kill:
                self.process.kill9()
            self.process.end()
            self.process = None

    def ask(
        self,
        method: str,
        path: str,
        data: bytes | dict[str, Any] | None = None,
        *,
        token: str = "",
        timeout: float = ASK_TIMEOUT,
    ) -> Any:
        """One request of an administrator. Raises OSError (urllib's errors are)."""
        body = json.dumps(data).encode() if isinstance(data, dict) else data
        request = urllib.request.Request(f"{self.address}{path}", data=body, method=method)
        if token or self.token:
            request.add_header("X-Consul-Token", token or self.token)
        context = ssl.create_default_context(cafile=str(self.ca_file)) if self.ca_file else None
        with self.seat.inside(), urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
            text = answer.read()
        return json.loads(text) if text[:1] in (b"{", b"[", b"t", b"f", b'"') else text


def new_consul(directory: Path, estate: Estate, *, tls: bool = False) -> ConsulServer:
    """Ready to be started, in `directory`/consul, on ports that nobody has."""
    authority = Authority(directory) if tls else None
    return ConsulServer(directory / "consul", [estate.free_port() for _ in range(3)], authority=authority)


def options(place: ConsulPlace) -> list[str]:
    """The options of `init` and `registry copy` that name `place`."""
    found = [word for address in place.addresses for word in ("--consul-address", address)]
    found += ["--consul-prefix", place.prefix]
    found += ["--consul-token-file", place.token_file] if place.token_file else []
    found += ["--consul-catalog" if place.catalog else "--no-consul-catalog"]
    return found + (["--consul-ca", place.ca_file] if place.ca_file else [])
