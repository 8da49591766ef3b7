"""I/O: the `meshbridge` command for plugins, which run on the controller: one question, one answer, one deadline."""

from __future__ import annotations

import json
import subprocess

ANSWER_WITHIN = 60
"""Seconds: a registry in Consul that is away is given up by the command itself before that."""


class NoAnswer(Exception):
    """The command's own words, or why there are none."""


def ask(command, home, *args, allowed=(0,)):
    """What the command prints, as data.

    Args:
        command: the program, with whatever comes before it, as a list.
        home: the operator's home; None for the program's default.
        allowed: exit codes with which it prints as well.

    Raises:
        NoAnswer: it cannot be run, or said no.
    """
    argv = [*command, *(["--home", home] if home else []), "-o", "json", *args]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=ANSWER_WITHIN, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} did not answer within {ANSWER_WITHIN} s") from None
    except OSError as exc:
        raise NoAnswer(f"{command[0]} cannot be run: {exc.strerror}; name the program with `command`") from None
    if done.returncode not in allowed:
        words = done.stderr.decode(errors="replace").strip()
        raise NoAnswer(words or f"{command[0]} ended with {done.returncode}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise NoAnswer(f"{command[0]} {args[0]} did not answer with JSON; is it of this version?") from None
