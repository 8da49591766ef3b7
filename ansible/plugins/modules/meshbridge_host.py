#!/usr/bin/python
# Copyright: the meshbridge contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""I/O: one host of the estate, as the task says it is."""

from __future__ import annotations

DOCUMENTATION = r"""
module: meshbridge_host
short_description: A host of a meshbridge estate
description:
  - Records a host, changes what is on record about it, drains it, revokes it, or takes it out.
  - It never returns a token. Enrolment is for the role C(agent), which makes one just in time.
version_added: 0.1.0
author: the meshbridge contributors (@meshbridge)
extends_documentation_fragment: meshbridge.bridge.operator
options:
  name:
    description: Its name in the estate.
    type: str
    required: true
  state:
    description:
      - V(present) puts it on record as given.
      - V(revoked) refuses it, and every key that it ever had, from now on.
      - V(absent) takes it and all that was placed on it out of the estate.
    type: str
    choices: [present, revoked, absent]
    default: present
  labels:
    description: All its labels. Left out, those on record stay.
    type: dict
  site:
    description: Where it stands; empty for nowhere. Left out, what is on record stays.
    type: str
  serves:
    description: All services that it may offer by its own word. Left out, those on record stay.
    type: list
    elements: str
  draining:
    description:
      - Whether it is out of service. Left out, it stays as it is.
      - The module waits until its streams have ended, or were cut at the deadline.
    type: bool
  drain_deadline:
    description: How long streams may go on, like V(90s) or V(10m).
    type: str
    default: 10m
  drain_serving_only:
    description:
      - With O(draining=true), only nothing new goes to it. Its own programs go on calling, and nothing is cut.
      - A host that nobody could stand in for is not drained then, see RV(alone).
    type: bool
    default: false
  reason:
    description:
      - Why it is drained or revoked, for the audit trail.
      - With O(draining=false), a drain for another reason is left as it is.
    type: str
  revoke:
    description: With O(state=absent), refuse its keys as well, so that a copy of them is of no use.
    type: bool
    default: false
  lift_revocation:
    description: With O(state=present), let a revoked host come back. Without it that is an error.
    type: bool
    default: false
  reach:
    description: No agent runs on it, and this is how its gateway reaches it, like V(ssh://user@192.0.2.7).
    type: str
  via:
    description: The gateway that reaches it.
    type: str
  host_key:
    description: A file with its public ssh host key, as a C(.pub) file or as lines of known_hosts.
    type: path
  key:
    description: A file with the private key to log in with. It is sealed to the gateway and goes nowhere in clear.
    type: path
  update_key:
    description: Seal O(key) again though a key is on record already. What is sealed cannot be compared.
    type: bool
    default: false
  allow_loopback:
    description: It may be on the gateway's own machine.
    type: bool
    default: false
  crypto:
    description: Old cryptography that is allowed on the way to it.
    type: list
    elements: str
  crypto_owner:
    description: Who answers for that.
    type: str
  crypto_until:
    description: Its last day, like V(2027-03-31).
    type: str
"""

EXAMPLES = r"""
- name: Record a host with its labels
  meshbridge.bridge.meshbridge_host:
    home: /var/lib/meshbridge/gateway
    name: vm1
    site: dc1
    labels: {role: web}
    serves: [web]
  delegate_to: gw1

- name: Reach a host on which nothing may be installed
  meshbridge.bridge.meshbridge_host:
    name: aix1
    reach: ssh://bridge@192.0.2.7
    via: gw1
    host_key: /etc/meshbridge/aix1.pub

- name: Take a stolen machine out
  meshbridge.bridge.meshbridge_host:
    name: vm9
    state: absent
    revoke: true
    reason: stolen
"""

