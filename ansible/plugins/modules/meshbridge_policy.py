#!/usr/bin/python
# Copyright: the meshbridge contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""I/O: the policy of the estate, as a file or a text says it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: meshbridge_policy
short_description: The policy of a meshbridge estate
description:
  - Signs a policy and puts it in force everywhere, unless this very text is in force already.
  - The text is checked first, in check mode too, and every problem in it is named.
version_added: 0.1.0
author: the meshbridge contributors (@meshbridge)
extends_documentation_fragment: meshbridge.bridge.operator
options:
  content:
    description: The policy, in TOML.
    type: str
  src:
    description: A file with it, on the machine where the module runs.
    type: path
  reason:
    description: Why, for the audit trail.
    type: str
    default: applied by Ansible
"""

EXAMPLES = r"""
- name: Put the policy in force
  meshbridge.bridge.meshbridge_policy:
    home: /var/lib/meshbridge/gateway
    content: "{{ lookup('ansible.builtin.file', 'policy.toml') }}"
    reason: vm2 reads the web
  delegate_to: gw1
"""

RETURN = r"""
number:
  description: The number of the policy in force, as far as it is known; 0 before the first.
  returned: always
  type: int
added:
  description: Names of rules that are new.
  returned: when it changed and is in force
  type: list
  elements: str
removed:
  description: Names of rules that are gone.
  returned: when it changed and is in force
  type: list
  elements: str
changed_rules:
  description: Names of rules that say something else.
  returned: when it changed and is in force
  type: list
  elements: str
unmatched:
  description: What rules name that is not in the estate yet.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.meshbridge.bridge.plugins.module_utils.estate import COMMON, Estate
from ansible_collections.meshbridge.bridge.plugins.module_utils.wanted import rule_changes

NONE = {"number": 0, "source": "", "rules": []}


def main():
    module = AnsibleModule(
        argument_spec={
            **COMMON,
            "content": {"type": "str"},
            "src": {"type": "path"},
            "reason": {"type": "str", "default": "applied by Ansible"},
        },
        mutually_exclusive=[("content", "src")],
        required_one_of=[("content", "src")],
        supports_check_mode=True,
    )
    text = _text(module)
    estate = Estate(module)
    before = estate.find("policy", "show", otherwise=NONE)
    facts = {"number": before["number"], "unmatched": []}
    if not estate.is_planned:
        facts["unmatched"] = estate.ask("policy", "check", "-", data=text.encode())["unmatched"] or []
    # `show` prints nothing before the first policy; an empty one that was applied has a number.
    changed = before["source"] != text or not before["number"]
    if changed and not module.check_mode:
        facts["number"] = estate.ask("policy", "apply", "-", "-m", module.params["reason"], data=text.encode())[
            "number"
        ]
        rules = rule_changes(before["rules"], estate.ask("policy", "show")["rules"])
        facts.update(added=rules["added"], removed=rules["removed"], changed_rules=rules["changed"])
    headers = {"before_header": f"policy {before['number']}", "after_header": "policy as given"}
    module.exit_json(changed=changed, diff={"before": before["source"], "after": text, **headers}, **facts)


def _text(module):
    if module.params["src"] is None:
        return module.params["content"]
    try:
        with open(module.params["src"], encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError:
        module.fail_json(msg=f"{module.params['src']} is not UTF-8")
    except OSError as exc:
        module.fail_json(msg=f"{module.params['src']} cannot be read: {exc.strerror}")


if __name__ == "__main__":
    main()
