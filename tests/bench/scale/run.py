"""I/O: one run of the scale benchmark, part by part."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from functools import partial

from tests.bench.machine import Neighbours, machine
from tests.bench.place import Place
from tests.bench.scale import decisions, model
from tests.bench.scale.changes import Changes
from tests.bench.scale.curve import KINDS, Curve
from tests.bench.scale.figures import Section
from tests.bench.scale.idle import FirstUpdates, Idle
from tests.bench.scale.options import Options
from tests.bench.scale.restart import Restart
from tests.bench.scale.stand import Stand
from tests.bench.scale.traffic import ComingAndGoing, enrol_real_hosts

_FDS_PER_HOST = 5
"""The simulator has a tunnel and both ends of a socketpair for each host, for a moment one more of each."""
_FDS_ELSE = 200


class NotEnough(Exception):
    """This machine does not let us hold so many connections."""


def run(options: Options) -> tuple[list[Section], dict[str, str]]:
    """What was found, and on what machine. Raises NotEnough."""
    _check_descriptors(options)
    sections: list[Section] = []
    began, neighbours = time.monotonic(), Neighbours()
    with Place() as place:
        _Run(options, place, sections).everything()
    took = time.monotonic() - began
    about = {
        "hosts": f"{options.hosts:,}",
        "services": f"{options.services:,}",
        "instances": f"{options.instances:,}",
        "rules": f"{options.rules:,}",
        **machine(),
        "date": time.strftime("%Y-%m-%d"),
        "took": f"{took:.0f} s",
        "used by other programs meanwhile": f"{neighbours.used() / took:.0%} of one core",
    }
    return sections, about


def _check_descriptors(options: Options) -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = max(options.hosts, *options.sizes) if "curve" in options.only else options.hosts
    needed = _FDS_PER_HOST * most + _FDS_ELSE
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise NotEnough(f"{most:,} hosts need {needed:,} descriptors in one process, this machine allows {hard:,}")


class _Run:
    def __init__(self, options: Options, place: Place, sections: list[Section]) -> None:
        self._options = options
        self._place = place
        self._sections = sections

    def everything(self) -> None:
        if {"changes", "idle", "restart", "churn"} & set(self._options.only):
            real = enrol_real_hosts if "churn" in self._options.only else None
            with Stand(self._place, "whole", self._options.shape, prepare=real) as stand:
                say(f"making an estate of {self._options.hosts:,} hosts")
                stand.start()
                self._on(stand)
        if "decisions" in self._options.only:
            self._measure("decisions", partial(decisions.measure, self._options.shape))
        if "curve" in self._options.only:
            for kind in KINDS:
                self._measure(f"curve, {kind}", Curve(self._place, kind, self._options.sizes).measure)
            self._measure("on paper", self._model)

    def _on(self, stand: Stand) -> None:
        options = self._options
        self._measure("all hosts link up", FirstUpdates(stand).measure)
        if "idle" in options.only:
            self._measure("nothing changes", Idle(stand).measure)
        if "changes" in options.only:
            self._measure("changes", Changes(stand, options.rounds).measure)
        if "restart" in options.only:
            self._measure("the gateway is killed", Restart(stand).measure)
            self._measure("the gateway is away for a while", Restart(stand, options.down).measure)
        if "churn" in options.only:
            churn = ComingAndGoing(stand, rate=options.rate, seconds=options.seconds)
            self._measure("instances come and go", churn.measure)

    def _model(self) -> Section:
        """From the curve on which what a host may see stays the same."""
        curve = next(section for section in self._sections if section.raw.get("kind") == "same")
        assert curve.grid is not None
        return model.section(model.prices(curve.grid, curve.raw["hosts"], curve.raw["seen_by_all"]))

    def _measure(self, what: str, measure: Callable[[], Section]) -> None:
        say(what)
        section = measure()
        for figure in section.figures:
            say(f"    {figure.key:<28} {figure.metric.shown(figure.value)}")
        if section.grid is not None:
            for metric, values in section.grid.rows:
                say(f"    {metric.title:<40} {'  '.join(map(metric.shown, values))}")
        self._sections.append(section)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
