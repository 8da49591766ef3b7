"""I/O: a client that sends many bytes to an echo and compares every byte that comes back, both at once; a process.

    python -m tests.support.bulk HOST PORT BYTES SEED       prints one line: seconds

What is sent is the same pseudo-random block again and again; its length is prime, so that no buffer size of ours
divides it and a piece that is lost, doubled or moved cannot fall on its like.
"""

from __future__ import annotations

import random
import socket
import sys
import threading
import time

BLOCK = 16_777_213
CHUNK = 256 * 1024


def send(sock: socket.socket, block: memoryview, size: int) -> None:
    at = 0
    while at < size:
        place = at % BLOCK
        piece = block[place : place + min(CHUNK, size - at)]
        sock.sendall(piece)
        at += len(piece)
    sock.shutdown(socket.SHUT_WR)


def compare(sock: socket.socket, block: memoryview, size: int) -> None:
    buffer = memoryview(bytearray(CHUNK))
    at = 0
    while got := sock.recv_into(buffer):
        done = 0
        while done < got:
            place = (at + done) % BLOCK
            step = min(got - done, BLOCK - place)
            if buffer[done : done + step] != block[place : place + step]:
                raise SystemExit(f"byte {at + done} or one of the {step} after it is wrong")
            done += step
        at += got
    if at != size:
        raise SystemExit(f"{at} bytes came back of {size}")


def main() -> None:
    host, port, size, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    block = memoryview(random.Random(seed).randbytes(BLOCK))
    with socket.create_connection((host, port)) as sock:
        began = time.monotonic()
        sender = threading.Thread(target=send, args=(sock, block, size))
        sender.start()
        compare(sock, block, size)
        sender.join()
        print(f"{time.monotonic() - began:.3f}", flush=True)


if __name__ == "__main__":
    main()
