"""Pure: how long things live if nothing comes back, what a node says of it, and when it worries."""

from __future__ import annotations

from pathlib import Path

from agents.outage_budget import OutageBudget, end_of, span
from bridge import limits
from tests.support.memory_tls import TrustDomain

NOW = 1_800_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR
YEAR = 365 * DAY


def budget(
    *, vm1: float = 20 * HOUR, vm2: float = 13 * HOUR, issuer: float = YEAR, root: float = 10 * YEAR
) -> OutageBudget:
    return OutageBudget({"host vm1": NOW + vm1, "host vm2": NOW + vm2}, NOW + issuer, NOW + root)


def worries(found: OutageBudget, *, renews: bool, now: float = NOW) -> list[str]:
    return list(found.worries(now=now, life=DAY, renews=renews))


def test_the_first_end_counts_and_the_ones_above_are_shown() -> None:
    shown = budget().status(NOW)
    assert (shown["outage_budget"], shown["outage_budget_seconds"]) == ("13 h 0 min", 13 * 3600)
    assert [(row["certificate"], row["left"]) for row in shown["endings"]] == [
        ("host vm2", "13 h 0 min"), ("the issuer", "365 days"), ("the root", "3650 days"),
    ]  # fmt: skip
    assert budget(issuer=HOUR).status(NOW)["outage_budget_seconds"] == 3600, "an issuer that ends first counts"
    assert budget(vm2=-5.0).status(NOW)["outage_budget_seconds"] == 0
    assert len(OutageBudget({"host vm1": NOW}, None, None).endings) == 1


def test_a_healthy_estate_does_not_worry() -> None:
    """Certificates of a day, renewed at half: there are 9 to 24 hours left at any time, and somebody renews them."""
    for left in (10 * HOUR, 12 * HOUR, 24 * HOUR):
        assert worries(budget(vm2=left), renews=True) == []


def test_under_a_day_with_nobody_to_renew_is_a_worry() -> None:
    (text,) = worries(budget(), renews=False)
    assert text.startswith("nothing renews certificates now: the certificate of host vm2 ends in 13 h 0 min")
    assert worries(budget(vm1=3 * DAY, vm2=25 * HOUR), renews=False) == []
    (text,) = worries(budget(), renews=False, now=NOW + DAY)
    assert "host vm2 ended at" in text


def test_a_renewal_that_is_overdue_is_a_worry_although_somebody_renews() -> None:
    (text,) = worries(budget(vm2=4 * HOUR), renews=True)
    assert "host vm2 ends in 4 h 0 min" in text and "renewed long ago" in text
    assert worries(budget(vm2=limits.RENEWAL_OVERDUE * DAY), renews=True) == []


def test_the_issuer_and_the_root_are_a_worry_a_month_before() -> None:
    for renews in (True, False):
        texts = worries(budget(vm2=30 * HOUR, vm1=30 * HOUR, issuer=29 * DAY, root=20 * HOUR), renews=renews)
        assert ["the issuer ends in 29 days" in texts[0], "the root ends in 20 h 0 min" in texts[1]] == [True, True]
    assert worries(budget(issuer=31 * DAY), renews=True) == []


def test_ends_are_read_from_a_chain(tmp_path: Path) -> None:
    domain = TrustDomain(tmp_path, NOW)
    chain = domain.identity("host/vm1").read_text()
    assert end_of(chain, 1) == domain.issuer_certificate.not_valid_after_utc.timestamp()
    assert end_of(domain.root_pem, 0) == domain.root.not_valid_after_utc.timestamp()
    assert end_of(domain.root_pem, 1) is None


def test_lengths_of_time_are_words() -> None:
    assert [span(s) for s in (-1, 0, 59.9, 60, 3599, 3600, 86400, 3 * 86400)] == [
        "0 s", "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "24 h 0 min", "3 days",
    ]  # fmt: skip
