# Copyright: the meshbridge contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""I/O: (the collection's own files) which variables are meant for us and are none of ours: Ansible takes any name."""

from __future__ import annotations

import difflib
import functools
import re
from pathlib import Path

DOCUMENTATION = r"""
name: misspelt
short_description: Variables that nobody reads
version_added: 0.1.0
author: the meshbridge contributors (@meshbridge)
description:
  - Of names of variables, those that begin with C(meshbridge_) or are nearly the name of a variable of this collection,
    and are none.
positional: _input
options:
  _input:
    description: The names of all variables of a host.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Look for misspelt variables
  ansible.builtin.assert:
    that: query('ansible.builtin.varnames', '.') | meshbridge.bridge.misspelt | length == 0
"""

RETURN = r"""
_value:
  description: A sentence for each of them.
  type: list
  elements: str
"""

COLLECTION = Path(__file__).resolve().parents[2]
PREFIX = "meshbridge_"
OTHERS = ("ansible_", "common_")
"""What begins so is not judged: many have variables like ours of the role common."""
NAMES = re.compile(r"\b(?:meshbridge|agent|gateway|common|consul_policy|adopt)_\w+")
NEAR = 0.87
"""As SequenceMatcher counts: one letter more, less or otherwise, or two that changed places, in a name of ten."""


def misspelt(names):
    ours = _ours()
    unknown = sorted(name for name in names if name not in ours and not name.startswith(OTHERS))
    return [said for said in map(_judged, unknown) if said]


def _judged(name):
    near = difflib.get_close_matches(name, _ours(), n=1, cutoff=NEAR)
    if near:
        return f"{name} is no variable of this collection: {near[0]} may be meant"
    return f"{name} is no variable of this collection" if name.startswith(PREFIX) else ""


@functools.lru_cache(maxsize=1)
def _ours():
    """Every name that the playbooks and the roles mention, those included that they give one another."""
    files = [path for part in ("playbooks", "roles") for path in (COLLECTION / part).rglob("*.yml")]
    return sorted({name for path in files for name in NAMES.findall(path.read_text(encoding="utf-8"))})


class FilterModule:
    """What templates may use."""

    def filters(self):
        return {"misspelt": misspelt}
