"""Pure: (a fake operator) what an operator may say about imports, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from agents.operating.audit import describe
from agents.operating.services import Which, drain_service, import_service, known_service, remove_service
from bridge import limits
from inventory.authority import verify_entry
from inventory.errors import AnswerIsNo, InputError
from inventory.model import Import
from tests.support import authority as say
from tests.support.authority import Chain
from tests.support.cli import operator_home

WEB = Import(service="web", gateway="any", source="Web", port=80)


class Operator:
    """Says at once what it decided; two gateways and a host are there."""

    def __init__(self, *, consul: object | None = "somewhere") -> None:
        self.config = SimpleNamespace(consul=consul)
        self.chain = Chain(say.gateway("gw1"), say.gateway("gw2"), say.host("vm1"))

    @property
    def state(self) -> Any:
        return self.chain.state

    async def append(self, decide: Any, *, message: str) -> list[Any]:
        return self.chain.add(*decide(self.state))


def run(function: Any, *args: Any, **options: Any) -> Any:
    async def work() -> Any:
        return await function(*args, **options)

    return trio.run(work)


def ids(operator: Operator) -> list[str]:
    return sorted(operator.state.imports)


def test_without_a_gateway_named_all_of_them_bring_it_in() -> None:
    operator = Operator()
    news = run(import_service, operator, WEB, [])
    assert [one.id for one in news] == ["web/gw1", "web/gw2"] == ids(operator)
    assert run(import_service, operator, WEB, []) == [], "the same again is no news"
    assert run(remove_service, operator, Which("web", via="gw1"))[1] == [news[0]] and ids(operator) == ["web/gw2"]
    run(remove_service, operator, Which("web"))
    assert ids(operator) == []
    with pytest.raises(AnswerIsNo, match="there is no service web"):
        known_service(operator.state, Which("web"))


def test_an_import_is_changed_and_told_in_the_audit_trail() -> None:
    operator = Operator()
    run(import_service, operator, WEB, ["gw1"])
    changed = Import(service="web", gateway="any", source="Web2", tags=("a", "b"), allow_loopback=True)
    run(import_service, operator, changed, ["gw1"])
    [one] = operator.state.imports.values()
    assert (one.source, one.gateway, one.port) == ("Web2", "gw1", None)
    said = [describe(verify_entry(signed).body) for signed in operator.chain.log[-2:]]
    assert said == [
        "service web from consul:Web through gateway gw1, port 80",
        "service web from consul:Web2 a b through gateway gw1, loopback allowed",
    ]
    run(remove_service, operator, Which("web"))
    assert describe(verify_entry(operator.chain.log[-1]).body).endswith("removed")


def test_what_cannot_be_imported_is_refused_and_nothing_is_said() -> None:
    operator = Operator()
    operator.chain.add(say.instance("db", "vm1", port=5432))
    run(import_service, operator, WEB, ["gw1"])
    before = len(operator.chain.log)
    other = Import(service="db", gateway="any", source="Db", port=80)
    for wanted, via, error, words in (
        (WEB, ["gw9"], AnswerIsNo, "there is no gateway gw9"),
        (other, [], InputError, "service db has port 5432"),
        (Import(service="web", gateway="any", source="Web", port=81), ["gw2"], InputError, "imported at port 80"),
    ):
        with pytest.raises(error, match=words):
            run(import_service, operator, wanted, via)
    assert len(operator.chain.log) == before
    run(import_service, operator, Import(service="db", gateway="any", source="Db", port=5432), [])
    with pytest.raises(InputError, match="not in Consul"):
        run(import_service, Operator(consul=None), WEB, [])


def test_a_limit_is_that_of_one_gateway() -> None:
    limited = Import(service="web", gateway="any", source="Web", port=80, max_streams=20, max_rate=5)
    operator = Operator()
    with pytest.raises(InputError, match="imported through gw1, gw2, and each lets as many streams through"):
        run(import_service, operator, limited, [])
    run(import_service, operator, limited, ["gw1"])
    with pytest.raises(InputError, match="imported through gw1, gw2"):
        run(import_service, operator, WEB, ["gw2"])
    said = describe(verify_entry(operator.chain.log[-1]).body)
    assert said.endswith("port 80, at most 20 streams at once, at most 5 a second")
    run(import_service, operator, WEB, [])


def test_an_import_is_drained_where_it_is_registered() -> None:
    operator = Operator()
    run(import_service, operator, WEB, [])
    with pytest.raises(AnswerIsNo, match="drain it there"):
        run(drain_service, operator, Which("web"), reason="x")
    with pytest.raises(AnswerIsNo, match="there is no service web on vm1"):
        run(remove_service, operator, Which("web", host="vm1"))


def test_a_gateway_has_a_bounded_number_of_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IMPORTS_MAX", 2)
    operator = Operator()
    for name in ("a", "b"):
        run(import_service, operator, Import(service=name, gateway="any", source=name), [])
    run(import_service, operator, Import(service="a", gateway="any", source="other"), [])
    with pytest.raises(AnswerIsNo, match="gateway gw1 has 2 imports"):
        run(import_service, operator, Import(service="c", gateway="any", source="c"), [])


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    op = operator_home(tmp_path)
    assert "not in Consul" in op.refused(64, "service", "import", "web")
    assert "service name" in op.refused(2, "service", "import", "Web_2")
    assert "service name" in op.refused(2, "service", "import", "x", "--as", "a.b")
    assert "gateway" in op.refused(2, "service", "import", "web", "--via", "a b")
    assert "name of a service in Consul" in op.refused(64, "service", "import", "a b", "--as", "web")
    assert "not a tag" in op.refused(64, "service", "import", "web", "--tag", "a b")
    assert op.json("service", "list") == []
