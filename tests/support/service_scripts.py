"""I/O: the unit and the init script of the Ansible roles, rendered as Ansible renders them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TEMPLATES = Path(__file__).parents[2] / "ansible/roles/common/templates"
DEFAULTS: dict[str, Any] = {
    "common_node": "agent",
    "common_user": "meshbridge",
    "common_group": "meshbridge",
    "common_prefix": "/opt/meshbridge",
    "common_home": "/var/lib/meshbridge",
    "common_python": "/opt/meshbridge/current/python/bin/python3",
    "common_run_arguments": [],
    "common_read_write_paths": [],
    "common_low_ports": False,
    "common_watchdog_seconds": 30,
    "common_ready_seconds": 60,
    "common_log_directory": "/var/log/meshbridge",
    "common_pid_directory": "/var/run",
}


def render(template: str, **changed: Any) -> str:
    """A variable that the template wants and nobody defines is an error, as it is for Ansible."""
    jinja2 = pytest.importorskip("jinja2", reason="needs jinja2, which comes with the `dev` extra")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return str(environment.get_template(template).render(DEFAULTS | changed))
