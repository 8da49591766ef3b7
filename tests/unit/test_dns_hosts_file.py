"""Pure: the fence in a hosts file. The one file that is touched is a temporary one."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path

import pytest

from bridge.dns.hosts_file import with_block, without_block
from bridge.dns.hosts_file_edit import edit
from inventory.errors import InputError, Unavailable

DOMAIN = "bridge.internal"
WEB = {"web.bridge.internal": "127.96.1.2"}
BLOCK = b"# meshbridge begin bridge.internal\n127.96.1.2\tweb.bridge.internal\n# meshbridge end\n"
LOCALHOST = b"127.0.0.1\tlocalhost\n"

FOREIGN = [
    b"",
    LOCALHOST,
    b"127.0.0.1 localhost\r\n::1 localhost\r\n",
    b"no newline at the end",
    b"# caf\xe9 \xff\xfe\0 not UTF-8\n\n\n",
    b"# meshbridge beginning\n#meshbridge begin x\n# meshbridge ending\n# meshbridge end of it\n",
    b"a lone \r carriage return # meshbridge begin x\n\x0b\x0c\x1c\x85\n",
]


@pytest.mark.parametrize("text", FOREIGN)
def test_everything_outside_the_fence_is_untouched(text: bytes) -> None:
    first = with_block(text, DOMAIN, WEB)
    assert BLOCK in first and first.replace(BLOCK, b"") == text
    assert with_block(first, DOMAIN, WEB) == first
    assert without_block(first, DOMAIN) == text


def test_a_block_is_replaced_where_it_stands() -> None:
    text = LOCALHOST + BLOCK + b"10.0.0.1 last\n"
    new = with_block(text, DOMAIN, {"api.bridge.internal": "127.96.1.3"})
    assert new == text.replace(b"127.96.1.2\tweb", b"127.96.1.3\tapi")
    assert without_block(text, DOMAIN) == LOCALHOST + b"10.0.0.1 last\n"


def test_a_block_at_the_very_end_without_a_newline_is_still_a_block() -> None:
    text = LOCALHOST + BLOCK.rstrip(b"\n")
    assert with_block(text, DOMAIN, WEB) == LOCALHOST + BLOCK
    assert without_block(text, DOMAIN) == LOCALHOST


def test_blocks_of_several_domains_live_side_by_side() -> None:
    two = with_block(with_block(LOCALHOST, DOMAIN, WEB), "corp.internal", {})
    assert two == LOCALHOST + BLOCK + b"# meshbridge begin corp.internal\n# meshbridge end\n"
    assert without_block(two, "corp.internal") == LOCALHOST + BLOCK
    assert without_block(two, "internal") == two


BEGIN, END = b"# meshbridge begin bridge.internal\n", b"# meshbridge end\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LOCALHOST + BEGIN, "line 2: a begin without an end"),
        (BEGIN + LOCALHOST + b"# meshbridge begin other\n" + END, "line 3: a second begin"),
        (LOCALHOST + END, "line 2: an end without a begin"),
        (BLOCK + END, "line 4: an end without a begin"),
        (BLOCK + LOCALHOST + BLOCK, "line 5: a second block"),
        (b"# meshbridge begin other\n" + LOCALHOST, "line 1: a begin without an end"),
        (b"# meshbridge begin\n", "line 1: a begin without an end"),
        (b"  # meshbridge begin bridge.internal \r\n", "line 1: a begin without an end"),
    ],
)
def test_a_damaged_fence_is_an_error(text: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        with_block(text, DOMAIN, WEB)
    with pytest.raises(InputError, match=why):
        without_block(text, DOMAIN)


def test_a_domain_that_could_break_the_fence_is_refused() -> None:
    with pytest.raises(InputError):
        with_block(b"", "x\n127.0.0.1 bank.example", {})


def test_the_file_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "hosts"
    real.write_bytes(LOCALHOST)
    real.chmod(0o640)
    link.symlink_to(real)
    change = partial(with_block, domain=DOMAIN, addresses=WEB)
    assert edit(link, change) is True
    assert link.is_symlink() and real.read_bytes() == LOCALHOST + BLOCK
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    before = real.stat().st_ino
    assert edit(link, change) is False and real.stat().st_ino == before
    assert sorted(os.listdir(tmp_path)) == ["hosts", "real"]


def test_nothing_is_written_when_the_fence_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(BEGIN)
    with pytest.raises(InputError) as caught:
        edit(path, partial(without_block, domain=DOMAIN))
    assert caught.value.where == str(path) and path.read_bytes() == BEGIN
    assert os.listdir(tmp_path) == ["hosts"]


def test_a_file_that_is_not_there_or_too_large_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be edited: No such file"):
        edit(tmp_path / "none", lambda text: text)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InputError, match="larger"):
        edit(tmp_path / "huge", lambda text: text)
