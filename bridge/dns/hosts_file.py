"""Pure: our fenced block in the text of /etc/hosts. Everything outside the fence stays byte for byte as it was.

    # meshbridge begin bridge.internal
    127.96.12.7	web.bridge.internal
    # meshbridge end

One block per domain. The text is bytes, because the file may hold anything. When the fence is damaged, nothing is
guessed: the caller gets an error and the file is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from inventory.errors import InputError
from inventory.names import parse_domain

_BEGIN = b"# meshbridge begin"
_END = b"# meshbridge end"


def with_block(text: bytes, domain: str, addresses: Mapping[str, str]) -> bytes:
    """`text` with the block for `domain` put in, or replaced where it stands.

    A new block goes to the end; to the front when the last line has no newline, so that not even that is changed.

    Args:
        addresses: full name -> address, one line each, in this order.

    Raises:
        InputError: the fence in `text` is damaged.
    """
    block = _block(domain, addresses)
    found = _find(text, domain)
    if found is not None:
        start, end = found
        return text[:start] + block + text[end:]
    if text and not text.endswith(b"\n"):
        return block + text
    return text + block


def without_block(text: bytes, domain: str) -> bytes:
    """`text` without the block for `domain`; `text` itself when there is none. Raises InputError as `with_block`."""
    found = _find(text, domain)
    return text if found is None else text[: found[0]] + text[found[1] :]


def _block(domain: str, addresses: Mapping[str, str]) -> bytes:
    lines = [_begin(domain), *(f"{address}\t{name}".encode("ascii") for name, address in addresses.items()), _END]
    return b"".join(line + b"\n" for line in lines)


def _begin(domain: str) -> bytes:
    return _BEGIN + b" " + parse_domain(domain).encode("ascii")


def _find(text: bytes, domain: str) -> tuple[int, int] | None:
    """Where the block for `domain` starts and ends, its last newline included. Blocks of other domains are checked too:
    behind a fence that never ends, nobody can say whose a line is."""
    wanted = _begin(domain)
    found: tuple[int, int] | None = None
    opened: tuple[bytes, int] | None = None
    at = number = opened_in = 0
    while at < len(text):
        end = text.find(b"\n", at) + 1 or len(text)
        number += 1
        mark = text[at:end].strip()
        if mark == _BEGIN or mark.startswith(_BEGIN + b" "):
            if opened is not None:
                raise _damaged(number, "a second begin before an end")
            if mark == wanted and found is not None:
                raise _damaged(number, "a second block for the same domain")
            opened = (mark, at)
            opened_in = number
        elif mark == _END:
            if opened is None:
                raise _damaged(number, "an end without a begin")
            if opened[0] == wanted:
                found = (opened[1], end)
            opened = None
        at = end
    if opened is not None:
        raise _damaged(opened_in, "a begin without an end")
    return found


def _damaged(line: int, why: str) -> InputError:
    return InputError(
        f"the fence around meshbridge's lines is damaged in line {line}: {why}",
        hint=f"put '{_BEGIN.decode()} DOMAIN' and '{_END.decode()}' right, or remove both; nothing was changed",
    )
