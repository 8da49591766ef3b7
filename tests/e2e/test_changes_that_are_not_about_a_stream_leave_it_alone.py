"""I/O: policies, hosts and services change while clients work under a rule that stays: nobody of them notices."""

from __future__ import annotations

from tests.support.town import Town, allow, deny
from tests.support.traffic import Backend, Load, ask, eventually, hold, is_alive, session, wait_cut

ROUNDS = 8


def test_no_request_fails_and_no_session_ends_while_others_rules_change(town: Town) -> None:
    web, terminal, other = town.name("web"), town.name("terminal"), town.name("other")
    stays = allow("stays", '"host:app"', f'"{web}", "{terminal}"')
    with Backend("web") as server, Backend("terminal", hold) as held:
        town.place(web, "db2", server.target)
        town.place(terminal, "db1", held.target)
        town.place(other, "db1", held.target)
        town.policy(stays)
        address = town.address("app", web)
        eventually(lambda: ask(*address))
        with session(*town.address("app", terminal)) as sock, Load(address[0], address[1], rate=200) as load:
            for number in range(ROUNDS):
                rule = (allow, deny)[number % 2]
                town.policy(stays + rule(f"number {number}", '"host:*"', f'"{other}"'))
                town.ok("op", "host", "add", f"new-{number}")
                town.place(other, "db2", f"127.0.0.1:{10 + number}")
                load.wait_for(20)
                assert is_alive(sock)
            town.policy(allow("stays, by another name", '"site:dc2"', f'"{web}", "{terminal}"'))
            load.wait_for(50)
            assert is_alive(sock), "another rule allows it now"
            assert not load.failures, f"{len(load.failures)} of {load.total} failed: {load.failures[:3]}"
            town.policy(allow("only the web", '"host:app"', f'"{web}"'))
            assert wait_cut(sock) < 2.0
            load.wait_for(50)
        assert not load.failures
        records = [town.flow(node, terminal, "cut") for node in ("app", "db1")]
        assert any("rule 'stays, by another name' no longer allows it" in r["reason"] for r in records), records
