"""Pure: what the command says of the estate, as hosts with variables and groups of an inventory."""

from __future__ import annotations

import re


def groups_of(host):
    """The groups of one host, out of its variables. Names are not sanitized yet."""
    groups = ["meshbridge_agentless" if host["meshbridge_via"] else "meshbridge_agents"]
    groups.append(f"meshbridge_state_{host['meshbridge_state']}")
    if host["meshbridge_site"]:
        groups.append(f"meshbridge_site_{host['meshbridge_site']}")
    groups += [f"meshbridge_service_{service}" for service in host["meshbridge_services"]]
    groups += [f"meshbridge_label_{key}_{value}" for key, value in sorted(host["meshbridge_labels"].items())]
    return groups


def variables_of(view):
    """The variables of one host, out of one entry of `host list`."""
    presence = view.get("presence")
    return {
        "meshbridge_name": view["name"],
        "meshbridge_state": _state(view["state"], presence),
        "meshbridge_record": view["state"],
        "meshbridge_site": view["site"] or "",
        "meshbridge_labels": view["labels"],
        "meshbridge_services": sorted({one["service"] for one in view["instances"]} | set(view["serves"])),
        "meshbridge_via": view["via"] or "",
        "meshbridge_reach": view["reach"] or "",
        "meshbridge_why_away": view.get("why_away") or "",
    }


def _state(state, presence):
    """As `host list` says it to people: an enrolled host is online or away, where a running gateway knows."""
    return presence if state in ("enrolled", "agentless") and presence else state


def services_of(status):
    """Service -> its health, out of a gateway's `status`: passing, degraded or failing; unknown to one that is down."""
    found = {}
    for row in status.get("services", ()):
        if "passing" not in row:
            health = "unknown"
        elif row["passing"] == row["instances"]:
            health = "passing"
        else:
            health = "degraded" if row["passing"] else "failing"
        found[row["name"]] = {"port": row["port"], "instances": row["instances"], "health": health}
    return found


def plain(name):
    """A group's name out of anything: what Ansible's own names may hold."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)
