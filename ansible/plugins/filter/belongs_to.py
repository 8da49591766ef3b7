# Copyright: the meshbridge contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pure: whose a home is, by its domain.json."""

from __future__ import annotations

import json

DOCUMENTATION = r"""
name: belongs_to
short_description: The node that a home belongs to
version_added: 0.1.0
author: the meshbridge contributors (@meshbridge)
description: Of the content of a home's C(domain.json).
positional: _input
options:
  _input:
    description: The file's content.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show whose it is
  ansible.builtin.debug:
    msg: "{{ lookup('ansible.builtin.file', home ~ '/domain.json') | meshbridge.bridge.belongs_to }}"
"""

RETURN = r"""
_value:
  description: Role and name, like V(host vm1); empty when the content is not that of such a file.
  type: str
"""


def belongs_to(content):
    try:
        read = json.loads(content)
        return f"{read['role']} {read['name']}"
    except (ValueError, TypeError, KeyError):
        return ""


class FilterModule:
    """What templates may use."""

    def filters(self):
        return {"belongs_to": belongs_to}
