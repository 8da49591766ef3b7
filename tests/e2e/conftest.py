"""I/O: one estate for the many tests that neither end nor break a node."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.consul_server import ConsulServer, new_consul, options
from tests.support.estate import Estate
from tests.support.town import Town


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """See tests/support/town.py."""
    with Estate(tmp_path_factory.mktemp("town")) as estate:
        made = Town(estate)
        made.build()
        yield made


@pytest.fixture(scope="session")
def consul(consul_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    """One Consul server for the tests that neither stop nor restore it; each has a prefix of its own in it."""
    directory = tmp_path_factory.mktemp("consul")
    with Estate(directory) as ports, new_consul(directory, ports) as server:
        yield server


@pytest.fixture(params=["embedded", "consul"])
def each_registry(request: pytest.FixtureRequest, estate: Estate) -> str:
    """The test runs with the registry in its home, and again with it in Consul."""
    if request.param == "consul":
        server: ConsulServer = request.getfixturevalue("consul")
        place = server.place(f"e2e-{secrets.token_hex(4)}/")
        estate.init_options = ("--registry", "consul", *options(place))
    return str(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the shared processes said."""
    report = yield
    town = getattr(item, "funcargs", {}).get("town")
    if report.when == "call" and report.failed and isinstance(town, Town):
        report.sections.extend(town.estate.last_words())
    return report
