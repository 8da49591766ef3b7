# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""I/O: names of services as applications connect to them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: address
short_description: Where applications connect to a meshbridge service
description:
  - Gives C(NAME.NAMESPACE:PORT) for each service, for the configuration of an application.
  - It fails for a service that nobody serves, so that no machine is configured with a name that leads nowhere.
version_added: 0.1.0
author: the meshbridge contributors (@meshbridge)
options:
  _terms:
    description: Names of services, like V(ledger).
    required: true
    type: list
    elements: str
  command:
    description: The program, and whatever comes before it.
    type: list
    elements: str
    default: [meshbridge]
    vars:
      - name: meshbridge_lookup_command
  home:
    description: The operator's home. Without it the program's own default.
    type: str
    env:
      - name: MESHBRIDGE_HOME
    vars:
      - name: meshbridge_lookup_home
  namespace:
    description: What names end in.
    type: str
    default: bridge.internal
    vars:
      - name: meshbridge_namespace
  part:
    description: All of it, the name alone, or the port alone.
    type: str
    choices: [address, name, port]
    default: address
"""

EXAMPLES = r"""
- name: Tell the application where the ledger is
  ansible.builtin.lineinfile:
    path: /etc/app.conf
    line: "ledger = {{ lookup('meshbridge.bridge.address', 'ledger') }}"
"""

RETURN = r"""
_raw:
  description: One for each term.
  type: list
  elements: str
  sample: ["ledger.bridge.internal:7001"]
"""

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.meshbridge.bridge.plugins.plugin_utils.program import NoAnswer, ask


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        command, home, part = (self.get_option(name) for name in ("command", "home", "part"))
        try:
            rows = ask(command, home, "service", "list")
        except NoAnswer as exc:
            raise AnsibleError(f"services cannot be listed: {exc}") from exc
        ports = {row["service"]: row["port"] for row in rows if not row.get("published")}
        found = []
        for term in terms:
            if ports.get(term) is None:
                raise AnsibleError(f"there is no service {term!r} with a port; see `meshbridge service list`")
            name = f"{term}.{self.get_option('namespace')}"
            found.append({"address": f"{name}:{ports[term]}", "name": name, "port": str(ports[term])}[part])
        return found
