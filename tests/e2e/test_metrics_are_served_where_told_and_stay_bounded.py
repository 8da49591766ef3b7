"""I/O: `--metrics 127.0.0.1:0`: the log says the port; what clients do never makes new series (C43)."""

from __future__ import annotations

import json
import re
import socket
import urllib.request

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, start_pair, status, wait_connected
from tests.support.proc import listens_on
from tests.support.traffic import Backend, ask, eventually


def page(endpoint: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{endpoint}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def series(text: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}


def total(text: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def test_c43_metrics_are_served_where_told_and_stay_bounded(estate: Estate) -> None:
    with Backend("web") as web:
        pair = start_pair(estate, {"web": web.target})
        nodes = {OPERATOR: "gateway", CLIENT: "agent"}
        endpoints = {}
        for home, kind in nodes.items():
            assert estate.terminate(home) == 0
            node = estate.start(home, estate.command(home, kind, "run", "--metrics", "127.0.0.1:0"))
            estate.nodes[home] = node
            told = json.loads(node.stderr.wait_for("metrics are served", 30))
            endpoints[home] = told["endpoint"]
            estate.wait_ready(home)
        for home, endpoint in endpoints.items():
            assert page(endpoint, "/livez") == "ok\n"
            assert page(endpoint, "/readyz") == "ok\n"
            assert any(b.port == int(endpoint.rpartition(":")[2]) for b in listens_on(estate.nodes[home].pid))
        wait_connected(estate, CLIENT)
        place = pair.place("web")
        assert eventually(lambda: ask(*place)) == "web"

        def counted(least: int) -> str:
            text = page(endpoints[CLIENT], "/metrics")
            return text if total(text, "meshbridge_streams_total") >= least else ""

        before = eventually(lambda: counted(1), what="a stream in the metrics")
        for _ in range(50):
            assert ask(*place) == "web"
            socket.create_connection(place, 5).close()
        after = eventually(lambda: counted(100), what="the streams in the metrics")
        new = {name.partition("{")[0] for name in series(after) - series(before)}
        print(f"{len(series(before))} series, then {len(series(after))}; new: {sorted(new)}")
        assert len(series(after)) <= len(series(before)) + 20, sorted(series(after) - series(before))
        assert status(estate, CLIENT)["streams"] == 0
        for secret in ("PRIVATE", "BEGIN CERT"):
            assert secret not in after
