"""Pure: what a task wants of the estate against what is there: what would change, and the options that change it."""

from __future__ import annotations

import base64
import hashlib

HOST_FIELDS = ("labels", "site", "serves")
"""What an operator says of any host."""

SERVICE_FIELDS = ("port", "check", "weight", "labels", "proxy_protocol", "max_streams", "max_rate")

IMPORT_FIELDS = ("source", "tags", "port", "labels", "max_streams", "max_rate", "allow_loopback")

SEALED = "a key, sealed"
"""How `host show` says that a private key is on record for logging in."""


def texts(labels):
    """Labels as the command takes them: YAML reads `port: 80` as a number."""
    return {str(key): str(value) for key, value in (labels or {}).items()}


def label_options(labels):
    return [part for key, value in sorted(labels.items()) for part in ("--label", f"{key}={value}")]


# --- Hosts -----------------------------------------------------------------------------------------------------------


def host_record(shown):
    """Of what `host show` prints, what tasks decide. None, when there is no such host, becomes an empty record."""
    if shown is None:
        return {}
    record = {
        "labels": dict(shown["labels"]),
        "site": shown["site"],
        "serves": sorted(shown["serves"]),
        "draining": shown["draining"] is not None,
        "revoked": shown["revoked"] is not None,
    }
    if shown["via"] is not None:
        record.update(
            reach=shown["reach"],
            via=shown["via"],
            host_keys=sorted(shown["host_keys"]),
            login=shown["login"],
            crypto=shown["crypto"],
        )
    return record


def is_ours_to_end(shown, params):
    """Not the drain of somebody who had another reason."""
    return (
        params["draining"] is not False
        or None in (params["reason"], shown["draining"])
        or (shown["draining"] == params["reason"])
    )


def host_wanted(before, params, host_keys=()):
    """The record as the task wants it: what it says, and for the rest what is on record.

    Args:
        before: as `host_record` makes it; empty for a host that is not there.
        params: the module's parameters.
        host_keys: fingerprints, as `fingerprints` makes them; none: as on record.
    """
    after = {"labels": {}, "site": None, "serves": [], "draining": False, "revoked": False}
    after.update(before)
    if params["labels"] is not None:
        after["labels"] = texts(params["labels"])
    if params["site"] is not None:
        after["site"] = params["site"] or None
    if params["serves"] is not None:
        after["serves"] = sorted(params["serves"])
    if params["draining"] is not None:
        after["draining"] = params["draining"]
    after["revoked"] = False
    if params["reach"] is None:
        return after
    return {**after, **_reach_wanted(before, params, host_keys)}


def _reach_wanted(before, params, host_keys):
    """What is not said stays as long as the host is reached in the same place."""
    url, via = params["reach"].partition("?")[0], params["via"]
    is_ssh = url.startswith("ssh://")
    kept = before if _place(before.get("reach")) == _place(url) else {}
    is_sealed = params["key"] is not None or before.get("login") == SEALED
    crypto = kept.get("crypto")
    if params["crypto"]:
        allowed = ", ".join(sorted(params["crypto"]))
        crypto = f"{allowed} until {params['crypto_until']} ({params['crypto_owner']})"
    return {
        "reach": url,
        "via": via,
        "host_keys": sorted(host_keys) or kept.get("host_keys", []),
        "login": (SEALED if is_sealed else f"certificates of {via}'s ssh CA") if is_ssh else None,
        "crypto": crypto,
    }


def _place(url):
    """Without the user: `ssh://a@h` and `ssh://b@h` are one machine."""
    scheme, found, rest = (url or "").partition("://")
    return scheme, found, rest.rpartition("@")[2]


def differs(before, after, fields):
    return any(before.get(field) != after.get(field) for field in fields)


def host_options(before, after, params):
    """The options of `host add` that make the one record the other."""
    options = label_options(after["labels"])
    options += ["--site", after["site"]] if after["site"] is not None else []
    options += [part for service in after["serves"] for part in ("--serve", service)]
    # What is to become empty can only be left out, and that takes --replace.
    if any(before.get(field) and not after[field] for field in HOST_FIELDS):
        options.append("--replace")
    if params["reach"] is None:
        # `host add` makes a token besides, which nobody will see: it is not to be good for anything.
        return [*options, "--ttl", "1s"]
    options += ["--reach", params["reach"], "--via", params["via"]]
    for option, value in (
        ("--host-key", params["host_key"]),
        ("--key", params["key"]),
        ("--crypto-owner", params["crypto_owner"]),
        ("--crypto-until", params["crypto_until"]),
    ):
        options += [option, value] if value is not None else []
    options += [part for profile in params["crypto"] or () for part in ("--crypto", profile)]
    return [*options, "--allow-loopback"] if params["allow_loopback"] else options


