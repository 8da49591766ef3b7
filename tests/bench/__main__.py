"""I/O: the bridge side by side with Envoy, HAProxy and nginx, under the same load, in one run.

    make bench                                              all of it, about 12 minutes
    make bench ARGS="--rounds 3 --only requests,bulk"       a part of it
    make bench ARGS="--systems bridge,nginx:1,nginx:2"      some systems, peers with a number of workers

Prints one table; writes result.json and pictures to build/bench, and after a complete run docs/performance.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.options import parse_options
from tests.bench.report import Report
from tests.bench.run import Missing, metrics_of, run, say

PAGE = Path("docs/performance.md")


def main(arguments: Sequence[str]) -> int:
    options = parse_options(arguments)
    try:
        done = run(options)
    except Missing as exc:
        say(str(exc))
        return 69
    report = Report(done, metrics_of(options))
    report.print_table()
    report.write(options.out)
    say(f"written: {options.out}/result.json and pictures")
    if options.docs and options.is_complete and PAGE.exists():
        report.publish(PAGE)
        say(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
