import datetime
import random
from zoneinfo import ZoneInfo

import pytest

from inventory.errors import InputError
from inventory.windows import parse_window

BERLIN = "Europe/Berlin"


def at(text, zone="UTC", fold=0):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def test_a_window_that_crosses_midnight_belongs_to_the_day_on_which_it_starts():
    window = parse_window("Mon-Fri 22:00-04:00 Europe/Berlin")
    # 2027-01-15 is a Friday.
    assert window.contains(at("2027-01-15T22:00", BERLIN))
    assert window.contains(at("2027-01-16T03:59:59", BERLIN))
    assert not window.contains(at("2027-01-16T04:00", BERLIN))
    assert not window.contains(at("2027-01-16T22:00", BERLIN))
    assert not window.contains(at("2027-01-18T03:00", BERLIN))
    assert not window.contains(at("2027-01-15T21:59:59", BERLIN))
    assert window.contains(at("2027-01-15T03:00", BERLIN))


def test_edges():
    window = parse_window("Mon-Fri 22:00-04:00 Europe/Berlin")
    assert window.next_edge(at("2027-01-15T12:00", BERLIN)) == at("2027-01-15T22:00", BERLIN)
    assert window.next_edge(at("2027-01-15T22:00", BERLIN)) == at("2027-01-16T04:00", BERLIN)
    assert window.next_edge(at("2027-01-16T04:00", BERLIN)) == at("2027-01-18T22:00", BERLIN)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("08:00-09:00", "2027-01-16T08:30", "2027-01-16T09:00"),
        ("daily 08:00-09:00 UTC", "2027-01-17T08:00", "2027-01-17T07:59"),
        ("Sat,Sun 00:00-24:00", "2027-01-17T23:59", "2027-01-18T00:00"),
        ("FRI-mon 10:00-11:00", "2027-01-18T10:30", "2027-01-19T10:30"),
        ("Mon-Wed,Fri 10:00-11:00", "2027-01-15T10:30", "2027-01-14T10:30"),
        ("Wed 10:00-11:00 America/New_York", "2027-01-13T15:30", "2027-01-13T10:30"),
        ("23:00-00:00", "2027-01-13T23:59", "2027-01-13T00:00"),
    ],
)
def test_days_and_zones(text, inside, outside):
    assert parse_window(text).contains(at(inside))
    assert not parse_window(text).contains(at(outside))


def test_the_night_the_clock_goes_forward_is_an_hour_shorter():
    window = parse_window("22:00-04:00 Europe/Berlin")
    start = at("2027-03-27T22:00", BERLIN)
    assert window.contains(start) and window.next_edge(start) - start == 5 * 3600


def test_the_night_the_clock_goes_back_is_an_hour_longer():
    window = parse_window("22:00-04:00 Europe/Berlin")
    start = at("2027-10-30T22:00", BERLIN)
    assert window.contains(start) and window.next_edge(start) - start == 7 * 3600


def test_a_skipped_time_means_the_moment_of_the_change():
    change = at("2027-03-28T03:00", BERLIN)
    window = parse_window("Sun 02:30-03:15 Europe/Berlin")
    assert not window.contains(change - 1)
    assert window.contains(change) and window.next_edge(change) == change + 15 * 60
    ends_in_it = parse_window("Sun 01:00-02:30 Europe/Berlin")
    assert ends_in_it.contains(change - 1) and not ends_in_it.contains(change)


def test_a_stretch_that_lies_in_skipped_time_is_empty():
    window = parse_window("Sun 02:10-02:20 Europe/Berlin")
    wednesday = at("2027-03-24T12:00", BERLIN)
    moment, end = wednesday, wednesday + 5 * 86400
    while moment < end:
        assert not window.contains(moment)
        moment += 60 * 5
    assert wednesday < window.next_edge(wednesday) <= wednesday + 11 * 86400


def test_a_time_that_occurs_twice_means_its_first_occurrence():
    first = at("2027-10-31T02:30", BERLIN)
    assert at("2027-10-31T02:30", BERLIN, fold=1) == first + 3600
    starts = parse_window("Sun 02:30-06:00 Europe/Berlin")
    assert starts.contains(first) and not starts.contains(first - 1)
    ends = parse_window("Sun 01:00-02:30 Europe/Berlin")
    assert ends.contains(first - 1) and not ends.contains(first) and not ends.contains(first + 3599)


@pytest.mark.parametrize("zone", ["UTC", BERLIN, "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"])
def test_nothing_changes_before_the_next_edge(zone):
    rng = random.Random(zone)
    for _ in range(40):
        days = rng.choice(["", "daily ", "Sun ", "Fri-Mon ", "Tue,Sat "])
        start, end = (f"{rng.randrange(24):02}:{rng.choice(['00', '10', '30'])}" for _ in range(2))
        if start == end:
            continue
        window = parse_window(f"{days}{start}-{end} {zone}")
        now = at("2027-01-01T00:00") + rng.uniform(0, 366 * 86400)
        edge = window.next_edge(now)
        assert edge > now
        inside = window.contains(now)
        assert all(window.contains(rng.uniform(now, edge - 1e-3)) is inside for _ in range(10))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Mon-Fri",
        "Mon-Fri 22:00",
        "Mon-Fri 22-04",
        "Mon-Fri 24:00-04:00",
        "Mon-Fri 25:00-26:00",
        "10:60-11:00",
        "08:00-08:00",
        "00:00-24:01",
        "Mo-Fr 10:00-11:00",
        "Monday 10:00-11:00",
        "Mon- 10:00-11:00",
        ", 10:00-11:00",
        "Mon 10:00-11:00 UTC extra",
        "10:00-11:00 Berlin",
        "10:00-11:00 Europe/Nowhere",
        "10:00-11:00 localtime",
        "10:00-11:00 ../../etc/passwd",
        "10:00-11:00 /etc/localtime",
        "10:00-11:00 right/UTC",
        "10:00-11:00 posix/Europe/Berlin",
        "10:00-11:00 Europe",
        "10:00-11:00 +02:00",
        "1O:00-11:00",
        "１０:00-11:00",
    ],
)
def test_h19_what_is_no_window_is_refused_with_a_hint(text):
    with pytest.raises(InputError) as caught:
        parse_window(text)
    assert "is not a time window" in caught.value.what and caught.value.hint
