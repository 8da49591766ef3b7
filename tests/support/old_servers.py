"""I/O: real servers of old protocols for a test, each on a port of its own.

with Hercules(tmp_path, estate.free_port()) as console:     a TN3270 server; no operating system is behind it
with Vsftpd(tmp_path, port): ...
with TlsServer(tmp_path, port, days=10): ...      OpenSSL's s_server
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from inventory.endpoints import Endpoint
from tests.support.debian_programs import find_program
from tests.support.processes import RunningProcess

START_TIMEOUT = 20.0


class OldServer:
    """One of them. Leaving the `with` block ends it."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory / type(self).__name__.lower()
        self.directory.mkdir(parents=True)
        self.endpoint = Endpoint("127.0.0.1", port)
        self.process: RunningProcess | None = None

    @property
    def port(self) -> int:
        return self.endpoint.port

    def command(self) -> tuple[Sequence[str], dict[str, str]]:
        """What to run, and what it needs in its environment."""
        raise NotImplementedError

    def start(self) -> None:
        """Returns when its port is open: by what the kernel says, for some count whoever connects."""
        argv, env = self.command()
        name = type(self).__name__.lower()
        self.process = RunningProcess(name, argv, logs=self.directory, cwd=self.directory, env={**os.environ, **env})
        deadline = time.monotonic() + START_TIMEOUT
        while not _listens(self.port):
            assert self.process.running and time.monotonic() < deadline, self.process.stderr.tail()
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.end()
        self.process = None

    def __enter__(self) -> OldServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _listens(port: int) -> bool:
    listening = "0A"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(line[3] == listening and int(line[1].rpartition(":")[2], 16) == port for line in lines)


class Hercules(OldServer):
    """Its console port with as many 3270 devices as told; each connection takes one."""

    def __init__(self, directory: Path, port: int, *, devices: int = 1) -> None:
        super().__init__(directory, port)
        self.devices = devices

    def stop(self) -> None:
        """At once: asked to end, it now and then does not for longer than anybody waits."""
        if self.process is not None and self.process.running:
            self.process.kill9()
        super().stop()

    def command(self) -> tuple[Sequence[str], dict[str, str]]:
        program = find_program("hercules")
        config = self.directory / "hercules.cnf"
        lines = ["CPUSERIAL 000001", "CPUMODEL 3090", "MAINSIZE 2", "NUMCPU 1", f"CNSLPORT {self.endpoint}"]
        lines += [f"{0xC0 + number:04X} 3270" for number in range(self.devices)]
        config.write_text("\n".join(lines) + "\n")
        return [str(program.path), "-d", "-f", str(config)], program.env


class Vsftpd(OldServer):
    """For anybody; what it serves is in `files`. More lines of vsftpd.conf as `options`."""

    def __init__(self, directory: Path, port: int, **options: str) -> None:
        super().__init__(directory, port)
        self.options = options
        self.files = self.directory / "files"
        self.files.mkdir()

    def command(self) -> tuple[Sequence[str], dict[str, str]]:
        program = find_program("vsftpd")
        empty = self.directory / "empty"
        empty.mkdir(exist_ok=True)
        options = {
            "listen": "YES", "listen_address": "127.0.0.1", "listen_port": str(self.port), "background": "NO",
            "anonymous_enable": "YES", "ftp_username": "nobody", "secure_chroot_dir": str(empty),
            "anon_root": str(self.files), **self.options,
        }  # fmt: skip
        if os.geteuid() != 0:
            options["run_as_launching_user"] = "YES"
        return [str(program.path), *(f"-o{name}={value}" for name, value in options.items())], program.env


class TlsServer(OldServer):
    """OpenSSL's own server.

    Args:
        days: how long its certificate is good for.
        options: more words for `openssl s_server`.
    """

    def __init__(self, directory: Path, port: int, *, days: int = 365, options: Sequence[str] = ()) -> None:
        super().__init__(directory, port)
        self.days = days
        self.options = list(options)

    def command(self) -> tuple[Sequence[str], dict[str, str]]:
        openssl = shutil.which("openssl") or "openssl"
        made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=old"]
        command = [openssl, "req", *made, "-days", str(self.days)]
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True)
        files = ["-key", "key.pem", "-cert", "cert.pem"]
        return [openssl, "s_server", "-accept", f"127.0.0.1:{self.port}", *files, "-quiet", *self.options], {}
