"""Pure: an invite is spent once, whoever asks how often, and a peer learns nothing from a refusal."""

from __future__ import annotations

import hashlib
import hmac
from functools import partial

import pytest
import trio

from inventory.authority import (
    Enrolment,
    TokenRefused,
    closing_invites,
    match_invite,
    read_enrolment,
    read_refusals,
    record_refusal,
    secret_hash,
    spend_invite,
)
from inventory.authority.enrolments import REFUSALS_MAX
from inventory.errors import InputError
from tests.support import authority as say
from tests.support.authority import NOW
from tests.support.memory_registry import MemoryRegistry

KEY_A, KEY_B = say.digest("key a"), say.digest("key b")
INVITE = say.invite(1, "vm1")


async def spend(registry: MemoryRegistry, key: str = KEY_A, *, at: float = NOW, source: str = "10.0.0.1") -> Enrolment:
    return await spend_invite(registry, INVITE, key=key, source=source, now=at)


async def refusal(registry: MemoryRegistry, key: str, *, at: float = NOW, source: str = "10.0.0.9") -> TokenRefused:
    with pytest.raises(TokenRefused) as caught:
        await spend(registry, key, at=at, source=source)
    return caught.value


async def test_an_invite_gives_its_name_to_a_key() -> None:
    registry = MemoryRegistry()
    enrolment = await spend(registry)
    expected = Enrolment(role="host", name="vm1", key=KEY_A, at=NOW, source="10.0.0.1", invite="invite-1")
    assert enrolment == expected == await read_enrolment(registry, "host", "vm1")
    assert await read_enrolment(registry, "gateway", "vm1") is None
    assert await read_refusals(registry, "invite-1") == []


async def test_the_same_key_may_retry() -> None:
    registry = MemoryRegistry()
    first = await spend(registry)
    assert await spend(registry, at=NOW + 60, source="10.0.0.2") == first
    assert await read_refusals(registry, "invite-1") == []


async def test_c20_a_used_token_is_refused_for_another_key() -> None:
    registry = MemoryRegistry()
    first = await spend(registry)
    refused = await refusal(registry, KEY_B, at=NOW + 60)
    assert str(refused) == "token refused"
    assert refused.detail == f"used at 2027-01-15 08:00:00Z from 10.0.0.1 by key {KEY_A}"
    assert await read_enrolment(registry, "host", "vm1") == first
    (recorded,) = await read_refusals(registry, "invite-1")
    assert (recorded.at, recorded.source, recorded.key, recorded.reason) == (
        NOW + 60,
        "10.0.0.9",
        KEY_B,
        refused.detail,
    )


async def test_h10_every_refusal_reads_the_same_to_the_peer() -> None:
    invites = {INVITE.id: INVITE}
    registry = MemoryRegistry()
    expired = await refusal(registry, KEY_A, at=INVITE.expires_at)
    await spend(registry)
    used = await refusal(registry, KEY_B)
    refusals = [expired, used]
    for invite_id, secret in (("invite-1", b"wrong"), ("invite-9", b"secret"), ("x" * 10_000, b""), ("\n", b"secret")):
        with pytest.raises(TokenRefused) as caught:
            match_invite(invites, invite_id, secret)
        refusals.append(caught.value)
    assert {(str(r), r.where, r.hint, r.exit_code) for r in refusals} == {
        ("token refused", "", "ask the operator for a new token", 1)
    }
    assert len({r.detail for r in refusals}) == 6
    assert all(len(r.detail) < 200 and r.detail.isprintable() for r in refusals)
    assert [r.invite for r in refusals] == ["invite-1"] * 3 + [None] * 3, "only refusals of a real invite are recorded"


