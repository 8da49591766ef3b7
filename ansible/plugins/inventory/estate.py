# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""I/O: the hosts of an estate as an inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
name: estate
short_description: The hosts of a meshbridge estate as an inventory
description:
  - Lists hosts and gateways by name, with groups by state, site, service, health and label.
  - The file's name ends in C(meshbridge.yml) or C(meshbridge.yaml).
  - No host gets an address from here, because the estate does not know how you log in. Use C(compose).
version_added: 0.1.0
author: the meshbridge contributors (@meshbridge)
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description: This plugin.
    required: true
    choices: [meshbridge.bridge.estate]
  command:
    description:
      - The program, and whatever comes before it, as where the operator's home is on another machine.
    type: list
    elements: str
    default: [meshbridge]
  home:
    description: The operator's home. Without it the program's own default.
    type: str
    env:
      - name: MESHBRIDGE_HOME
"""

EXAMPLES = r"""
# estate.meshbridge.yml
plugin: meshbridge.bridge.estate
command: [ssh, root@gw1, /opt/meshbridge/current/bin/meshbridge]
home: /var/lib/meshbridge/gateway
compose:
  ansible_host: meshbridge_name ~ ".corp.example"
keyed_groups:
  - key: meshbridge_labels.os | default("unknown")
    prefix: os
"""

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.unsafe_proxy import wrap_var
from ansible_collections.meshbridge.bridge.plugins.module_utils.estate_inventory import (
    groups_of,
    plain,
    services_of,
    variables_of,
)
from ansible_collections.meshbridge.bridge.plugins.plugin_utils.program import NoAnswer, ask

NODE_IS_DOWN = 69


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    NAME = "meshbridge.bridge.estate"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith(("meshbridge.yml", "meshbridge.yaml"))

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        self.load_cache_plugin()
        key = self.get_cache_key(path)
        is_cached = cache and self.get_option("cache")
        try:
            estate = self._cache[key] if is_cached else None
        except KeyError:
            estate = None
        if estate is None:
            estate = self._asked()
            if self.get_option("cache"):
                self._cache[key] = estate
        self._fill(estate)

    def _asked(self):
        command, home = self.get_option("command"), self.get_option("home")
        try:
            return {
                "hosts": ask(command, home, "host", "list"),
                "gateways": ask(command, home, "gateway", "list"),
                # With the node down it prints what is on disk.
                "status": ask(command, home, "status", allowed=(0, NODE_IS_DOWN)),
            }
        except NoAnswer as exc:
            raise AnsibleParserError(f"the estate cannot be listed: {exc}") from exc

    def _fill(self, estate):
        services = services_of(estate["status"])
        self.inventory.add_group("meshbridge_gateways")
        for gateway in estate["gateways"]:
            self._add(gateway["name"], {"meshbridge_address": gateway["address"]}, ["meshbridge_gateways"])
        for view in estate["hosts"]:
            variables = variables_of(view)
            groups = groups_of(variables)
            own = {name: services[name] for name in variables["meshbridge_services"] if name in services}
            variables["meshbridge_health"] = {name: one["health"] for name, one in own.items()}
            groups += [f"meshbridge_health_{one['health']}" for one in own.values()]
            self._add(view["name"], variables, groups)

    def _add(self, name, variables, groups):
        self.inventory.add_host(name)
        for group in sorted(set(groups)):
            self.inventory.add_host(name, group=self.inventory.add_group(plain(group)))
        for key, value in variables.items():
            # What others wrote into labels and reasons is text, and never a template.
            self.inventory.set_variable(name, key, wrap_var(value))
        known = self.inventory.get_host(name).get_vars()
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), known, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), known, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), known, name, strict=strict)
