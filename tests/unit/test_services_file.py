import pytest

from inventory.loading.problems import LoadingError
from inventory.loading.services_file import load_services, parse_services
from inventory.model import Instance


def problems_of(text):
    with pytest.raises(LoadingError) as caught:
        parse_services(text.encode(), "vm1")
    return [(problem.key, problem.what) for problem in caught.value.problems]


def test_every_field_is_read():
    text = """\
[[service]]
name = "Ledger"
target = "127.0.0.1:9000"
port = 8080
check = "http /healthz"
weight = 3
labels = { Tier = "DB", ver = "1.2" }
max_streams = 20
max_rate = 5

[[service]]
name = "cards"
target = "[::1]:9001"
"""
    assert parse_services(text.encode(), "vm1") == (
        Instance(
            service="ledger",
            host="vm1",
            target="127.0.0.1:9000",
            port=8080,
            check="http /healthz",
            weight=3,
            labels={"tier": "db", "ver": "1.2"},
            max_streams=20,
            max_rate=5,
        ),
        Instance(service="cards", host="vm1", target="[::1]:9001", port=9001),
    )


def test_an_empty_file_serves_nothing():
    assert parse_services(b"", "vm1") == ()


def test_every_problem_is_collected_with_its_place():
    found = problems_of(
        """\
[[service]]
name = "a b"
target = "0.0.0.0:1"
port = 0
weight = true
labels = { "a/b" = "c", d = 1 }
sevice = 1

[[service]]
[[services]]
"""
    )
    assert [key for key, _ in found] == [
        "services",
        "service[0]",
        "service[0].name",
        "service[0].target",
        "service[0].port",
        "service[0].weight",
        "service[0].labels",
        "service[0].labels.d",
        "service[1]",
        "service[1]",
    ]


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("port = 65536", "port"),
        ("port = -1", "port"),
        ('port = "80"', "port"),
        ("port = 80.5", "port"),
        ("weight = 0", "weight"),
        ("weight = 1001", "weight"),
        ("weight = nan", "weight"),
        ("max_streams = 0", "max_streams"),
        ("max_streams = 100001", "max_streams"),
        ("max_rate = 0.5", "max_rate"),
        ("max_rate = -1", "max_rate"),
        ('check = ""', "check"),
        ('check = "a\\nb"', "check"),
        ("check = 1", "check"),
        ('labels = "a=b"', "labels"),
        ('labels = { "a=b" = "c" }', "labels"),
    ],
)
def test_values_out_of_range_are_refused(field, key):
    found = problems_of(f'[[service]]\nname = "a"\ntarget = "127.0.0.1:1"\n{field}\n')
    assert [place for place, _ in found] == [f"service[0].{key}"]


def test_the_same_instance_twice_and_two_ports_of_one_service_are_refused():
    one = '[[service]]\nname = "a"\ntarget = "127.0.0.1:1"\n'
    assert problems_of(one + one) == [("service[1].target", "a has the target 127.0.0.1:1 already")]
    assert problems_of(one + one.replace(":1", ":2")) == [("service[1].port", "a has port 1 above")]


def test_h26_too_many_services():
    text = "".join(f'[[service]]\nname = "a{n}"\ntarget = "127.0.0.1:1"\n' for n in range(1001))
    assert problems_of(text) == [("", "the file has 1001 services, at most 1000 are allowed")]


def test_too_many_labels():
    labels = ", ".join(f'k{n} = "v"' for n in range(65))
    found = problems_of(f'[[service]]\nname = "a"\ntarget = "127.0.0.1:1"\nlabels = {{ {labels} }}\n')
    assert found == [("service[0].labels", "has 65 labels, at most 64 are allowed")]


def test_services_are_read_from_a_file(tmp_path):
    path = tmp_path / "services.toml"
    path.write_text('[[service]]\nname = "a"\ntarget = "127.0.0.1:1"\n')
    assert [i.id for i in load_services(path, "vm1")] == ["a/vm1/127.0.0.1:1"]