def test_c21_secrets_are_compared_as_hashes_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def watching(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", watching)
    invites = {INVITE.id: INVITE}
    assert match_invite(invites, "invite-1", b"secret") is INVITE
    for invite_id in ("invite-1", "unknown"):
        with pytest.raises(TokenRefused):
            match_invite(invites, invite_id, b"guess")
    assert [len(a) for pair in compared for a in pair] == [64] * 6
    assert compared[1][0] == compared[2][0] == hashlib.sha256(b"guess").hexdigest().encode()
    assert secret_hash(b"guess") == hashlib.sha256(b"guess").hexdigest()


@pytest.mark.parametrize("secret", [b"", b" secret", b"secret ", b"SECRET", b"secret\n", b"secre", b"secret="])
def test_c20_other_spellings_of_a_secret_are_refused(secret: bytes) -> None:
    with pytest.raises(TokenRefused):
        match_invite({INVITE.id: INVITE}, "invite-1", secret)


async def test_c20_an_expired_token_is_refused_even_for_its_key() -> None:
    registry = MemoryRegistry()
    await spend(registry, at=INVITE.expires_at - 0.1)
    refused = await refusal(registry, KEY_A, at=float(INVITE.expires_at))
    assert refused.detail == "expired at 2027-01-15 09:00:00Z"


async def test_a_retry_does_not_undo_a_later_enrolment() -> None:
    registry = MemoryRegistry()
    await spend(registry)
    later = await spend_invite(registry, say.invite(2, "vm1"), key=KEY_B, source="b", now=NOW + 5)
    assert "enrolled again since" in (await refusal(registry, KEY_A, at=NOW + 6)).detail
    assert await read_enrolment(registry, "host", "vm1") == later


async def test_c20_f34_a_restored_backup_revives_no_token() -> None:
    backup = MemoryRegistry()
    await spend(backup, at=NOW - 10)
    later = say.invite(2, "vm2")
    await backup.transact(closing_invites([INVITE, later, say.invite(3, expires_at=NOW)], NOW))
    assert {key for key in backup.records if key.startswith("void/")} == {"void/invite-1", "void/invite-2"}
    with pytest.raises(TokenRefused) as caught:
        await spend_invite(backup, later, key=KEY_A, source="a", now=NOW + 1)
    assert "restored from a backup" in caught.value.detail
    assert "restored from a backup" in (await refusal(backup, KEY_B)).detail
    assert (await spend_invite(backup, say.invite(4, "vm4"), key=KEY_A, source="a", now=NOW)).name == "vm4"


async def test_c19_fifty_at_once_make_one_identity() -> None:
    registry = MemoryRegistry()
    winners: list[Enrolment] = []

    async def one(number: int) -> None:
        try:
            winners.append(await spend(registry, say.digest(f"key {number}"), source=f"10.0.0.{number}"))
        except TokenRefused:
            pass

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(partial(one, number))
    (winner,) = winners
    assert await read_enrolment(registry, "host", "vm1") == winner
    sources = {refused.source for refused in await read_refusals(registry, "invite-1")}
    assert sources == {f"10.0.0.{n}" for n in range(50)} - {winner.source}


async def test_refusals_are_bounded() -> None:
    registry = MemoryRegistry()
    for number in range(REFUSALS_MAX + 20):
        await record_refusal(registry, "i-1", key="k" * 999, source="s" * 999, now=number, reason="r" * 9999)
    refusals = await read_refusals(registry, "i-1")
    assert [r.at for r in refusals] == list(range(REFUSALS_MAX))
    assert max(len(r.value) for r in registry.records.values()) < 1000


async def test_a_damaged_record_is_no_enrolment() -> None:
    registry = MemoryRegistry()
    await spend(registry)
    registry.put("enrolled/host/vm1", b'{"role":"host"}')
    with pytest.raises(InputError, match="enrolment record"):
        await read_enrolment(registry, "host", "vm1")
    with pytest.raises(InputError, match="enrolment record"):
        await spend(registry)
    registry.put("spent/invite-1", b"")
    with pytest.raises(InputError, match="enrolment record"):
        await spend(registry)
