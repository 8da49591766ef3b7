"""I/O: the operator's commands on the registry alone: hosts, services, the audit trail, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.identity.tokens import parse_token
from tests.support.cli import CommandLine, copy_of, operator_home

DELIMITERS = (*",;:/*?%\n\0 \t`'\"\\|@é", "$(x)", "{{ }}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return operator_home(tmp_path_factory.mktemp("made"))


@pytest.fixture
def op(made: CommandLine, tmp_path: Path) -> CommandLine:
    return copy_of(made, tmp_path)


def placed(op: CommandLine, name: str = "web", host: str = "vm1", target: str = "127.0.0.1:9000", *more: str) -> None:
    op.ok("service", "add", name, "--host", host, "--target", target, *more)


# --- init -------------------------------------------------------------------------------------------------------------


def test_init_says_what_it_made(tmp_path: Path) -> None:
    op = CommandLine(tmp_path / "op")
    made = op.json("init", "--domain", "T.internal", "--gateway", "gw1=127.0.0.1:17443", "--certificate-lifetime", "1h")
    assert made["trust_domain"] == "t.internal"
    assert made["namespace"] == "bridge.internal"
    assert (made["gateway"], made["address"], made["listen"]) == ("gw1", "127.0.0.1:17443", "127.0.0.1:17443")
    assert len(made["genesis"]) == 64


def test_init_in_a_home_with_an_estate_is_refused(op: CommandLine) -> None:
    said = op.refused(64, "init", "--domain", "u.internal", "--gateway", "gw1=127.0.0.1:1")
    assert "an estate in this home already" in said
    assert op.json("policy", "log")[0]["what"].startswith("trust domain t.internal")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--domain", "t_.internal", "--gateway", "gw1=127.0.0.1:1"], "domain"),
        (["--domain", "t.internal", "--gateway", "127.0.0.1:1"], "lacks a name"),
        (["--domain", "t.internal", "--gateway", "gw1"], "lacks an address"),
        (["--domain", "t.internal", "--gateway", "gw1=127.0.0.1"], "ADDR:PORT"),
        (["--domain", "t.internal", "--gateway", "gw1=127.0.0.1:0"], "port"),
        (
            ["--domain", "t.internal", "--gateway", "gw1=127.0.0.1:1", "--certificate-lifetime", "1s"],
            "1 s is not between",
        ),
        (["--domain", "t.internal", "--gateway", "gw1=127.0.0.1:1", "--certificate-lifetime", "9999d"], "9999 days"),
        (["--domain", "t.internal", "--gateway", "gw1=127.0.0.1:1", "--namespace", "local host"], "domain"),
    ],
)
def test_init_refuses_what_cannot_work_and_makes_nothing(tmp_path: Path, options: list[str], said: str) -> None:
    op = CommandLine(tmp_path / "op")
    assert said in op.refused(2, "init", *options)
    assert list(tmp_path.iterdir()) == [] or not (tmp_path / "op").exists()


# --- hosts ------------------------------------------------------------------------------------------------------------


def test_host_add_prints_a_token_and_nothing_else(op: CommandLine) -> None:
    result = op.ok("host", "add", "VM1.", "--label", "Role=web", "--site", "dc1", "--serve", "web", "--ttl", "10m")
    token = parse_token(result.out.removesuffix("\n"))
    assert (token.role, token.name, token.trust_domain) == ("host", "vm1", "t.internal")
    assert token.gateways == (("gw1", "127.0.0.1:17443"),)
    assert result.out.count("\n") == 1
    assert "good until" in result.err
    assert result.out.strip() not in result.err
    shown = op.json("host", "show", "vm1")
    assert (shown["site"], shown["labels"], shown["serves"]) == ("dc1", {"role": "web"}, ["web"])
    assert shown["state"] == "invited"


def test_the_secret_is_nowhere_in_the_home(op: CommandLine) -> None:
    text = op.ok("host", "add", "vm1").out.strip()
    secret = parse_token(text).secret
    for path in op.home.iterdir():
        content = path.read_bytes()
        assert text.encode() not in content, path
        assert secret not in content, path
        assert secret.hex().encode() not in content, path


def test_adding_a_host_again_changes_its_record_and_prints_a_fresh_token(op: CommandLine) -> None:
    first = op.ok("host", "add", "vm1", "--label", "role=web").out
    op.ok("service", "add", "x", "--host", "vm1", "--target", "127.0.0.1:1")
    second = op.ok("host", "add", "vm1", "--serve", "web").out
    assert parse_token(first.strip()).invite != parse_token(second.strip()).invite
    (shown,) = op.json("host", "list")
    assert (shown["labels"], shown["serves"]) == ({"role": "web"}, ["web"])
    assert len(shown["instances"]) == 1
    entries = len(op.json("policy", "log"))
    op.ok("host", "add", "vm1", "--serve", "web")
    assert len(op.json("policy", "log")) == entries + 1, "the same record is not signed twice; the token is"


def test_adding_a_host_again_takes_nothing_away_that_is_not_named(op: CommandLine) -> None:
    given = ("--label", "role=web", "--label", "os=aix", "--site", "dc1", "--serve", "web", "--serve", "api")
    op.ok("host", "add", "vm1", *given)
    before = op.json("host", "show", "vm1")
    assert "was on record" not in op.ok("host", "add", "vm1").err, "nothing changed"
    after = op.json("host", "show", "vm1")
    assert [after[of] for of in ("labels", "site", "serves")] == [before[of] for of in ("labels", "site", "serves")]
    said = op.ok("host", "add", "vm1", "--serve", "shop").err
    assert "vm1 was on record: serves api, web -> shop\n" in said
    said = op.ok("host", "add", "vm1", "--label", "role=db", "--replace").err
    assert "labels os=aix, role=web -> role=db; site dc1 -> none; serves shop -> none" in said


def test_a_drained_host_stays_drained_when_its_record_changes(op: CommandLine) -> None:
    op.ok("host", "add", "vm1")
    said = op.refused(69, "host", "drain", "vm1", "--reason", "kernel", "--deadline", "1s")
    assert "the drain of vm1 is recorded" in said
    op.ok("host", "add", "vm1", "--serve", "web")
    assert op.json("host", "show", "vm1")["draining"] == "kernel"
    assert "back in service" in op.ok("host", "resume", "vm1").err
    assert "was not draining" in op.ok("host", "resume", "vm1").err


def test_revoke_and_token(op: CommandLine) -> None:
    op.ok("host", "add", "vm1")
    assert "is revoked" in op.ok("host", "revoke", "vm1", "--reason", "disk was stolen").err
    assert "revoked already" in op.ok("host", "revoke", "vm1").err
    shown = op.json("host", "show", "vm1")
    assert (shown["state"], shown["revoked"]) == ("revoked", "disk was stolen")
    result = op.ok("host", "token", "vm1")
    assert parse_token(result.out.strip()).name == "vm1"
    assert "revocation of vm1 is lifted" in result.err
    assert op.json("host", "show", "vm1")["revoked"] is None
    op.ok("host", "revoke", "vm1")
    assert "lifted" in op.ok("host", "add", "vm1").err


def test_remove_takes_the_instances_along(op: CommandLine) -> None:
    op.ok("host", "add", "vm1")
    op.ok("host", "add", "vm2")
    placed(op)
    placed(op, "web", "vm2")
    assert "1 instances" in op.ok("host", "remove", "vm1").err
    assert [i["host"] for i in op.json("service", "list")] == ["vm2"]
    assert [h["name"] for h in op.json("host", "list")] == ["vm2"]
    assert "no host vm1" in op.refused(1, "host", "token", "vm1")


@pytest.mark.parametrize("verb", ["show", "token", "drain", "resume", "revoke", "remove"])
def test_an_unknown_host_is_a_no(op: CommandLine, verb: str) -> None:
    said = op.refused(1, "host", verb, "vm9")
    assert "there is no host vm9" in said
    assert "host list" in said


def test_host_list_for_people_and_for_scripts(op: CommandLine) -> None:
    assert op.json("host", "list") == []
    op.ok("host", "add", "vm1", "--label", "role=web", "--site", "dc1")
    (one,) = op.json("host", "list")
    assert set(one) == {
        *("name", "state", "site", "labels", "serves", "draining", "revoked", "enrolled_at", "enrolled_from"),
        *(
            "key",
            "token_expires_at",
            "instances",
            "presence",
            "why_away",
            "alone",
            "via",
            "reach",
            "host_keys",
            "login",
            "crypto",
        ),
    }
    table = op.ok("host", "list").out.splitlines()
    assert table[0].split() == ["NAME", "STATE", "VIA", "SITE", "LABELS", "SERVES", "INSTANCES"]
    assert table[1].split() == ["vm1", "invited", "dc1", "role=web", "0"]


# --- services ---------------------------------------------------------------------------------------------------------


def test_a_service_is_placed_shown_and_removed(op: CommandLine) -> None:
    op.ok("host", "add", "vm1")
    check = "http:/health;interval=5s"
    result = op.ok(
        *("service", "add", "Web", "--host", "vm1", "--target", "127.0.0.1:9000", "--port", "8080"),
        *("--check", check, "--weight", "3", "--label", "tier=front"),
    )
    assert "placed at port 8080" in result.err
    (instance,) = op.json("service", "show", "web")
    assert instance == {
        "id": "web/vm1/127.0.0.1:9000",
        "service": "web",
        "host": "vm1",
        "target": "127.0.0.1:9000",
        "port": 8080,
        "check": check,
        "weight": 3,
        "labels": {"tier": "front"},
        "draining": None,
        "proxy_protocol": False,
        "max_streams": None,
        "max_rate": None,
    }
    op.ok("service", "remove", "web")
    assert op.json("service", "list") == []
    assert "there is no service web" in op.refused(1, "service", "show", "web")


def test_the_port_is_the_targets_unless_said(op: CommandLine) -> None:
    op.ok("host", "add", "vm1")
    placed(op)
    assert op.json("service", "show", "web")[0]["port"] == 9000


def test_all_instances_of_a_service_have_one_port(op: CommandLine) -> None:
    op.ok("host", "add", "vm1")
    op.ok("host", "add", "vm2")
    placed(op, "web", "vm1", "127.0.0.1:9000", "--port", "80")
    said = op.refused(64, "service", "add", "web", "--host", "vm2", "--target", "127.0.0.1:9000")
    assert "service web has port 80 (on vm1), this instance has 9000" in said
    assert "--port 80" in said
    placed(op, "web", "vm2", "127.0.0.1:9000", "--port", "80")
    placed(op, "other", "vm2", "127.0.0.1:9001")
    assert [i["host"] for i in op.json("service", "show", "web")] == ["vm1", "vm2"]


def test_one_instance_may_change_its_port(op: CommandLine) -> None:
    op.ok("host", "add", "vm1")
    placed(op)
    again = ("service", "add", "web", "--host", "vm1", "--target", "127.0.0.1:9000")
    said = op.ok(*again, "--port", "80").err
    assert "at port 80, was 9000: callers of port 9000 are refused from now on" in said
    assert "was" not in op.ok(*again, "--port", "80", "--weight", "2").err.replace("as it was", "")
    assert [i["port"] for i in op.json("service", "list")] == [80]
    op.ok(*again, "--port", "80")
    assert (
        "is as it was"
        in op.ok(*("service", "add", "web", "--host", "vm1", "--target", "127.0.0.1:9000", "--port", "80")).err
    )


def test_services_drain_by_host(op: CommandLine) -> None:
    op.ok("host", "add", "vm1")
    op.ok("host", "add", "vm2")
    placed(op)
    placed(op, "web", "vm2")
    op.ok("service", "drain", "web", "--host", "vm2", "--reason", "new version")
    assert [i["draining"] for i in op.json("service", "list")] == [None, "new version"]
    op.ok("service", "drain", "web")
    assert all(i["draining"] for i in op.json("service", "list"))
    op.ok("service", "resume", "web")
    assert not any(i["draining"] for i in op.json("service", "list"))
    assert "no service web on vm9" in op.refused(1, "service", "drain", "web", "--host", "vm9")
    op.ok("service", "remove", "web", "--host", "vm1")
    assert [i["host"] for i in op.json("service", "list", "--host", "vm2")] == ["vm2"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "vm9", "--target", "127.0.0.1:1"], "there is no host vm9"),
        (["--host", "vm1", "--target", "127.0.0.1"], "ADDR:PORT"),
        (["--host", "vm1", "--target", "169.254.169.254:80"], "cannot be a target"),
        (["--host", "vm1", "--target", "[::ffff:10.0.0.1]:80"], "mapped"),
        (["--host", "vm1", "--target", "127.0.0.1:1", "--check", "nonsense"], "--check"),
        (["--host", "vm1", "--target", "127.0.0.1:1", "--check", "http://127.0.0.2:1/"], "--check"),
    ],
)
def test_services_that_cannot_work_are_refused(op: CommandLine, options: list[str], said: str) -> None:
    op.ok("host", "add", "vm1")
    result = op("service", "add", "web", *options)
    assert result.code == (1 if "there is no" in said else 2)
    assert said in result.err
    assert op.json("service", "list") == []


def test_h24_ports_that_are_none_are_refused(op: CommandLine) -> None:
    op.ok("host", "add", "vm1")
    for port in ("0", "-1", "65536", "22 ", "+22", "022", "٢٢", ""):
        op.refused(2, "service", "add", "web", "--host", "vm1", "--target", "127.0.0.1:9000", f"--port={port}")
        op.refused(2, "service", "add", "web", "--host", "vm1", "--target", f"127.0.0.1:{port}")


# --- names ------------------------------------------------------------------------------------------------------------


def names_with(bad: str) -> list[tuple[str, ...]]:
    """Commands with a bad name in every place that takes one."""
    return [
        ("host", "add", bad),
        ("host", "add", "vm2", "--site", bad),
        ("host", "add", "vm2", "--serve", bad),
        ("host", "add", "vm2", "--label", f"k={bad}"),
        ("host", "add", "vm2", "--label", f"{bad}=v"),
        ("host", "token", bad),
        ("host", "revoke", bad),
        ("service", "add", bad, "--host", "vm1", "--target", "127.0.0.1:1"),
        ("service", "add", "web", "--host", bad, "--target", "127.0.0.1:1"),
        ("service", "add", "web", "--host", "vm1", "--target", "127.0.0.1:1", "--label", f"k={bad}"),
        ("service", "drain", bad),
        ("policy", "explain", f"host:{bad}", "web"),
    ]


def test_c09_delimiters_are_refused_in_every_name(op: CommandLine) -> None:
    op.ok("host", "add", "vm1")
    before = op.json("policy", "log")
    for bad in (f"a{delimiter}b" for delimiter in DELIMITERS):
        for args in names_with(bad):
            is_options = any(bad in word for word in args if args[args.index(word) - 1].startswith("--"))
            said = op.refused(2 if is_options else 64, *args)
            assert said.replace("\n", "").isprintable(), "foreign text is shown escaped"
    assert op.json("policy", "log") == before, "nothing was signed"


NO_NAMES = (
    *("a" * 64, ".".join(["a" * 50] * 6), "", "a..b", "-a", "a-", "_a", "xn--a", "ab--c", "localhost", "*"),
    *("10.0.0.1", "::1", "1", "a.1"),
)


def test_h22_names_that_are_none_are_refused(op: CommandLine) -> None:
    for name in NO_NAMES:
        op.refused(64, "host", "add", "--", name)
    assert op.json("host", "list") == []


def test_c02_spellings_of_one_name_are_one_host(op: CommandLine) -> None:
    op.ok("host", "add", "Vm1.DC1")
    op.ok("host", "add", "vm1.dc1.")
    assert [h["name"] for h in op.json("host", "list")] == ["vm1.dc1"]
    op.ok("host", "revoke", "VM1.dc1")
    assert op.json("host", "show", "vm1.dc1")["state"] == "revoked"


def test_c44_reasons_that_cannot_be_printed_are_refused(op: CommandLine) -> None:
    op.ok("host", "add", "vm1")
    for text in ("a\x1b[31mb", "a\nb", "a\u202eb", "x" * 2000):
        op.refused(64, "host", "revoke", "vm1", "--reason", text)
    assert op.json("host", "show", "vm1")["revoked"] is None


def test_c11_what_operators_write_is_data_and_never_expanded(op: CommandLine) -> None:
    text = "{{ 7*7 }} ${HOME} $(id) `id` %(x)s %n ../../etc/passwd <b> [red]x[/red] \\x1b"
    op.ok("host", "add", "vm1")
    placed(op)
    op.ok("service", "drain", "web", "--reason", text)
    op.ok("host", "revoke", "vm1", "--reason", text)
    policy = f'[[allow]]\nname = "{text.replace(chr(92), "/")}"\nfrom = ["host:vm1"]\nto = ["web"]\n'
    op.ok("policy", "apply", "-", "-m", text, input=policy)
    assert op.json("host", "show", "vm1")["revoked"] == text
    assert op.json("service", "list")[0]["draining"] == text
    assert op.json("policy", "log")[-1]["message"] == text
    assert op.ok("policy", "show").out == policy
    for table in (op.ok("host", "show", "vm1").out, op.ok("service", "list").out, op.ok("policy", "log").out):
        assert text in table


# --- the audit trail --------------------------------------------------------------------------------------------------


def test_the_log_says_who_did_what_when_and_why(op: CommandLine) -> None:
    op.ok("host", "add", "vm1", "--site", "dc1", "--serve", "web")
    placed(op)
    op.ok("service", "drain", "web", "--reason", "new version")
    op.ok("host", "revoke", "vm1", "--reason", "stolen")
    lines = op.json("policy", "log")
    assert [line["number"] for line in lines] == list(range(1, len(lines) + 1))
    assert {line["operator"] for line in lines} == {"alice"}
    what = [line["what"] for line in lines]
    assert what[2:] == [
        "host vm1, site dc1, may serve web",
        "token for host vm1",
        "service web on vm1 at 127.0.0.1:9000, port 9000",
        "service web on vm1 at 127.0.0.1:9000, port 9000, draining: new version",
        "spiffe://t.internal/host/vm1 revoked: stolen",
    ]
    assert lines[-1]["message"] == "host revoke vm1: stolen"
    assert lines[-1]["key"] == "revoke/host/vm1"
    assert lines[-1]["body"]["reason"] == "stolen"
    assert len(op.json("policy", "log", "--limit", "2")) == 2
    assert "alice" in op.ok("policy", "log").out


# --- homes of others --------------------------------------------------------------------------------------------------


def test_status_and_doctor_of_a_gateway_that_is_down(op: CommandLine) -> None:
    result = op("-o", "json", "status")
    assert result.code == 69
    assert (result.json["running"], result.json["node"], result.json["authority_number"]) == (False, "gw1", 2)
    assert "no agent or gateway is running" in result.err
    assert "certificate ends" in op("status").out
    result = op("-o", "json", "doctor")
    assert result.code == 1
    states = {finding["check"]: finding["state"] for finding in result.json}
    assert (states["permissions"], states["identity"], states["authority"]) == ("ok", "ok", "warn")
    assert states["node"] == "fail"


def test_f28_doctor_says_the_exact_command(op: CommandLine) -> None:
    (op.home / "root.key").chmod(0o640)
    result = op("doctor")
    assert result.code == 1
    assert f"chmod 600 {op.home / 'root.key'}" in result.out


def test_commands_of_a_host_on_an_operators_home_say_whose_it_is(op: CommandLine) -> None:
    for command in ("resolve", "dial"):
        assert "home of gateway gw1" in op.refused(64, command, "web")
    assert "gateway run" in op.refused(64, "agent", "run")


def test_flows_of_a_node_that_never_ran_are_none(op: CommandLine) -> None:
    assert op.ok("-o", "json", "flows").out == ""
    assert op.ok("flows").out.startswith("TIME")


def test_a_token_that_is_none_is_refused_by_join(tmp_path: Path) -> None:
    vm1 = CommandLine(tmp_path / "vm1")
    for text in ("nonsense", "x" * 10000):
        assert "token cannot be used" in vm1.refused(64, "agent", "join", "-", input=text)
    assert "no token came on stdin" in vm1.refused(64, "agent", "join", "-", input="\n")
    assert not vm1.home.exists()
