"""I/O: what is on an ssh host's own loopback is checked through its sshd, and asked at once when that is back.

gateway ── sshd of aix1 ── Hercules' console, and that sshd itself, on its loopback
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.debian_programs import Program
from tests.support.estate import OPERATOR, Estate
from tests.support.old_servers import Hercules
from tests.support.pair import status
from tests.support.sshd import Sshd
from tests.support.traffic import eventually

RECOVERY = 20.0
"""Seconds for the ssh connection to come back as well, on a machine that others use; the test prints what it took."""


@pytest.fixture
def box(estate: Estate, openssh: Program) -> Iterator[Sshd]:
    with Sshd(estate.path / "box", estate.free_port(), options=["MaxStartups 2:100:2"]) as made:
        yield made


def found(estate: Estate, service: str) -> tuple[str, str]:
    """State and reason, as the gateway's `status` says."""
    rows = status(estate, OPERATOR).get("instances_behind", ())
    return next(((r["state"], r["reason"]) for r in rows if r["id"].startswith(f"{service}/")), ("", ""))


def test_checks_of_an_ssh_host_go_through_its_sshd(estate: Estate, box: Sshd, hercules: Program) -> None:
    estate.init()
    estate.start_gateway()
    box.authorize("cert-authority " + estate.ok(OPERATOR, "gateway", "ssh-ca").strip())
    key = estate.path / "aix1.pub"
    key.write_text(box.host_key_line + "\n")
    estate.ok(OPERATOR, "host", "add", "aix1", "--reach", box.url, "--via", "gw1", "--host-key", str(key))
    with Hercules(estate.path / "console", estate.free_port()) as console:
        at, own = f"127.0.0.1:{console.port}", f"127.0.0.1:{box.port}"
        # Far longer intervals than the test: what is found after the first time is found because the host is back.
        estate.service_add("console", "--check", "tn3270;interval=59m;fall=1", host="aix1", target=at, port=23)
        estate.service_add("login", "--check", "ssh;interval=59m;fall=1", host="aix1", target=own, port=22)
        eventually(lambda: found(estate, "console") == ("passing", "negotiated TN3270"), what="console", timeout=20)
        eventually(lambda: found(estate, "login") == ("passing", ""), what="login", timeout=20)
        assert box.count("Received disconnect from .*:11: check done") == 1
        assert box.count("MaxStartups") == 0

        estate.service_add("console", "--check", "tn3270;interval=1s;fall=1", host="aix1", target=at, port=23)
        eventually(lambda: found(estate, "console")[0] == "passing", what="console again")
        box.kill()
        # The probe that was under way says what happened to it, the next ones why there is no way.
        eventually(lambda: "aix1" in found(estate, "console")[1], what="failing, in words", timeout=20)
        assert found(estate, "console")[0] == "failing"
        # From now on only the host's own return makes a probe.
        estate.service_add("console", "--check", "tn3270;interval=59m;fall=1", host="aix1", target=at, port=23)
        eventually(lambda: found(estate, "console")[0] == "failing", what="failing still")
        box.start()
        began = time.monotonic()
        eventually(lambda: found(estate, "console")[0] == "passing", what="passing", timeout=RECOVERY)
        print(f"checked again {time.monotonic() - began:.1f} s after sshd was back")
