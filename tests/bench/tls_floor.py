"""I/O: what TLS alone costs per gigabyte in this Python, with nothing of ours around it: the floor under bulk.

    python -m tests.bench.tls_floor [--gigabytes 1]

Encrypts and decrypts in one process through ssl.MemoryBIO, as the relay does, and prints the CPU seconds of each step
for the sizes in which it writes. No sockets, no copies to or from programs, no frames.
"""

from __future__ import annotations

import argparse
import ssl
import tempfile
import time
from pathlib import Path

from tests.bench.certificates import Certificates, make_certificates

SIZES = (16 * 1024, 64 * 1024, 256 * 1024)
GIGABYTE = 10**9


class Ends:
    """Both ends of one TLS 1.3 connection, in memory."""

    def __init__(self, certificates: Certificates) -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificates.far.certificate, certificates.far.key)
        server.num_tickets = 0
        client = ssl.create_default_context(cafile=str(certificates.ca))
        client.check_hostname = False
        self.outgoing, self.incoming = ssl.MemoryBIO(), ssl.MemoryBIO()
        to_client, from_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.writer = client.wrap_bio(to_client, self.outgoing)
        self.reader = server.wrap_bio(self.incoming, from_server, server_side=True)
        for _ in range(3):
            for end in (self.writer, self.reader):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    pass
            self.incoming.write(self.outgoing.read())
            to_client.write(from_server.read())


def cost(ends: Ends, size: int, total: int) -> dict[str, float]:
    """CPU seconds per gigabyte of each step, for writes of `size` bytes."""
    data, room = memoryview(bytearray(size)), memoryview(bytearray(size))
    spent = dict.fromkeys(("encrypt", "out of the buffer", "into the buffer", "decrypt"), 0.0)
    for _ in range(max(1, total // size)):
        began = time.process_time()
        ends.writer.write(data)
        encrypted = time.process_time()
        wire = ends.outgoing.read()
        left = time.process_time()
        ends.incoming.write(wire)
        arrived = time.process_time()
        got = 0
        while got < size:
            got += ends.reader.read(size - got, room[got:])  # type: ignore[operator]
        decrypted = time.process_time()
        moments = (began, encrypted, left, arrived, decrypted)
        for name, start, end in zip(spent, moments, moments[1:], strict=False):
            spent[name] += end - start
    moved = max(1, total // size) * size
    return {name: seconds * GIGABYTE / moved for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tls_floor")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="per size (default 1)")
    total = int(parser.parse_args().gigabytes * GIGABYTE)
    with tempfile.TemporaryDirectory() as folder:
        ends = Ends(make_certificates(Path(folder) / "certificates"))
        print(f"{ends.writer.cipher()[0]}, CPU seconds per GB")  # type: ignore[index]
        for size in SIZES:
            steps = cost(ends, size, total)
            shown = "  ".join(f"{name} {seconds:.2f}" for name, seconds in steps.items())
            print(f"writes of {size // 1024:3} KiB: {shown}  together {sum(steps.values()):.2f}")


if __name__ == "__main__":
    main()