RETURN = r"""
host:
  description: What is on record about it now, or would be; empty when it is not there.
  returned: always
  type: dict
  sample: {"labels": {"role": "web"}, "site": "dc1", "serves": ["web"], "draining": false, "revoked": false}
alone:
  description: Services that it alone can serve now, for which O(drain_serving_only=true) did not drain it.
  returned: when it is present
  type: list
  elements: str
cut:
  description: How many streams were cut at the end of a drain.
  returned: when a host was drained
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.meshbridge.bridge.plugins.module_utils.estate import COMMON, NO, Estate
from ansible_collections.meshbridge.bridge.plugins.module_utils.wanted import (
    HOST_FIELDS,
    differs,
    fingerprints,
    host_options,
    host_record,
    host_wanted,
    is_ours_to_end,
)

RECORDED = (*HOST_FIELDS, "reach", "via", "host_keys", "login", "crypto")


def main():
    module = AnsibleModule(
        argument_spec={
            **COMMON,
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "revoked", "absent"], "default": "present"},
            "labels": {"type": "dict"},
            "site": {"type": "str"},
            "serves": {"type": "list", "elements": "str"},
            "draining": {"type": "bool"},
            "drain_deadline": {"type": "str", "default": "10m"},
            "drain_serving_only": {"type": "bool", "default": False},
            "reason": {"type": "str"},
            "revoke": {"type": "bool", "default": False},
            "lift_revocation": {"type": "bool", "default": False},
            "reach": {"type": "str"},
            "via": {"type": "str"},
            # Of these two only the name of the file is given.
            "host_key": {"type": "path", "no_log": False},
            "key": {"type": "path", "no_log": False},
            "update_key": {"type": "bool", "default": False, "no_log": False},
            "allow_loopback": {"type": "bool", "default": False},
            "crypto": {"type": "list", "elements": "str"},
            "crypto_owner": {"type": "str"},
            "crypto_until": {"type": "str"},
        },
        required_together=[("reach", "via"), ("crypto", "crypto_owner", "crypto_until")],
        required_by={"host_key": ("reach",), "key": ("reach",), "crypto": ("reach",)},
        supports_check_mode=True,
    )
    estate = Estate(module)
    shown = estate.find("host", "show", module.params["name"])
    before = host_record(shown)
    if before and not is_ours_to_end(shown, module.params):
        module.params["draining"] = None
    work = {"present": _present, "revoked": _revoked, "absent": _absent}[module.params["state"]]
    after, facts = work(module, estate, before)
    module.exit_json(changed=facts.pop("changed"), host=after, diff={"before": before, "after": after}, **facts)


def _present(module, estate, before):
    params, name = module.params, module.params["name"]
    if before.get("revoked") and not params["lift_revocation"]:
        module.fail_json(msg=f"{name} is revoked; set lift_revocation if it may come back, under a new key")
    after = host_wanted(before, params, _host_keys(module))
    is_sealed_anew = params["key"] is not None and params["update_key"]
    lifted = before.get("revoked", False)
    changed = not before or lifted or is_sealed_anew or differs(before, after, RECORDED)
    alone = _alone(estate, params) if after["draining"] and not before.get("draining", False) else []
    after["draining"] = after["draining"] and not alone
    facts = {"changed": changed or before["draining"] != after["draining"], "alone": alone}
    if module.check_mode:
        return after, facts
    if changed:
        estate.tell("host", "add", name, *host_options(before, after, params))
    if after["draining"] and not before.get("draining", False):
        facts["cut"] = _drain(estate, params)
    if before.get("draining", False) and not after["draining"]:
        estate.tell("host", "resume", name)
    return host_record(estate.find("host", "show", name)), facts


def _alone(estate, params):
    """Services whose callers would find nobody if it were drained of what it serves."""
    if not params["drain_serving_only"]:
        return []
    return (estate.find("host", "show", params["name"]) or {}).get("alone", [])


def _drain(estate, params):
    """How many streams had to be cut: the command says no, with 1, when there were some."""
    options = ["--reason", params["reason"]] if params["reason"] else []
    options += ["--serving-only"] if params["drain_serving_only"] else []
    return estate.count("cut", "host", "drain", params["name"], "--deadline", params["drain_deadline"], *options)


def _host_keys(module):
    if module.params["host_key"] is None:
        return []
    try:
        with open(module.params["host_key"], encoding="utf-8", errors="replace") as file:
            return fingerprints(file.read())
    except OSError as exc:
        module.fail_json(msg=f"{module.params['host_key']} cannot be read: {exc.strerror}")


def _revoked(module, estate, before):
    if not before:
        module.fail_json(msg=f"there is no host {module.params['name']} to revoke")
    after = {**before, "revoked": True}
    if not before["revoked"] and not module.check_mode:
        _revoke(estate, module.params)
    return after, {"changed": not before["revoked"]}


def _absent(module, estate, before):
    if before and not module.check_mode:
        if module.params["revoke"] and not before["revoked"]:
            _revoke(estate, module.params)
        # Somebody else may have removed it meanwhile.
        estate.tell("host", "remove", module.params["name"], allowed=(0, NO))
    return {}, {"changed": bool(before)}


def _revoke(estate, params):
    estate.tell("host", "revoke", params["name"], *(["--reason", params["reason"]] if params["reason"] else []))


if __name__ == "__main__":
    main()
