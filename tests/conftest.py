"""I/O: what every test gets: example counts, a replayable seed, skips that name their reason, an estate."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.consul_program import NoConsul, find_consul
from tests.support.debian_programs import NoProgram, Program, find_program
from tests.support.estate import Estate

settings.register_profile(
    "meshbridge",
    max_examples=int(os.environ.get("MESHBRIDGE_EXAMPLES", "50")),
    deadline=None,  # a shared machine stalls for longer than any example takes
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("meshbridge")


def why_no_root_tests() -> str | None:
    """The reason for which tests marked `root` cannot run here, or None: tried, not guessed."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None:
        return "needs the `ip` command (iproute2)"
    name = f"meshbridge-{os.getpid()}"
    added = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if added.returncode != 0:
        return f"network namespaces are not usable here: {added.stderr.strip()[:200]}"
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return None


LONG_FILES = frozenset(
    f"test_{name}.py"
    for name in (
        "a_consul_that_is_back_is_read_once",
        "a_flood_of_errors_writes_a_bounded_amount",
        "a_full_disk_costs_what_was_to_be_saved_and_nothing_else",
        "a_gateway_checks_what_is_behind_it",
        "a_gateway_says_what_is_wrong_with_its_consul_and_recovers",
        "a_gateway_speaks_only_for_those_whom_the_log_gives_it",
        "a_gateway_that_drains_lets_its_clients_end",
        "a_home_belongs_to_one_node_at_a_time",
        "a_hostile_ssh_server_harms_itself_only",
        "a_killed_worker_costs_its_own_streams_only",
        "a_limit_counts_every_way_to_an_instance",
        "a_new_version_takes_over_in_place",
        "a_node_that_gets_a_tenth_of_a_core_declares_nobody_dead",
        "a_reader_that_stops_slows_no_other_stream",
        "a_reload_costs_no_connection",
        "a_restored_registry_serves_its_hosts_again",
        "a_revoked_host_is_cut_off_at_once",
        "a_worker_that_hangs_is_noticed",
        "an_error_anywhere_ends_one_connection_at_most",
        "an_estate_works_on_without_its_consul",
        "an_idle_node_uses_next_to_nothing",
        "an_ssh_host_is_reached_by_one_connection",
        "an_sshd_that_punishes_addresses_has_nothing_against_ours",
        "another_gateway_writes_consuls_catalog",
        "any_issuer_gateway_renews_without_consul",
        "both_ends_become_a_new_version_at_once",
        "bulk_arrives_byte_for_byte_both_ways_at_once",
        "bytes_that_come_one_at_a_time_mean_the_same",
        "certificates_are_renewed_without_consul",
        "certificates_rotate_under_streams",
        "commands_answer_from_disk_with_everything_down",
        "discover_asks_an_ssh_host",
        "enrolment_survives_kill_9",
        "five_hundred_readers_that_stop_hold_a_stated_amount",
        "five_hundred_streams_and_a_gateway_that_dies_under_load",
        "flows_follow_shows_each_stream_as_it_ends",
        "ftp_works_with_pinned_data_ports",
        "half_close_and_resets_arrive_as_what_they_are",
        "host_drain_waits_for_streams_and_cuts_at_the_deadline",
        "hosts_lose_a_gateway_and_go_on_through_another",
        "hosts_start_and_serve_without_any_gateway",
        "imported_instances_come_and_go_under_load",
        "init_killed_at_any_moment_can_be_repeated",
        "no_acknowledged_change_is_lost",
        "one_token_at_two_gateways_makes_one_identity",
        "rapid_resets_cost_the_others_nothing",
        "records_that_carry_nothing_end_their_tunnel",
        "root_acts_as_the_owner_of_the_home",
        "running_out_of_descriptors_breaks_nothing_that_stands",
        "stalled_and_mute_guests_delay_nobody",
        "streams_that_never_end_are_cut_at_the_drain_deadline",
        "streams_to_agentless_hosts_outlive_a_gateways_version",
        "ten_thousand_streams_stay_open_at_once",
        "the_archive_brings_its_own_python",
        "the_scale_benchmark_works",
        "two_machines_with_one_identity_are_noticed",
        "whatever_is_killed_starts_again",
    )
)
"""End-to-end files that wait for real time-outs, kills or bulk; with tests/netns they are `make test-slow`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in LONG_FILES or item.path.parent.name == "netns":
            item.add_marker(pytest.mark.slow)
    marked = [item for item in items if item.get_closest_marker("root") is not None]
    reason = why_no_root_tests() if marked else None
    if reason is not None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what each of its processes said."""
    report = yield
    estate = getattr(item, "funcargs", {}).get("estate")
    if report.when == "call" and report.failed and isinstance(estate, Estate):
        report.sections.extend(estate.last_words())
    return report


@pytest.fixture
def seed() -> int:
    """The test's one source of chance; a failure prints it, MESHBRIDGE_SEED=<it> replays it."""
    number = int(os.environ.get("MESHBRIDGE_SEED") or random.SystemRandom().randrange(2**32))
    print(f"MESHBRIDGE_SEED={number}")
    return number


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    """An empty estate; whatever the test starts in it is ended with the test."""
    with Estate(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def consul_program() -> Path:
    """A real one, or the test is skipped."""
    try:
        return find_consul()
    except NoConsul as why:
        pytest.skip(str(why))


@pytest.fixture(scope="session")
def openssh() -> Program:
    """A real one, or the test is skipped."""
    return _program("sshd")


@pytest.fixture(scope="session")
def hercules() -> Program:
    """A real one, or the test is skipped."""
    return _program("hercules")


@pytest.fixture(scope="session")
def s3270() -> Program:
    """A real one, or the test is skipped."""
    return _program("s3270")


@pytest.fixture(scope="session")
def vsftpd() -> Program:
    """A real one, or the test is skipped."""
    return _program("vsftpd")


def _program(name: str) -> Program:
    try:
        return find_program(name)
    except NoProgram as why:
        pytest.skip(str(why))
