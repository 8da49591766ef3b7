"""I/O: status, a metric and doctor say how long the estate lives if nothing comes back."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, SERVER, start_pair, status
from tests.support.traffic import Backend, eventually

DAY = 86400


def warnings(estate: Estate, home: str) -> list[str]:
    return [w["text"] for w in status(estate, home)["warnings"] if w["code"] == "outage-budget"]


def finding(estate: Estate, home: str) -> dict[str, Any]:
    done = estate.cli(home, "-o", "json", "doctor")
    found: dict[str, Any] = next(f for f in json.loads(done.stdout) if f["check"] == "outage-budget")
    return found


def seconds_left(estate: Estate, metrics: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as page:
        lines = [line for line in page.read().decode().splitlines() if line.startswith("meshbridge_outage_budget")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def test_the_outage_budget_is_what_is_left(estate: Estate) -> None:
    metrics = estate.free_endpoint()
    estate.options[OPERATOR] = ("--metrics", metrics)
    with Backend("web") as web:
        start_pair(estate, {"web": web.target}, init=("--certificate-lifetime", "20h"))
        found = eventually(
            lambda: (now := status(estate, OPERATOR)) and all(r["certificate_ends"] for r in now["hosts"]) and now,
            what="the ends of the hosts' certificates",
        )
        assert 19 * 3600 < found["outage_budget_seconds"] <= 20 * 3600, "a node's certificate is the first to end"
        assert [row["certificate"] for row in found["endings"]][1:] == ["the issuer", "the root"]
        ends = {row["name"]: row["certificate_ends"] for row in found["hosts"]}
        assert ends == {home: status(estate, home)["certificate_ends"] for home in (SERVER, CLIENT)}
        shown = seconds_left(estate, metrics)
        assert abs(shown["node"] - found["outage_budget_seconds"]) < 60
        assert 360 * DAY < shown["issuer"] < shown["root"]

        for home in (OPERATOR, CLIENT):
            assert warnings(estate, home) == [], "under a day, but everybody is renewed"
            assert finding(estate, home)["state"] == "ok" and "if nothing comes back" in finding(estate, home)["text"]
        estate.kill9(OPERATOR)
        (text,) = eventually(lambda: warnings(estate, CLIENT), what="the host says that nothing renews")
        assert "nothing renews certificates now: the certificate of host vm2 ends in 19 h" in text
        for home in (OPERATOR, CLIENT):  # one is down, the other alone
            said = finding(estate, home)
            assert said["state"] == "warn" and "nothing renews" in said["text"]
        assert "outage budget" in estate.cli(OPERATOR, "status").stdout.replace("_", " ")
