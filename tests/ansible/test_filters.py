"""Pure: the filters that make sentences of what commands say."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Said = Callable[..., str]
WATCHDOG = "meshbridge-agent.service: Watchdog timeout (limit 10s)!"


@pytest.fixture
def said(collections: Path) -> Said:
    found: Said = importlib.import_module("ansible_collections.meshbridge.bridge.plugins.filter.said").said
    return found


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"stderr": "meshbridge: no room\n  hint: make some\n", "stdout": ""}, "no room; make some"),
        ({"stderr": "waiting\nwaiting\nmeshbridge: a: first\nmeshbridge: b: last"}, "b: last"),
        ({"stdout": "meshbridge: /opt is full\r\n", "stderr": "Shared connection closed.\r\n"}, "/opt is full"),
        ({"stderr": "meshbridge: 2 problems\n  a: 1\n  b: 2\nand so on"}, "2 problems; a: 1; b: 2"),
        ({"stdout": None, "msg": "non-zero return code"}, "it ended without a word"),
        ("{json}\nmeshbridge: the port is taken", "the port is taken"),
        ("meshbridge: no room\nmeshbridge: host vm1 of t.internal is ready\n{json}", "no room"),
        ("meshbridge: a bug\nmeshbridge-agent.service: Watchdog timeout (limit 10s)!\nkilled", WATCHDOG),
    ],
)
def test_the_last_words_of_a_command_are_one_sentence(said: Said, result: Any, expected: str) -> None:
    assert said(result) == expected


def test_what_a_command_does_not_say_somebody_else_does(said: Said) -> None:
    assert said({"stderr": "Killed"}, otherwise="it was killed") == "it was killed"


def test_c45_a_token_in_the_words_is_not_repeated(said: Said) -> None:
    result = {"stderr": "meshbridge: 'mb1_abc' is not one\n  hint: mb1_abc is"}
    assert said(result, without="mb1_abc") == "'[secret]' is not one; [secret] is"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"role": "host", "name": "vm1", "x": 1}', "host vm1"),
        ('{"role": "host", "na', ""),
        ("", ""),
        ("[1]", ""),
        ('{"role": "host"}', ""),
    ],
)
def test_a_home_that_was_edited_belongs_to_nobody(collections: Path, content: str, expected: str) -> None:
    module = importlib.import_module("ansible_collections.meshbridge.bridge.plugins.filter.belongs_to")
    assert module.belongs_to(content) == expected
