#!/usr/bin/python
# Copyright: the meshbridge contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""I/O: one service of the estate: an instance placed on a host, or one that is imported from Consul."""

from __future__ import annotations

DOCUMENTATION = r"""
module: meshbridge_service
short_description: A service of a meshbridge estate
description:
  - Places an instance of a service on a host, drains it, or takes it out.
  - With O(consul_service), lets gateways bring in a service that others registered in Consul.
version_added: 0.1.0
author: the meshbridge contributors (@meshbridge)
extends_documentation_fragment: meshbridge.bridge.operator
options:
  name:
    description: The service's name in the namespace.
    type: str
    required: true
  state:
    description:
      - V(present) has it in service as given; what is not given is as by default.
      - V(drained) the same, but it takes no new streams.
      - V(absent) takes it out; without O(host) and O(target) every instance of it.
    type: str
    choices: [present, drained, absent]
    default: present
  host:
    description: The host that serves it.
    type: str
  target:
    description: Where it listens, seen from that host, like V(127.0.0.1:9000).
    type: str
  port:
    description: Its port in the namespace. The target's, unless given.
    type: int
  check:
    description: How its health is found out, like V(http:/health). A connection, unless given.
    type: str
  weight:
    description: Its share of streams, 1 to 1000.
    type: int
    default: 1
  labels:
    description: What policy may say about it.
    type: dict
    default: {}
  proxy_protocol:
    description: Whether it is told who calls, by the PROXY protocol, version 2.
    type: bool
    default: false
  max_streams:
    description: How many streams an instance takes at once, from all callers.
    type: int
  max_rate:
    description: How many new streams an instance takes in a second, from all callers.
    type: int
  reason:
    description: Why it is drained, for the audit trail.
    type: str
  consul_service:
    description: Its name in Consul. The service is imported, and has no O(host) and no O(target).
    type: str
  via:
    description: The gateways that import it. All that there are, unless given.
    type: list
    elements: str
    default: []
  tags:
    description: Only what Consul lists with all of these tags.
    type: list
    elements: str
    default: []
  allow_loopback:
    description: Import instances on the gateway's own machine, too.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Place an instance
  meshbridge.bridge.meshbridge_service:
    name: web
    host: vm1
    target: 127.0.0.1:9000
    port: 80
    check: http:/health

- name: Bring in a service of Consul's
  meshbridge.bridge.meshbridge_service:
    name: shop
    consul_service: checkout
    tags: [v2]
    port: 80

- name: Take the service out, wherever it is
  meshbridge.bridge.meshbridge_service:
    name: web
    state: absent
"""

RETURN = r"""
instances:
  description: What is on record about it now, or would be, by instance or by gateway.
  returned: always
  type: dict
  sample: {"web/vm1/127.0.0.1:9000": {"port": 80, "weight": 1}}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.meshbridge.bridge.plugins.module_utils.estate import COMMON, NO, Estate
from ansible_collections.meshbridge.bridge.plugins.module_utils.wanted import (
    SERVICE_FIELDS,
    differs,
    import_options,
    import_record,
    import_wanted,
    imports_of,
    instance_options,
    instance_record,
    instance_wanted,
    instances_of,
)


def main():
    module = AnsibleModule(
        argument_spec={
            **COMMON,
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "drained", "absent"], "default": "present"},
            "host": {"type": "str"},
            "target": {"type": "str"},
            "port": {"type": "int"},
            "check": {"type": "str"},
            "weight": {"type": "int", "default": 1},
            "labels": {"type": "dict", "default": {}},
            "proxy_protocol": {"type": "bool", "default": False},
            "max_streams": {"type": "int"},
            "max_rate": {"type": "int"},
            "reason": {"type": "str"},
            "consul_service": {"type": "str"},
            "via": {"type": "list", "elements": "str", "default": []},
            "tags": {"type": "list", "elements": "str", "default": []},
            "allow_loopback": {"type": "bool", "default": False},
        },
        mutually_exclusive=[("consul_service", "host"), ("consul_service", "target")],
        supports_check_mode=True,
    )
    estate = Estate(module)
    rows = estate.find("service", "list", otherwise=[])
    if module.params["state"] == "absent":
        work = _absent
    elif module.params["consul_service"] is not None:
        work = _imported
    else:
        work = _placed
    before, after, changed = work(module, estate, rows)
    module.exit_json(changed=changed, instances=after, diff={"before": before, "after": after})


def _placed(module, estate, rows):
    params = module.params
    if params["host"] is None or params["target"] is None:
        module.fail_json(msg="an instance needs host and target; an import needs consul_service")
    try:
        wanted = instance_wanted(params)
    except ValueError:
        module.fail_json(msg=f"the target {params['target']!r} is not ADDR:PORT")
    where = ("--host", params["host"], "--target", params["target"])
    name, found = params["name"], instances_of(rows, params["name"], params["host"], params["target"])
    record = instance_record(found[0] if found else None)
    key = f"{name}/{params['host']}/{params['target']}"
    changed = record != wanted
    if changed and not module.check_mode:
        # Adding it again ends a drain, and draining it changes nothing else.
        if not record or differs(record, wanted, SERVICE_FIELDS) or not wanted["draining"]:
            estate.tell("service", "add", name, *where, *instance_options(wanted))
        if wanted["draining"]:
            estate.tell("service", "drain", name, *where, *(["--reason", params["reason"]] if params["reason"] else []))
    return ({key: record} if record else {}), {key: wanted}, changed


def _imported(module, estate, rows):
    params = module.params
    if params["state"] == "drained":
        module.fail_json(msg="an import is not drained here: it follows Consul")
    via = params["via"] or [row["name"] for row in estate.find("gateway", "list", otherwise=[])]
    before = {gateway: import_record(row) for gateway, row in imports_of(rows, params["name"]).items()}
    wanted = import_wanted(params)
    after = {**before, **dict.fromkeys(via, wanted)}
    if before != after and not module.check_mode:
        options = import_options(wanted, params["via"])
        estate.tell("service", "import", params["consul_service"], "--as", params["name"], *options)
    return before, after, before != after


def _absent(module, estate, rows):
    params, name = module.params, module.params["name"]
    placed = instances_of(rows, name, params["host"], params["target"])
    before = {row["id"]: instance_record(row) for row in placed}
    options = ["--host", params["host"]] if params["host"] is not None else []
    options += ["--target", params["target"]] if params["target"] is not None else []
    if not options:
        imports = imports_of(rows, name, params["via"])
        before.update({gateway: import_record(row) for gateway, row in imports.items()})
    if before and not module.check_mode:
        if params["via"]:
            for gateway in params["via"]:
                estate.tell("service", "remove", name, "--via", gateway, allowed=(0, NO))
        else:
            # Somebody else may have removed it meanwhile.
            estate.tell("service", "remove", name, *options, allowed=(0, NO))
    return before, {}, bool(before)


if __name__ == "__main__":
    main()
