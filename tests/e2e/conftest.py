"""I/O: one estate for the many tests that neither end nor break a node."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.support.estate import Estate
from tests.support.town import Town


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """See tests/support/town.py."""
    with Estate(tmp_path_factory.mktemp("town")) as estate:
        made = Town(estate)
        made.build()
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the shared processes said."""
    report = yield
    town = getattr(item, "funcargs", {}).get("town")
    if report.when == "call" and report.failed and isinstance(town, Town):
        report.sections.extend(town.estate.last_words())
    return report
