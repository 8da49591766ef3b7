"""The policy once more, slow and obvious, written apart from the product's matchers, for a property test to compare."""

import datetime
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo


def words_match(pattern, name):
    if pattern and name and pattern[0] == "**":
        return any(words_match(pattern[1:], name[n:]) for n in range(1, len(name) + 1))
    if not pattern or not name:
        return not pattern and not name
    return fnmatchcase(name[0], pattern[0]) and words_match(pattern[1:], name[1:])


def has_label(labels, pair):
    key, value = pair.split("=")
    return any(k.lower() == key and fnmatchcase(v.lower(), value) for k, v in labels.items())


def is_from(snapshot, subject, text):
    kind, rest = text.split(":", 1)
    if kind in ("host", "client"):
        return subject.kind == kind and words_match(rest.split("."), subject.name.split("."))
    if subject.kind == "client":
        client = snapshot.authority.clients[subject.name]
        return kind == "label" and has_label(client.labels, rest)
    host = snapshot.authority.hosts[subject.name]
    if kind == "label":
        return has_label(host.labels, rest)
    return any(
        fnmatchcase(word, rest) for word in (host.serves if kind == "service" else [host.site] if host.site else [])
    )


def is_to(effect, service, instances, text):
    if text.startswith("label:"):
        carried = [has_label(i.labels, text[6:]) for i in instances]
        return any(carried) if effect == "deny" else all(carried)
    return fnmatchcase(service, text)


def is_in_time(rule, now):
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    if rule.until and moment.date() > datetime.date.fromisoformat(rule.until):
        return False
    if not rule.when:
        return True
    words = rule.when.split()
    local = moment.astimezone(ZoneInfo(words.pop() if "/" in words[-1] else "UTC"))
    start, end = words.pop().split("-")
    names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    days = {"Mon-Thu": names[:4], "Sat,Sun": names[5:]}.get(words[0], words) if words else names
    today, yesterday = names[local.weekday()], names[local.weekday() - 1]
    clock = local.strftime("%H:%M")
    if start < end:
        return today in days and start <= clock < end
    return (today in days and clock >= start) or (yesterday in days and clock < end)


def may(snapshot, subject, service, now, user):
    """Whether the subject may reach the service."""
    revoked = {body.spiffe_id for body in snapshot.authority.revoked_identities.values()}

    def counts(host):
        return host in snapshot.authority.hosts and f"spiffe://t.internal/host/{host}" not in revoked

    signed = list(snapshot.authority.instances.values())
    placed = {(i.service, i.host) for i in signed}
    claimed = [i for items in snapshot.reported.values() for i in items]
    permitted = [
        i
        for i in claimed
        if counts(i.host) and (i.service in snapshot.authority.hosts[i.host].serves or (i.service, i.host) in placed)
    ]
    instances = [i for i in {i.id: i for i in permitted + signed}.values() if i.service == service and counts(i.host)]
    known = counts(subject.name) if subject.kind == "host" else subject.name in snapshot.authority.clients
    if not instances or not known:
        return False
    rules = [
        rule
        for rule in snapshot.rules
        if rule.mode == "enforce"
        and any(is_from(snapshot, subject, text) for text in rule.sources)
        and any(is_to(rule.effect, service, instances, text) for text in rule.to)
        and is_in_time(rule, now)
        and (not rule.user or user in rule.user or (user is None and rule.effect == "deny"))
    ]
    return {rule.effect for rule in rules} == {"allow"}
