"""I/O: an operator who changes hosts, services and policy all the time, and a simple model of what must be there then.

The model is a value for each thing that was changed, with the one rule that a command's exit code gives: after 0 it is
the new one; after 69, or no answer, the old or the new one, until the end shows which; any other code is a failure.
Things in doubt are left alone, except for the policy: whoever applies the next one, successfully, has put it in force.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path

from tests.support.operator_shell import Answer, OperatorShell

PAUSE = 0.1
"""Seconds between two changes: continuous, and the machine has other things to do."""
UNAVAILABLE = 69
LISTED_MAX = 20
"""Services that one policy names."""

Key = tuple[str, ...]
Value = str | None
GONE = None
THERE, REVOKED = "there", "revoked"
_changers = count(1)
"""Two that change one estate after each other give no name twice: a service may well be on two hosts, and is one thing
in the model."""


class Model:
    """What each thing may be now, by key: one value when that is certain."""

    def __init__(self) -> None:
        self.may_be: dict[Key, set[Value]] = {}

    def attempt(self, key: Key, value: Value, *, acknowledged: bool) -> None:
        before = self.may_be.get(key, {GONE})
        self.may_be[key] = {value} if acknowledged else before | {value}

    def certain(self, kind: str, value: Value) -> list[Key]:
        return sorted(key for key, values in self.may_be.items() if key[0] == kind and values == {value})

    def differences(self, found: dict[Key, Value]) -> list[str]:
        """Of what was found from what may be; things that were never changed are nobody's business here."""
        wrong = []
        for key, values in self.may_be.items():
            if found.get(key, GONE) not in values:
                expected = " or ".join(sorted(map(str, values)))
                wrong.append(f"{' '.join(key)} is {found.get(key, GONE)}, not {expected}")
        return wrong


class Changes:
    """Makes changes from a thread of its own until the block is left.

    Args:
        hosts: where services are placed; they exist.
        rules: what every policy begins with.
        caller: the host that the policies' other rule is about.
    """

    def __init__(
        self, shell: OperatorShell, chance: random.Random, file: Path, *, hosts: list[str], rules: str, caller: str
    ) -> None:
        self.model = Model()
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest = 0.0
        """Seconds between two acknowledged changes."""
        self._shell = shell
        self._chance = chance
        self._file = file
        self._hosts = hosts
        self._rules = rules
        self._caller = caller
        self._who = next(_changers)
        self._numbers = 0
        self._last = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="changes", daemon=True)

    @property
    def acknowledged(self) -> int:
        return self.outcomes["acknowledged"]

    def _run(self) -> None:
        while not self._stop.is_set():
            self.change_something()
            self._stop.wait(PAUSE)

    def change_something(self) -> None:
        step = self._chance.choice(
            [self._add_host, self._end_host, self._place, self._place, self._displace, self._apply]
        )
        step()

    def _fresh(self, word: str) -> str:
        self._numbers += 1
        return f"{word}-{self._who}-{self._numbers}"

    def _add_host(self) -> None:
        name = self._fresh("host")
        self._try(("host", name), THERE, "host", "add", name)

    def _end_host(self) -> None:
        there = self.model.certain("host", THERE)
        if there:
            key = self._chance.choice(there)
            verb, value = self._chance.choice([("revoke", REVOKED), ("remove", GONE)])
            self._try(key, value, "host", verb, key[1])

    def _place(self) -> None:
        service, host = self._fresh("service"), self._chance.choice(self._hosts)
        where = ["--host", host, "--target", "127.0.0.1:9", "--port", "9000"]
        self._try(("service", service), host, "service", "add", service, *where)

    def _displace(self) -> None:
        placed = [key for host in self._hosts for key in self.model.certain("service", host)]
        if placed:
            key = self._chance.choice(placed)
            self._try(key, GONE, "service", "remove", key[1])

    def _apply(self) -> None:
        placed = [key[1] for host in self._hosts for key in self.model.certain("service", host)]
        chosen = self._chance.sample(placed, min(len(placed), LISTED_MAX))
        listed = ", ".join(f'"{name}"' for name in ["nothing", *chosen])
        name = self._fresh("policy")
        rule = f'[[allow]]\nname = "{name}"\nfrom = ["host:{self._caller}"]\nto = [{listed}]\n'
        text = f"{self._rules}\n{rule}"
        self._file.write_text(text)
        self._try(("policy",), text, "policy", "apply", str(self._file), "-m", name)

    def _try(self, key: Key, value: Value, *command: str) -> None:
        code, _, words = self._shell(*command)
        self.model.attempt(key, value, acknowledged=code == 0)
        if code == 0:
            now = time.monotonic()
            self.longest, self._last = max(self.longest, now - self._last), now
            self.outcomes["acknowledged"] += 1
        elif code in (UNAVAILABLE, None):
            self.outcomes[words.strip().splitlines()[0] if words.strip() else "no words"] += 1
        else:
            self.wrong.append(f"{' '.join(command)}: exit {code}: {words.strip()[:300]}")

    def __enter__(self) -> Changes:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def found_by(shell: OperatorShell) -> dict[Key, Value]:
    """What the registry holds, in the model's words."""
    found: dict[Key, Value] = {}
    for host in json.loads(_ok(shell("-o", "json", "host", "list"))):
        found["host", host["name"]] = REVOKED if host["state"] == "revoked" else THERE
    for service in json.loads(_ok(shell("-o", "json", "service", "list"))):
        found["service", service["service"]] = service["host"]
    found["policy",] = _ok(shell("policy", "show"))
    return found


def _ok(answer: Answer) -> str:
    code, out, words = answer
    assert code == 0, words
    return out
