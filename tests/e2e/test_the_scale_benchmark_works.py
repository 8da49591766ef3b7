"""I/O: `make bench-scale` as it is run, with 20 hosts: every part gives its figures, nobody is lost, nothing fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.estate import ROOT

TIMEOUT = 300.0


def test_every_part_of_the_scale_benchmark_gives_its_figures(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.bench.scale", "--quick", "--no-docs", "--out", str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    print(done.stdout)
    sections = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["sections"]
    figures: dict[str, Any] = {figure["key"]: figure["value"] for part in sections for figure in part["figures"]}
    assert not [note for part in sections for note in part["notes"] if not note.startswith("On paper")]
    for key in ("restart/lost", "restart/away", "churn/failed", "churn/differing"):
        assert figures[key] == 0, f"{key} is {figures[key]}"
    for key in ("a-signed/p99", "b-reported/p99", "d-revocation/p99", "decide/cached", "idle/supervisor"):
        assert figures[key] > 0, key
    assert {part["grid"]["heads"][-1] for part in sections if part["grid"]} == {"14 hosts", "100,000 hosts"}
    assert {path.name for path in tmp_path.glob("*.svg")} == {"bench-scale-changes.svg", "bench-scale-curve.svg"}
