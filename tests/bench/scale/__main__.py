"""I/O: one real gateway with a thousand simulated hosts: 10,000 services, 100,000 instances, 10,000 rules.

    make bench-scale                                        everything, about 8 minutes
    make bench-scale ARGS="--only changes,idle --hosts 100 --services 1000 --instances 10000 --rules 1000"
    make bench-scale ARGS=--quick                           20 hosts, to see that it works

Prints one table; writes result.json and pictures to build/bench-scale, and after a complete run its part of
docs/performance.md.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.scale.options import parse_options
from tests.bench.scale.report import Report
from tests.bench.scale.run import NotEnough, run, say

PAGE = Path("docs/performance.md")


def main(arguments: Sequence[str]) -> int:
    options = parse_options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended with us
    try:
        sections, about = run(options)
    except NotEnough as exc:
        say(str(exc))
        return 69
    report = Report(sections, about)
    report.print_table()
    report.write(options.out)
    say(f"written: {options.out}/result.json and pictures")
    if options.docs and options.is_complete and PAGE.exists() and report.publish(PAGE):
        say(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
