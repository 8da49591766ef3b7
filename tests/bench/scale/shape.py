"""Pure: the estate of the scale benchmark: who serves what, who may use it. Nothing here opens anything.

Teams: the hosts of a team serve the team's services together, and may use those and no others. So what one host may see
is a team, however many teams there are. Beside the teams a few core hosts serve one service that every host may use,
and one deny rule concerns all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from inventory.model import Health, Host, Instance
from inventory.policy_rules import Rule

CORE_SERVICE = "directory"
CORE_PORT = 389
SHOP = "shop"
SHOP_CLIENT = "near"
"""Real hosts use and serve this one while instances come and go; one simulated host has instances of it too."""
PORT = 8080
PASSING = Health(state="passing")


@dataclass(frozen=True)
class Shape:
    """How large, and how much one host may see of it. Numbers are rounded to whole hosts, services and rules per team.

    Args:
        hosts: simulated hosts of all teams.
        team: hosts of one team.
        core: hosts that serve what all may use, beside the others. One fewer with each revocation that all see.
    """

    hosts: int
    team: int
    services: int
    instances: int
    rules: int
    core: int = 4

    @property
    def teams(self) -> int:
        return max(1, self.hosts // self.team)

    @property
    def services_of_team(self) -> int:
        return max(1, round(self.services / self.teams))

    @property
    def instances_of_host(self) -> int:
        return max(1, round(self.instances / self.hosts))

    @property
    def rules_of_team(self) -> int:
        return max(1, round(self.rules / self.teams))

    def hosts_of(self, team: int) -> list[str]:
        return [f"{team_name(team)}-h{number:04}" for number in range(self.team)]

    def services_in(self, team: int) -> list[str]:
        return [f"{team_name(team)}-s{number:04}" for number in range(self.services_of_team)]

    @cached_property
    def team_hosts(self) -> list[str]:
        return [name for team in range(self.teams) for name in self.hosts_of(team)]

    @property
    def core_hosts(self) -> list[str]:
        return [f"core-h{number:04}" for number in range(self.core)]

    def all_hosts(self) -> list[Host]:
        """As an operator signs them."""
        found = [
            Host(name=name, labels={"team": team_name(team)}, site="dc1", serves=self._serves(name, team))
            for team in range(self.teams)
            for name in self.hosts_of(team)
        ]
        return found + [Host(name=name, labels={"team": "core"}, serves=(CORE_SERVICE,)) for name in self.core_hosts]

    def _serves(self, name: str, team: int) -> tuple[str, ...]:
        return (*self.services_in(team), *((SHOP,) if name == self.shop_host else ()))

    @property
    def shop_host(self) -> str:
        return self.hosts_of(0)[0]

    def instances_on(self, host: str) -> tuple[Instance, ...]:
        """What the host reports of its own."""
        if host in self.core_hosts:
            return (Instance(service=CORE_SERVICE, host=host, target="127.0.0.1:389", port=CORE_PORT),)
        services = self.services_in(team_of(host))
        return tuple(
            Instance(
                service=services[number % len(services)], host=host, target=f"127.0.0.1:{10000 + number}", port=PORT
            )
            for number in range(self.instances_of_host)
        )

    @cached_property
    def policy(self) -> tuple[Rule, ...]:
        return self.policy_with("first")

    def policy_with(self, word: str) -> tuple[Rule, ...]:
        """The policy; `word` makes one rule of the first team another one."""
        everyone = Rule(name="all look things up", effect="allow", sources=("host:**",), to=(CORE_SERVICE,))
        nobody = Rule(name="not from quarantine", effect="deny", sources=("label:team=quarantine",), to=(CORE_SERVICE,))
        real = Rule(name="real traffic", effect="allow", sources=(f"host:{SHOP_CLIENT}",), to=(SHOP,))
        rules = [everyone, real]
        for team in range(self.teams):
            services = self.services_in(team)
            for number in range(self.rules_of_team):
                name = f"{team_name(team)} rule {number}" + (f" {word}" if team == number == 0 else "")
                to = (services[number % len(services)],)
                rules.append(Rule(name=name, effect="allow", sources=(f"label:team={team_name(team)}",), to=to))
        return (*rules, nobody)


def team_name(team: int) -> str:
    return f"t{team:04}"


def team_of(host: str) -> int:
    """The number of a team's host."""
    return int(host.partition("-")[0][1:])


def policy_text(rules: tuple[Rule, ...]) -> str:
    """The policy as an operator would have written it."""
    return "".join(
        f'[[{rule.effect}]]\nname = "{rule.name}"\nfrom = {_list(rule.sources)}\nto = {_list(rule.to)}\n\n'
        for rule in rules
    )


def _list(words: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"
