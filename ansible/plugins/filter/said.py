# Copyright: the meshbridge contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pure: what a command of ours has said, made fit for the one line that a failed task shows."""

from __future__ import annotations

DOCUMENTATION = r"""
name: said
short_description: The last words of a meshbridge command, as one sentence
version_added: 0.1.0
author: the meshbridge contributors (@meshbridge)
description:
  - What went wrong, where, and what to do next, out of the result of a task that ran the command, or out of a log.
  - Lines before it, as those of somebody who waits, are left out.
positional: _input
options:
  _input:
    description: A task's result, or text.
    type: raw
    required: true
  otherwise:
    description: What to say if the command said nothing of its own.
    type: str
    default: it ended without a word
  without:
    description: A secret that is not to be repeated, wherever it comes from.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Say why it could not join
  ansible.builtin.fail:
    msg: "{{ joined | meshbridge.bridge.said }}"
"""

RETURN = r"""
_value:
  description: One line.
  type: str
"""

MARK = "meshbridge: "
SECRET = "[secret]"
STOOD_STILL = ".service: Watchdog timeout"


def said(result, otherwise="it ended without a word", without=""):
    # A script's errors are in its output: Ansible gives it a terminal.
    texts = [result] if isinstance(result, str) else [result.get("stdout") or "", result.get("stderr") or ""]
    found = [sentence for sentence in map(_sentence, texts) if sentence]
    words = found[-1] if found else otherwise
    return words.replace(without, SECRET) if without else words


def _sentence(text):
    """The last line that is ours, and those below it that are indented."""
    lines = text.replace("\r", "").split("\n")
    begins = [number for number, line in enumerate(lines) if _complains(line)]
    if not begins:
        return ""
    words = [lines[begins[-1]].removeprefix(MARK).strip()]
    for line in lines[begins[-1] + 1 :]:
        if not line.startswith(" "):
            break
        words.append(line.strip().removeprefix("hint: "))
    return "; ".join(words)


def _complains(line):
    """A node's word that it is ready is none; systemd's about a node that stood still is, in a log."""
    return (line.startswith(MARK) and not line.rstrip().endswith(" is ready")) or STOOD_STILL in line


class FilterModule:
    """What templates may use."""

    def filters(self):
        return {"said": said}