def fingerprints(text):
    """Of the public keys in a `.pub` file or lines of known_hosts, as `host show` prints them.

    Lines that hold no key are passed over: the command is the one to complain of them.
    """
    found = set()
    for line in text.splitlines():
        words = line.split()
        authority = bool(words) and words[0] == "@cert-authority"
        at = next((number for number, word in enumerate(words) if word.startswith("AAAA")), 0)
        if at == 0 or line.startswith("#"):
            continue
        try:
            digest = hashlib.sha256(base64.b64decode(words[at], validate=True)).digest()
        except ValueError:
            continue
        shown = "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
        found.add(f"{words[at - 1]} {shown}" + (" (certificate authority)" if authority else ""))
    return sorted(found)


# --- Services --------------------------------------------------------------------------------------------------------


def port_of(target):
    """The port in `ADDR:PORT`. Raises ValueError."""
    return int(target.rpartition(":")[2])


def instances_of(rows, name, host=None, target=None):
    """Of what `service list` prints, the placed instances that are meant."""
    placed = (row for row in rows if not row.get("imported") and not row.get("published"))
    return [
        row
        for row in placed
        if row["service"] == name and host in (None, row["host"]) and target in (None, row["target"])
    ]


def instance_record(row):
    if row is None:
        return {}
    return {**{field: row[field] for field in SERVICE_FIELDS}, "draining": row["draining"] is not None}


def instance_wanted(params):
    """All of it: the command replaces all that was said about an instance. Raises ValueError for a bad target."""
    return {
        "port": params["port"] if params["port"] is not None else port_of(params["target"]),
        "check": params["check"],
        "weight": params["weight"],
        "labels": texts(params["labels"]),
        "proxy_protocol": params["proxy_protocol"],
        "max_streams": params["max_streams"],
        "max_rate": params["max_rate"],
        "draining": params["state"] == "drained",
    }


def instance_options(wanted):
    options = ["--port", str(wanted["port"]), "--weight", str(wanted["weight"]), *label_options(wanted["labels"])]
    options += ["--check", wanted["check"]] if wanted["check"] is not None else []
    return [*options, *(["--proxy-protocol"] if wanted["proxy_protocol"] else []), *limit_options(wanted)]


def limit_options(wanted):
    pairs = (("--max-streams", wanted["max_streams"]), ("--max-rate", wanted["max_rate"]))
    return [part for option, value in pairs if value is not None for part in (option, str(value))]


def imports_of(rows, name, via=()):
    """Gateway -> what `service list` prints of the service's import through it."""
    mine = [row for row in rows if row.get("imported") and row["service"] == name]
    return {row["gateway"]: row for row in mine if not via or row["gateway"] in via}


def import_record(row):
    return {**{field: row[field] for field in IMPORT_FIELDS}, "tags": sorted(row["tags"])}


def import_wanted(params):
    return {
        "source": params["consul_service"],
        "tags": sorted(params["tags"] or ()),
        "port": params["port"],
        "labels": texts(params["labels"]),
        "max_streams": params["max_streams"],
        "max_rate": params["max_rate"],
        "allow_loopback": params["allow_loopback"],
    }


def import_options(wanted, via):
    options = [part for gateway in via for part in ("--via", gateway)]
    options += [part for tag in wanted["tags"] for part in ("--tag", tag)]
    options += ["--port", str(wanted["port"])] if wanted["port"] is not None else []
    options += [*label_options(wanted["labels"]), *limit_options(wanted)]
    return [*options, "--allow-loopback"] if wanted["allow_loopback"] else options


# --- Policy ----------------------------------------------------------------------------------------------------------


def rule_changes(before, after):
    """By rule name, each sorted: what was added, removed and changed between two lists of rules."""
    old, new = ({rule["name"]: rule for rule in rules} for rules in (before, after))
    return {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in old.keys() & new.keys() if old[name] != new[name]),
    }
