"""Pure: what of a host's own report counts."""

from __future__ import annotations

import pytest

from agents.knowledge.placement import PlacementFile, check_report, decode_placement, encode_placement, is_dialable
from bridge import limits
from inventory.authority import AuthorityState
from inventory.errors import InputError
from inventory.health import HealthByHost
from inventory.model import Health, Host, Instance, Presence
from tests.support.estates import authority, instance, snapshot


def estate() -> AuthorityState:
    hosts = [Host(name="vm1", serves=("web",)), Host(name="vm2", serves=("cards",)), Host(name="vm3")]
    return authority(hosts, [instance("ledger", "vm3")])


def report(*instances: Instance, host: str = "vm1", most: int = 10) -> tuple[tuple[Instance, ...], list[str]]:
    placed = [i for i in estate().instances.values() if i.host == host]
    return check_report(estate(), host, instances, most=most, placed=placed)


def test_a_host_may_report_what_its_entry_lets_it_serve() -> None:
    mine = instance("web", "vm1", target="127.0.0.1:9001")
    assert report(mine) == ((mine,), [])


def test_a_host_may_report_more_of_what_the_operator_placed_there() -> None:
    mine = instance("ledger", "vm3", target="127.0.0.1:9001")
    assert report(mine, host="vm3") == ((mine,), [])


def test_c10_a_host_speaks_for_itself_only() -> None:
    good, refused = report(instance("web", "vm2"))
    assert not good and refused == ["host vm1 cannot speak for host 'vm2'"]


@pytest.mark.parametrize(("service", "owner"), [("ledger", "vm3"), ("cards", "vm2")])
def test_h25_a_name_owned_by_another_host_is_refused_with_its_owner(service: str, owner: str) -> None:
    mine = instance("web", "vm1")
    good, refused = report(instance(service, "vm1"), mine)
    assert good == (mine,)
    assert refused == [f"host vm1 may not serve '{service}'; it is owned by {owner}"]


def test_h25_a_name_that_nobody_owns_is_refused_too() -> None:
    assert report(instance("nothing", "vm1"))[1] == ["host vm1 may not serve 'nothing'"]


def test_what_was_usable_before_is_still_asked_whether_it_may_be_served() -> None:
    mine = instance("web", "vm1")
    assert check_report(estate(), "vm1", (mine,), most=10, placed=(), known=(mine,)) == ((mine,), [])
    no_longer = instance("cards", "vm1")
    assert check_report(estate(), "vm1", (no_longer,), most=10, placed=(), known=(no_longer,))[0] == ()
    odd = instance("web", "vm1", port=99999)
    assert check_report(estate(), "vm1", (odd,), most=10, placed=(), known=(mine,))[0] == ()


def test_a_host_that_nobody_signed_reports_nothing() -> None:
    assert report(instance("web", "vm9"), host="vm9")[0] == ()


def test_h26_ten_thousand_instances_of_one_host_are_refused_as_a_whole() -> None:
    many = tuple(instance("web", "vm1", target=f"10.0.{n // 250}.{n % 250}:9000") for n in range(10_000))
    with pytest.raises(InputError, match="host vm1 reports 10000 instances, at most 1000 are allowed"):
        report(*many, most=limits.INSTANCES_PER_HOST)


TEMPLATES = ["{{ 7*7 }}", "${PATH}", "%(name)s", "../../etc/passwd", "`id`", "$(id)", "\x1b]0;x\x07"]


@pytest.mark.parametrize("text", TEMPLATES)
def test_c11_h27_template_text_is_refused_or_kept_as_it_is(text: str) -> None:
    """Names, targets and labels have a grammar that none of these is in; a check is words, given to a parser."""
    for odd in (
        instance(text, "vm1"),
        instance("web", text),
        instance("web", "vm1", target=f"{text}:80"),
        instance("web", "vm1", labels={"tier": text}),
        instance("web", "vm1", labels={text: "db"}),
    ):
        good, refused = report(odd)
        assert not good and len(refused) == 1 and refused[0].isprintable()
    with_check = instance("web", "vm1", check=f"http /{text}")
    good, refused = report(with_check)
    assert (good == (with_check,)) == text.isprintable(), refused


@pytest.mark.parametrize(
    "odd",
    [
        instance("web", "vm1", port=0),
        instance("web", "vm1", port=65536),
        instance("web", "vm1", weight=-1),
        instance("web", "vm1", weight=10**12),
        instance("web", "vm1", target="0.0.0.0:80"),
        instance("web", "vm1", target="127.0.0.1:080"),
        instance("web", "vm1", labels={f"k{n}": "v" for n in range(10_000)}),
        instance("web", "vm1", labels={"k": "v" * 1_000_000}),
        instance("web", "vm1", check="x" * 100_000),
        instance("web", "vm1", draining="x" * 100_000),
    ],
    ids=range(10),
)
def test_h27_an_instance_that_would_trip_somebody_up_is_refused(odd: Instance) -> None:
    good, refused = report(odd)
    assert not good and len(refused) == 1 and len(refused[0]) < 600


def test_placement_comes_back_from_disk() -> None:
    mine = instance("web", "vm1", target="127.0.0.1:9001")
    before = snapshot([Host(name="vm1", serves=("web",))], reported={"vm1": (mine,)}).evolved(
        presence={"vm1": Presence(host="vm1", online=True, gateways=("gw1",))},
        health=HealthByHost({mine.id: Health(state="failing", reason="down")}),
    )
    file = decode_placement(encode_placement(before, 17.5))
    assert file.at == 17.5
    assert (file.presence, file.reported, file.health) == (before.presence, before.reported, before.health)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"format":"placement-v2"}', b'{"format":"placement-v1","at":NaN}'])
def test_h14_damaged_placement_is_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError):
        decode_placement(data)


def test_an_empty_placement_is_a_placement() -> None:
    assert decode_placement(b'{"format":"placement-v1"}') == PlacementFile()


def test_h23_what_can_be_dialled() -> None:
    assert is_dialable("10.0.0.1:7443") and is_dialable("vm1.corp:7443") and is_dialable("[2001:db8::1]:7443")
    assert not any(map(is_dialable, ["", "10.0.0.1", "169.254.169.254:80", "0.0.0.0:1", "224.0.0.1:1", "[::]:1"]))
