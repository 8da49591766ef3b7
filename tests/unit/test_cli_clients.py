"""I/O: the commands about clients and published ports, in this process: what they say, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import CommandLine, copy_of, operator_home
from tests.support.client_certificates import make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return operator_home(tmp_path_factory.mktemp("made"))


@pytest.fixture
def op(made: CommandLine, tmp_path: Path) -> CommandLine:
    return copy_of(made, tmp_path)


def test_a_client_is_recorded_shown_changed_and_removed(op: CommandLine, tmp_path: Path) -> None:
    how = ("--via", "gw1", "--source", "10.1.0.0/16", "--source", "10.9.0.1", "--label", "os=zos")
    assert "is recorded" in op.ok("client", "add", "LPAR7", *how).err
    assert "is as it was" in op.ok("client", "add", "lpar7", *how).err
    shown = op.json("client", "show", "lpar7")
    assert shown == {
        "name": "lpar7",
        "gateways": ["gw1"],
        "sources": ["10.1.0.0/16", "10.9.0.1/32"],
        "keys": [],
        "labels": {"os": "zos"},
    }
    certificate = make(tmp_path, "pos")
    op.ok("client", "add", "lpar7", "--via", "gw1", "--certificate", str(certificate.pem))
    (listed,) = op.json("client", "list")
    assert (listed["sources"], listed["keys"]) == ([], [certificate.hash]), "adding it again replaces all"
    assert "lpar7" in op.ok("client", "list").out and certificate.hash in op.ok("client", "show", "lpar7").out
    op.ok("client", "remove", "lpar7")
    assert op.json("client", "list") == []
    assert "there is no client lpar7" in op.refused(1, "client", "remove", "lpar7")
    assert "client lpar7 is not known here" in op("policy", "explain", "client:lpar7", "web").out


def test_what_is_no_client_is_refused_in_words(op: CommandLine, tmp_path: Path) -> None:
    refused = op.refused
    assert "--source CIDR, or --certificate FILE" in refused(64, "client", "add", "a", "--via", "gw1")
    add = ("client", "add", "a", "--via", "gw1")
    assert "without bits beyond the prefix" in refused(2, *add, "--source", "10.1.0.1/16")
    assert "is everybody" in refused(2, *add, "--source", "0.0.0.0/0")
    assert "there is no gateway gw9" in refused(1, "client", "add", "a", "--via", "gw9", "--source", "10.0.0.1")
    op.ok(*add, "--source", "10.0.0.1")
    taken = refused(64, "client", "add", "b", "--via", "gw1", "--source", "10.0.0.1/32")
    assert "10.0.0.1/32 is client a already" in taken
    (tmp_path / "empty.pem").write_text("")
    assert "empty.pem" in refused(64, *add, "--certificate", str(tmp_path / "empty.pem"))
    assert "does not exist" in refused(2, *add, "--certificate", str(tmp_path / "none.pem"))


def test_a_service_is_published_listed_and_taken_away(op: CommandLine) -> None:
    op.ok("host", "add", "vm1", "--serve", "web")
    publish = ("service", "publish", "Web", "--via", "gw1", "--listen", "10.0.0.1:8080")
    assert "web is published at 10.0.0.1:8080 of gateway gw1" in op.ok(*publish).err
    assert "is as it was" in op.ok(*publish).err
    (shown,) = op.json("service", "show", "web")
    assert (shown["id"], shown["published"], shown["port"]) == ("web/gateway:gw1/10.0.0.1:8080", True, 8080)
    op.ok("service", "add", "web", "--host", "vm1", "--target", "127.0.0.1:9000", "--proxy-protocol")
    placed, published = op.json("service", "list")
    assert placed["proxy_protocol"] is True and published == shown
    assert "published" in op.ok("service", "list").out
    assert "is published there already" in op.refused(64, *publish[:2], "db", *publish[3:])
    assert "is not published there" in op.refused(1, "service", "unpublish", "web", "--via", "gw2")
    assert "no longer published" in op.ok("service", "unpublish", "web").err
    assert len(op.json("service", "list")) == 1


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--via", "gw1"),
        ("--listen", "10.0.0.1:80"),
        ("--on", "vm1"),
        ("--port", "80"),
        ("--via", "gw1", "--listen", "10.0.0.1:80", "--on", "vm1", "--port", "80"),
        ("--via", "gw1", "--listen", "10.0.0.1:80", "--port", "80"),
        ("--via", "gw1", "--listen", "gw.corp:80"),
        ("--via", "gw1", "--listen", "10.0.0.1:0"),
        ("--on", "vm1", "--port", "80", "--tls"),
    ],
)
def test_a_publication_is_at_a_gateway_or_on_a_host(op: CommandLine, args: tuple[str, ...]) -> None:
    op.refused(2, "service", "publish", "web", *args)


def test_an_agents_host_needs_no_published_port(op: CommandLine) -> None:
    op.ok("host", "add", "vm1")
    assert "an agent runs on vm1" in op.refused(64, "service", "publish", "web", "--on", "vm1", "--port", "80")
