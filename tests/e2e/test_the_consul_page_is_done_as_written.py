"""I/O: the commands of docs/consul.md, as they stand there, on a real Consul: policy, token, init, move, remove.

Only what no page can know is put in: where this Consul is, and the paths of this test's files.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.consul_program import find_consul
from tests.support.consul_server import (
    DOCUMENT,
    ConsulServer,
    documented_catalog_policy,
    documented_policy,
    new_consul,
)
from tests.support.estate import OPERATOR, ROOT, Estate
from tests.support.pair import status
from tests.support.traffic import eventually

COMMAND_TIMEOUT = 30


@pytest.fixture
def own_consul(consul_program: Path, estate: Estate) -> Iterator[ConsulServer]:
    with new_consul(estate.path, estate, tls=True) as server:
        yield server


def documented(beginning: str) -> str:
    """The one command of the page that begins so, on one line."""
    page = DOCUMENT.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    found = [line for line in blocks.splitlines() if line.startswith(beginning)]
    inline = re.findall(rf"`({re.escape(beginning)}[^`]*)`", page)
    assert len({*found, *inline}) == 1, f"the page has no command {beginning}, or several: {found or inline}"
    return (found or inline)[0]


class Page:
    """Runs its commands."""

    def __init__(self, estate: Estate, server: ConsulServer) -> None:
        self._estate = estate
        self.token_file = estate.path / "consul.token"
        self._put_in = {
            "192.0.2.1:7443": estate.free_endpoint(),
            "https://consul.example:8501": server.address,
            "http://127.0.0.1:8500": server.address,
            "/etc/meshbridge/consul.token": str(self.token_file),
            "/etc/meshbridge/consul-ca.pem": str(server.ca_file),
        }
        self._administrator = {
            "CONSUL_HTTP_ADDR": server.address,
            "CONSUL_HTTP_TOKEN": server.token,
            "CONSUL_CACERT": str(server.ca_file),
        }

    def consul(self, beginning: str) -> str:
        words = shlex.split(documented(beginning))
        return self._run([str(find_consul()), *words[1:]], {**os.environ, **self._administrator}, self._estate.path)

    def meshbridge(self, beginning: str, *more: str) -> str:
        words = [self._put_in.get(word, word) for word in shlex.split(self._with(documented(beginning)))]
        words[words.index(OPERATOR)] = str(self._estate.home(OPERATOR))
        return self._run([sys.executable, "-m", "cli.main", *words[1:], *more], self._estate.environment(), ROOT)

    def _with(self, command: str) -> str:
        for text, value in self._put_in.items():
            command = command.replace(text, value)
        return command

    def _run(self, command: list[str], environment: dict[str, str], directory: Path) -> str:
        done = subprocess.run(
            command,
            env=environment,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


def test_the_consul_page_is_done_as_written(estate: Estate, own_consul: ConsulServer) -> None:
    page = Page(estate, own_consul)
    (estate.path / "meshbridge.hcl").write_text(documented_policy())
    (estate.path / "meshbridge-catalog.hcl").write_text(documented_catalog_policy("corp.internal"))
    page.consul("consul acl policy create -name meshbridge ")
    page.consul("consul acl policy create -name meshbridge-catalog ")
    made = page.consul("consul acl token create")
    page.token_file.touch(0o600)
    page.token_file.write_text(re.findall(r"SecretID: +(\S+)", made)[0] + "\n")

    page.meshbridge("meshbridge --home op init")
    assert own_consul.keys("meshbridge/record/")
    estate.start_gateway()
    estate.add_host("vm1")
    estate.start_agent("vm1")
    eventually(
        lambda: "meshbridge_corp.internal_vm1" in str(own_consul.ask("GET", "/v1/catalog/nodes")),
        what="Consul shows vm1",
    )
    assert {warning["code"] for warning in status(estate, OPERATOR)["warnings"]} == {"no-policy"}
    assert estate.terminate(OPERATOR) == 0

    page.meshbridge("meshbridge --home op registry copy --from consul")
    assert "vm1" in estate.ok(OPERATOR, "host", "list")
    page.consul("consul kv delete")
    assert not own_consul.keys("meshbridge/")
    reach = ["--consul-token-file", str(page.token_file), "--consul-ca", str(own_consul.ca_file)]
    page.meshbridge("meshbridge --home op registry copy --from embedded", *reach)
    assert "vm1" in estate.ok(OPERATOR, "host", "list")
    assert own_consul.keys("meshbridge/record/")
