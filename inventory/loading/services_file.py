"""I/O: `services.toml` in an agent's home to the instances it reports. Reading is one function; the rest is pure.

    [[service]]
    name   = "ledger"                required
    target = "127.0.0.1:9000"        required, where it listens as seen from this host
    port   = 8080                    its port in the namespace; the target's when left out
    check  = "http:/healthz"         a check spec; a TCP connect when left out
    weight = 1                       1 to 1000, its share of new streams
    labels = { tier = "db" }
    max_streams = 20                 how many it takes at once; as many as come when left out
    max_rate    = 5                  how many new ones in a second; the same

It says what this host offers. Whether it may offer it is for the signed host entry to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inventory.endpoints import parse_target
from inventory.loading.problems import Problems, TableReader, nearest
from inventory.loading.reading import read_bounded
from inventory.loading.toml_text import FILE_MAX_BYTES, parse_toml
from inventory.model import Instance
from inventory.names import parse_service, shown
from inventory.policy_rules import parse_label_pair

INSTANCES_MAX = 1000
"""Same value as the bridge's INSTANCES_PER_HOST: more would be refused by the gateway (H26)."""
CHECK_MAX = 1000
LABELS_MAX = 64
WEIGHT_MAX = 1000
FIELDS = ("name", "target", "port", "check", "weight", "labels", "max_streams", "max_rate")
BOUND_MAX = 100_000
"""Same value as the bridge's GOVERNOR_BOUND_MAX."""


def load_services(path: Path, host: str) -> tuple[Instance, ...]:
    """Read and parse. Raises InputError when the file cannot be read, and as `parse_services` does."""
    return parse_services(read_bounded(path, FILE_MAX_BYTES), host, file=str(path))


def parse_services(data: bytes, host: str, *, file: str = "services.toml") -> tuple[Instance, ...]:
    """The instances that a services file gives to the host.

    Args:
        data: the file's content.
        host: canonical name of the host they are on.
        file: its name, for messages.

    Raises:
        LoadingError: with every problem, each with its file, line and key path.
    """
    problems = Problems(file)
    text = parse_toml(data, file)
    for key in sorted(text.table.keys() - {"service"}):
        problems.add(shown(key)[1:-1], "unknown table", hint=nearest(key, ["service"]))
    items = text.table.get("service", [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        problems.add("service", "is not a list of tables", hint="start each service with [[service]]")
        items = []
    if len(items) > INSTANCES_MAX:
        problems.add("", f"the file has {len(items)} services, at most {INSTANCES_MAX} are allowed")
        problems.raise_if_any()
    instances: dict[str, Instance] = {}
    ports: dict[str, int] = {}
    for position, (item, line) in enumerate(zip(items, text.lines_of("service", len(items)), strict=True)):
        reader = TableReader(item, f"service[{position}]", problems, line=line)
        instance = _instance(reader, host)
        if instance is None:
            continue
        if instance.id in instances:
            reader.note("target", f"{instance.service} has the target {instance.target} already")
        if ports.setdefault(instance.service, instance.port) != instance.port:
            reader.note("port", f"{instance.service} has port {ports[instance.service]} above", hint="use one port")
        instances[instance.id] = instance
    problems.raise_if_any()
    return tuple(instances.values())


def _instance(reader: TableReader, host: str) -> Instance | None:
    """The instance, or None when something was noted. Every field is looked at either way."""
    reader.refuse_unknown(FIELDS)
    name = reader.text("name", '"ledger"', required=True)
    service = reader.parsed("name", parse_service, name) if name is not None else None
    address = reader.text("target", '"127.0.0.1:9000"', required=True)
    target = reader.parsed("target", parse_target, address) if address is not None else None
    port = _within(reader, "port", "8080", 65535)
    weight = _within(reader, "weight", "1", WEIGHT_MAX)
    max_streams = _within(reader, "max_streams", "20", BOUND_MAX)
    max_rate = _within(reader, "max_rate", "5", BOUND_MAX)
    check = reader.text("check", '"http:/healthz"')
    if check is not None and not (0 < len(check) <= CHECK_MAX and check.isprintable()):
        reader.note("check", f"is not 1 to {CHECK_MAX} printable characters")
    labels = _labels(reader)
    if service is None or target is None or not reader.is_good:
        return None
    return Instance(
        service=service,
        host=host,
        target=str(target),
        port=target.port if port is None else port,
        check=check,
        weight=1 if weight is None else weight,
        labels=labels,
        max_streams=max_streams,
        max_rate=max_rate,
    )


def _within(reader: TableReader, key: str, example: str, most: int) -> int | None:
    number = reader.number(key, example)
    if number is not None and not 1 <= number <= most:
        reader.note(key, "is out of range", hint=f"give a number from 1 to {most}")
    return number


def _labels(reader: TableReader) -> dict[str, str]:
    given: dict[str, Any] = reader.table("labels", '{ tier = "db" }') or {}
    labels: dict[str, str] = {}
    if len(given) > LABELS_MAX:
        reader.note("labels", f"has {len(given)} labels, at most {LABELS_MAX} are allowed")
        return labels
    for key, value in given.items():
        if not isinstance(value, str):
            reader.note(f"labels.{shown(key)[1:-1]}", "is not a string", hint='write it like tier = "db"')
            continue
        pair = reader.parsed("labels", parse_label_pair, f"{key}={value}")
        if pair is not None:
            labels[pair[0]] = pair[1]
    return labels
