"""I/O: the gateway. Wiring only: read `start` top to bottom to see what a gateway is.

It follows the registry's authority log, which it verifies and never signs; tells every host its part; issues
certificates with the issuer's key; and joins hosts that cannot reach each other, without seeing what they say.
"""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from agents import clock, node_process
from agents.admin.server import AdminConnection
from agents.backoff import Backoff
from agents.catalog.entries import hosts_of
from agents.catalog.switch import catalog_of
from agents.control import messages as c
from agents.control.enrolment import EnrolmentServer
from agents.control.guests import Guests
from agents.control.paths import Paths
from agents.control.publisher import EstateView, for_everybody
from agents.control.server import ControlServer
from agents.estate import Home, HomeConfig, load_config, open_registry
from agents.gateway_status import host_rows, presence_rows, service_rows
from agents.guards import must_pass
from agents.handover import Inherited, Left, LeftSsh
from agents.host_streams import HostStreams
from agents.imports.importer import Importer, consul_of
from agents.issuing import Issuing
from agents.knowledge.kept import EnrolledKeys, open_kept
from agents.knowledge.ledger import Ledger
from agents.knowledge.placement import check_report, is_dialable, is_place, usable_health
from agents.knowledge.placement_rows import PlacementRows, placement_of
from agents.node import NO_COMMAND, Node, warning
from agents.path_carriers import PathCarriers, paths_max
from agents.published.own_paths import find_path, own_address
from agents.published.ports import PublishedPorts
from agents.reach.checks import ReachedChecks
from agents.reach.key_publishing import publish_keys
from agents.reach.reaching import Reaching, ReachOwner
from agents.reach.sockets import sockets_of
from agents.registry_care import keep_tidy
from agents.saving import Saving
from agents.supervisor import DataWorkerProcess, Latest
from agents.workers import messages as m
from agents.workers import ssh_messages as s
from bridge import limits, logs
from bridge.bugs import tell_bug
from bridge.flows import Flow
from bridge.identity.issuer import read_csr
from bridge.logs import get_logger
from inventory.authority import AuthorityState
from inventory.errors import AnswerIsNo, InputError, MeshError
from inventory.health import HealthByHost
from inventory.home import HomeLock
from inventory.imports import gateway_of
from inventory.model import Health, Instance, Presence
from inventory.names import SpiffeId, parse_host, parse_spiffe_id, shown
from inventory.policy_rules import Rule
from inventory.registries.interface import Registry
from inventory.snapshot import Snapshot, Touched

log = get_logger()

_REFUSALS_LOGGED = 3


class GatewayAgent(Node):
    """One gateway with its registry."""

    def __init__(
        self, home: Path, config: HomeConfig, registry: Registry, ledger: Ledger, *, workers: int,
        metrics: str | None, inherited: Inherited, kept: Registry | None = None,
    ) -> None:  # fmt: skip
        root = ledger.state.root_certificate
        super().__init__(home, config, root, workers=workers, metrics=metrics, inherited=inherited)
        self._registry = registry
        self._ledger = ledger
        self._enrolled = EnrolledKeys(registry, kept)
        self._issuing = Issuing(home, config, ledger)
        self._carriers = PathCarriers(self.workers, lambda path_id: self._paths.ended(path_id))
        self._paths = Paths(self._carriers.join, most=paths_max() * workers)
        enrolment = EnrolmentServer(
            home,
            registry,
            self._issuing.issuer,
            state=lambda: ledger.state,
            latest=lambda: ledger.latest,
            refresh=ledger.refresh,
            lifetime=config.certificate_lifetime,
            enrolled=self._enrolled.of,
        )
        self._guests = Guests(enrolment, self._paths)
        self._leases: dict[str, float] = {}
        """Host -> monotonic time until which it counts as here without a session."""
        self._streams_of: dict[str, int] = {}
        self._saving = Saving(self._save)
        self._alarms: dict[str, str] = {}
        self._ahead: dict[str, int] = {}
        """Host -> the highest entry that it says it has seen, where we have not."""
        self._latest, self._slicer = ledger.latest, ledger.slicer
        self._everybody = for_everybody(ledger.state)
        self._keys: frozenset[str] = frozenset()
        """Of the entries by which the ledger is ahead of the snapshot, as far as they were taken from it."""
        self._moved: set[str] = set()
        """Hosts whose placement changed while a snapshot was being made."""
        ledger.take_touched()
        self._rows = PlacementRows(home)
        self._unsaved: set[str] = set()
        """Hosts whose placement on disk is not what it is now."""
        placement = self._rows.load()
        self.snapshot = Snapshot(
            authority=ledger.state,
            allows=ledger.allows,
            presence=placement.presence,
            reported=placement.reported,
            health=HealthByHost(placement.health),
            revision=1,
        )
        self.snapshot.prepare()
        self._control = ControlServer(self, self._paths)
        consul = consul_of(registry) if config.consul is not None else None
        self._imports = Importer(config.name, config.trust_domain, self.workers, consul, self._place_imports)
        self._published = PublishedPorts(config.name, self.workers, inherited.listener)
        self._tunnel_address = ""
        self._checks = ReachedChecks(config.name, home, self._place_checked, slot=self._governors.checking)
        self._catalog = catalog_of(config, registry, lambda: self.snapshot, self.metrics)
        owner = ReachOwner(lambda: self.snapshot, self._place_presence, self._forwarded, self.workers.started)
        self._reaching = Reaching(home, config.name, owner, left=inherited.ssh, keeps_place=inherited.trial is not None)
        self._host_streams = HostStreams(self._control, self._reaching, self._questions)
        self._renewed = Latest()

    # --- starting -------------------------------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        self._expect_hosts()
        if self._ledger.is_alone:
            self._enrolled.is_away()
        else:
            await self._enrolled.keep_all()
        self._imports.start(nursery)
        self._tell_worker()
        tunnels = await self.tunnel_listener(self.config.listen or self._own_address())
        self._tunnel_address = own_address(tunnels)
        self.workers.listen(m.ListenTunnels(), tunnels)
        nursery.start_soon(self._control.run)
        nursery.start_soon(self._follow_registry)
        nursery.start_soon(keep_tidy, self._registry)
        nursery.start_soon(self._saving.run)
        nursery.start_soon(self._end_leases)
        nursery.start_soon(self._paths.sweep)
        nursery.start_soon(self._catalog.run)
        nursery.start_soon(self._published.run)
        nursery.start_soon(self._checks.run)
        nursery.start_soon(self._reaching.run)
        nursery.start_soon(publish_keys, self.home, self.config, self._registry, lambda: self.identity, self._renewed)

    def _expect_hosts(self) -> None:
        """Those that were here when we ended are on their way back."""
        until = trio.current_time() + limits.FIRST_LEASE
        expected = (host for host, known in self.snapshot.presence.items() if known.online)
        self._leases = {host: until for host in expected if self.snapshot.served_by(host) is None}
        if len(self.snapshot.authority.gateways) > 1:
            away = {h: msgspec.structs.replace(p, gateways=()) for h, p in self.snapshot.presence.items() if p.gateways}
            self.snapshot = self.snapshot.evolved(presence={**self.snapshot.presence, **away})

    def _own_address(self) -> str:
        gateway = self.snapshot.authority.gateways.get(self.name)
        if gateway is None:
            raise InputError(f"gateway {self.name} is not in the authority log", where=str(self.home))
        return gateway.address

    # --- authority ------------------------------------------------------------------------------------------------

    async def _follow_registry(self) -> None:
        """Whatever the registry says anew is verified before it counts; what does not verify is an alarm, and the last
        good state stays in force."""
        revision = -1
        backoff = Backoff(rng=random.Random(), first=limits.REGISTRY_RETRY_FIRST, maximum=limits.REGISTRY_RETRY)
        while True:
            try:
                seen = await self._registry.watch(revision)
                await self._ledger.refresh()
                if self._ledger.state is not self.snapshot.authority:
                    await self._authority_changed()
                await self._ledger.remember()
                await self._check_admitted_again()
                self._alarms.pop("registry", None)
                backoff.reset()
                revision = seen
            except BaseException as exc:  # whatever it holds, what is in force stays in force
                if must_pass(exc):
                    raise
                known = isinstance(exc, MeshError)
                self._alarms["registry"] = str(exc) if known else f"internal error: {type(exc).__name__}"
                if known:
                    log.error("the registry cannot be followed", reason=str(exc))
                else:
                    tell_bug("the registry cannot be followed", exc)
                revision = -1  # it is said to be well again as soon as it is, and not only when it changes
                await trio.sleep(backoff.next())

    async def _check_admitted_again(self) -> None:
        """Those who came while the registry was away: it may know that they were enrolled again meanwhile."""
        for host, enrolment in (await self._enrolled.sure_again()).items():
            if enrolment is not None and self._control.key_of(host) not in (None, enrolment.key):
                self._control.end(host, f"host {host} was enrolled again with another key")

    async def _authority_changed(self) -> None:
        ledger, state = self._ledger, self._ledger.state
        self._keys |= ledger.take_touched()
        touched = Touched(keys=self._keys)
        latest, slicer = ledger.latest, ledger.slicer
        after = await self._with_authority(state, ledger.allows, touched)
        if any(key.startswith(("operator/", "gateway/")) for key in touched.keys):
            self._everybody = for_everybody(state)
        self.snapshot, self._latest, self._slicer, self._keys = after, latest, slicer, frozenset()
        self._control.publish(touched)  # first: a revocation waits for nobody
        self.count_instances(after, touched.named)
        self._catalog.changed(touched.named | hosts_of(after, touched.published))
        self._ahead = {host: number for host, number in self._ahead.items() if number > state.number}
        gone = [host for host in touched.named if self._control.holds(host) and self._gone(host) is not None]
        for host in gone:
            # It is told first, so that its own agent can say why (its streams are cut at both ends in any case).
            self._nursery.start_soon(self._end_session, host)
        if gone:
            # The worker closes that host's tunnel, and with it the stream on which it is told why.
            await trio.sleep(limits.REVOCATION_NOTICE)
        self._tell_worker()
        for path_id in self._paths.forget(lambda host: self._gone(host) is not None):
            self._carriers.unjoin(path_id, "an end of the path is revoked or removed")

    async def _with_authority(self, state: AuthorityState, allows: tuple[Rule, ...], touched: Touched) -> Snapshot:
        """The snapshot with what the operator says now, and without what removed hosts said."""

        def made_from(base: Snapshot, moved: Touched) -> Snapshot:
            placed = self.snapshot
            changes: dict[str, Any] = {
                "presence": placed.presence,
                "reported": placed.reported,
                "health": placed.health,
            }
            gone = {host for host in touched.named if not is_place(state, host)}
            if gone:
                self._unsaved |= gone
                changes["presence"] = {host: known for host, known in placed.presence.items() if host not in gone}
                changes["reported"] = {host: known for host, known in placed.reported.items() if host not in gone}
                changes["health"] = placed.health.without(gone)
            return base.evolved(moved, authority=state, allows=allows, **changes, revision=placed.revision + 1)

        self._moved.clear()
        after = made_from(self.snapshot, touched)
        if "index" not in after.__dict__:
            # Another policy: 10,000 rules are arranged in a thread, while hosts go on reporting to the one before.
            await trio.to_thread.run_sync(after.prepare)
            after = made_from(after, Touched(hosts=frozenset(self._moved)))
        return after

    def _gone(self, host: str) -> str | None:
        """Why a host has no business here; None when it has. This gateway, as the end of a path, always has."""
        return self.snapshot.why_no_agent(host) if gateway_of(host) is None else None

    async def _end_session(self, host: str) -> None:
        await trio.sleep(limits.DRAIN_NOTICE)
        gone = self._gone(host)
        if gone is not None:
            self._control.end(host, gone)

    def _tell_worker(self) -> None:
        authority = self.snapshot.authority
        self._imports.follow(self.snapshot)
        self._published.follow(self.snapshot)
        self._checks.follow(self.snapshot)
        self._reaching.follow()
        self.metrics.estate(services=self.snapshot.services.keys(), number=authority.number, as_of=clock.now())

    # --- sessions (ControlOwner) ----------------------------------------------------------------------------------

    def view(self) -> EstateView:
        return EstateView(self.snapshot, self._latest, self._slicer, self._everybody)

    async def admitted(self, host: str, key: str) -> str | None:
        gone = self._gone(host)
        if gone is not None:
            return gone
        spiffe = SpiffeId(self.config.trust_domain, "host", host)
        revoked = self.snapshot.is_revoked(str(spiffe), key)
        if revoked is not None:
            return f"revoked: {revoked}"
        enrolled = await self._enrolled.of("host", host)
        if enrolled is not None and enrolled.key != key:
            return f"host {host} was enrolled again with another key"
        return None

    def connected(self, host: str, hello: c.Hello) -> None:
        self._leases.pop(host, None)
        if hello.number > self.snapshot.authority.number:
            self._ahead[host] = hello.number
            log.error("registry is behind a host", host=host, seen=hello.number, ours=self.snapshot.authority.number)
        advertise = hello.advertise
        if advertise is not None and not is_dialable(advertise):
            log.warning("a host advertises what nobody can dial", host=host, advertise=advertise)
            advertise = None
        presence = Presence(host=host, online=True, advertise=advertise, gateways=(self.name,))
        if self.snapshot.presence.get(host) != presence:
            self._place([host], presence={**self.snapshot.presence, host: presence})

    def disconnected(self, host: str) -> None:
        """It may be back at once, and its peers may still reach it: it counts as here for one more lease."""
        self._leases[host] = trio.current_time() + limits.LEASE
        self._streams_of.pop(host, None)
        self._ahead.pop(host, None)
        self._no_longer_held(host)
        log.info("host disconnected", host=host)

    def _no_longer_held(self, host: str) -> None:
        """Where there are other gateways, what they say of it counts from now on. Alone there is nothing to choose."""
        known = self.snapshot.presence.get(host)
        if known is not None and known.gateways and len(self.snapshot.authority.gateways) > 1:
            presence = msgspec.structs.replace(known, gateways=())
            self._place([host], presence={**self.snapshot.presence, host: presence})

    def is_expected(self, host: str) -> bool:
        return host in self._leases

    def reported(self, host: str, report: c.Report) -> None:
        self._streams_of[host] = report.streams
        before = self.snapshot
        authority, placed, known = before.authority, before.placed_on(host), before.reported.get(host, ())
        try:
            instances, refused = check_report(
                authority, host, report.instances, most=limits.INSTANCES_PER_HOST, placed=placed, known=known
            )
        except InputError as exc:
            log.warning("a report was refused; what the host reported before stays", host=host, reason=exc.what)
            return
        for reason in refused[:_REFUSALS_LOGGED]:
            log.warning("part of a report was refused", host=host, reason=reason, refused=len(refused))
        mine = {i.id for i in (*instances, *placed)}
        sound = {i: usable_health(h, i, authority) for i, h in report.health.items() if i in mine}
        health = {i: h for i, h in sound.items() if h is not None}
        changes: dict[str, Any] = {}
        if instances != known:
            changes["reported"] = {name: offer for name, offer in before.reported.items() if name != host}
            if instances:
                changes["reported"][host] = instances
        if health != before.health_on(host):
            changes["health"] = before.health.with_host(host, health)
        if changes:
            self._place([host], **changes)

    def _place(self, hosts: Iterable[str], **changes: Any) -> None:
        """Placement is otherwise now: `presence`, `reported` or `health` of these hosts."""
        touched = Touched(hosts=frozenset(hosts))
        before = self.snapshot
        self.snapshot = before.evolved(touched, **changes, revision=before.revision + 1)
        self.count_instances(self.snapshot, touched.hosts)
        self._imports.placed(self.snapshot, touched.hosts)  # first: who hears of an instance may come at once
        self._catalog.changed(touched.hosts)
        self._control.publish(touched)
        self._moved |= touched.hosts
        self._unsaved |= touched.hosts
        self._saving.ask()

    def _place_imports(self, place: str, instances: tuple[Instance, ...], health: dict[str, Health]) -> None:
        reported = {name: offer for name, offer in self.snapshot.reported.items() if name != place}
        if instances:
            reported[place] = instances
        self._place([place], reported=reported, health=self.snapshot.health.with_host(place, health))

    def _place_checked(self, found: Mapping[str, Mapping[str, Health]]) -> None:
        """What our checks of hosts behind us say, as their agents would."""
        known = {host: health for host, health in found.items() if self.snapshot.served_by(host) == self.name}
        if known:
            self._place(known, health=self.snapshot.health.with_hosts(known))

    def _place_presence(self, news: dict[str, Presence]) -> None:
        self._place(news, presence={**self.snapshot.presence, **news})
        for host in (host for host, here in news.items() if here.online):
            self._checks.is_back(host)

    def _forwarded(self, message: s.Forwarded, socks: Sequence[socket.socket]) -> None:
        self.workers.hand_on(m.AdoptForwarded(host=message.host, service=message.service), socks)

    def _is_here(self, host: str) -> bool:
        """Whether a host is there by what this gateway knows first-hand."""
        reached = self._reaching.is_here(host)
        return self._control.holds(host) if reached is None else reached

    def host_flowed(self, host: str, records: tuple[Flow, ...]) -> None:
        for flow in records:
            self.flow_log.append(flow)

    async def renew(self, host: str, key: str, csr: bytes) -> str:
        refusal = await self.admitted(host, key)
        if refusal is not None:
            raise AnswerIsNo(refusal)
        if read_csr(csr).key != key:
            raise AnswerIsNo("a renewal is for the key that the host was enrolled with")
        return self._issuing.issue(csr, SpiffeId(self.config.trust_domain, "host", host))

    async def _end_leases(self) -> None:
        """Hosts that did not come back in time are no longer here."""
        while True:
            await trio.sleep(1.0)
            now = trio.current_time()
            gone = [host for host, until in self._leases.items() if until < now]
            for host in gone:
                del self._leases[host]
            away = {}
            for host in gone:
                known = self.snapshot.presence.get(host)
                if known is not None and known.online and not self._is_here(host):
                    away[host] = Presence(host=host, online=False, advertise=known.advertise)
            if away:
                self._place(away, presence={**self.snapshot.presence, **away})

    # --- guests ---------------------------------------------------------------------------------------------------

    async def worker_message(
        self, worker: DataWorkerProcess, message: m.FromWorker, socks: list[socket.socket]
    ) -> None:
        match message:
            case m.Guest():
                self._guests.came(socks[0], message, self._nursery)
            case m.ControlStream():
                spiffe = parse_spiffe_id(message.spiffe_id)
                serve = partial(self._control.serve, remote=message.remote, not_after=message.not_after)
                self._nursery.start_soon(serve, socks[0], spiffe.name, message.key)
            case m.PathNeeded():
                find = partial(find_path, gateway=self.name, address=self._tunnel_address)
                self._nursery.start_soon(find, worker, message, self._control)
            case m.Unjoined():
                self._carriers.over(message.id)
            case _:
                for sock in socks:
                    sock.close()

    async def before_drain(self) -> None:
        self._paths.close("the gateway is draining")
        await self._control.say_draining("shutting down")

    async def before_replacement(self) -> None:
        await self._reaching.all_said()

    def leave(self) -> None:
        super().leave()
        self._reaching.leave()

    def left_ssh(self) -> LeftSsh | None:
        return self._reaching.left()

    @property
    def _takes_streams(self) -> bool:
        """Whether there may be streams of others that begin or end here."""
        return self._imports.is_any or self._published.is_any or bool(self.snapshot.behind(self.name))

    async def busy(self) -> int:
        """Paths that still carry somebody's streams: the ends leave the others as soon as they are told to. And the
        streams to what we bring in."""
        return len(self._paths.joined) + (await super().busy() if self._takes_streams else 0)

    async def cut_remaining(self, reason: str) -> int:
        cut = list(self._paths.joined)
        for path_id in cut:
            self._carriers.unjoin(path_id, reason)
        return len(cut) + (await super().cut_remaining(reason) if self._takes_streams else 0)

    def worker_gone(self, worker: DataWorkerProcess) -> None:
        self._carriers.worker_gone(worker)

    def identity_renewed(self) -> None:
        self._renewed.ask()

    # --- certificates, disk -----------------------------------------------------------------------------------------

    async def renew_identity(self) -> None:
        await self.keep_identity(await self._issuing.renewed(self.identity, self.spiffe))

    @property
    def renews(self) -> bool:
        others = (g for name, g in self.snapshot.authority.gateways.items() if name != self.name)
        return self._issuing.not_after > clock.now() or any(gateway.issuer for gateway in others)

    def nodes_end(self) -> dict[str, float]:
        """Of those who are here: one that is away has its life behind it, or comes back with what it has."""
        ends = self._control.certificate_ends(self.config.certificate_lifetime)
        return {f"host {name}": at for name, at in ends.items() if self._gone(name) is None}

    async def _save(self) -> None:
        hosts, self._unsaved = self._unsaved, set()
        rows = [(host, placement_of(self.snapshot, host)) for host in hosts]
        try:
            await trio.to_thread.run_sync(partial(self._rows.save, rows, at=clock.now()))
        except MeshError:
            self._unsaved |= hosts
            raise

    def close(self) -> None:
        self._rows.close()

    # --- commands -------------------------------------------------------------------------------------------------

    async def admin(self, connection: AdminConnection, command: str, arguments: dict[str, Any]) -> Any:
        match command:
            case "nudge":
                self._registry.nudge()
                return {}
            case "hosts":
                streams = self._streams_of | self.workers.streams_behind
                return presence_rows(self.snapshot, self._is_here, streams, self._reaching.why_away)
            case "health":
                return {i: msgspec.to_builtins(h) for i, h in sorted(self.snapshot.health.items())}
            case "streams" | "cut":
                why = {"reason": str(arguments["reason"])} if "reason" in arguments else {}
                return await self._host_streams.ask(parse_host(str(arguments["host"])), cut=command == "cut", **why)
            case "sockets":
                return await sockets_of(self._reaching, parse_host(str(arguments["host"])), str(arguments["program"]))
            case _:
                raise InputError(f"a gateway has no command {shown(command)}", hint=NO_COMMAND)

    def status(self) -> dict[str, Any]:
        ends = self._control.certificate_ends(self.config.certificate_lifetime)
        streams = self._streams_of | self.workers.streams_behind
        return {
            "address": self.config.listen or self._own_address(),
            "issuer_ends": self._issuing.ends,
            "paths": len(self._paths.joined),
            "imports": self._imports.status(),
            "published": self._published.status(),
            "hosts": host_rows(self.snapshot, is_here=self._is_here, streams=streams, ends=ends),
            "reached": self._reaching.status(),
            "services": service_rows(self.snapshot),
            "instances_behind": self._checks.status(),
            **self._catalog.status(),
        }

    def warnings(self) -> list[dict[str, str]]:
        found = [warning(code, text, severity="error") for code, text in self._alarms.items()]
        found += self._saving.warnings()
        if self._ahead:
            host, seen = max(self._ahead.items(), key=lambda item: item[1])
            text = f"host {host} says it has seen entry {seen}, our log ends at {self.snapshot.authority.number}"
            found.append(warning("behind", f"{text}: the registry went back, or another gateway is ahead"))
        for host, addresses in self._control.twins.items():
            if self._gone(host) is None:
                text = f"host {host} seems to run on two machines with one identity (from {' and '.join(addresses)})"
                found.append(warning("two-machines", f"{text}: one of them needs an identity of its own"))
        found += [warning("reach", text) for text in self._reaching.problems()]
        found += [warning("allowance", text) for text in self._reaching.allowances()]
        found += [*(warning("import", text) for text in self._imports.problems()), *self._catalog.warnings()]
        found += [warning("published", text) for text in self._published.problems()]
        found += [warning("checks-late", text) for text in self._checks.problems()]
        if self.name not in self.snapshot.authority.gateways:
            text = f"gateway {self.name} was removed from the estate: hosts leave it, end it"
            found.append(warning("removed", text, severity="error"))
        if self.snapshot.authority.policy is None:
            found.append(warning("no-policy", "no policy is applied, so nothing is allowed"))
        return found


async def run(home: Path, *, workers: int, metrics: str | None = None) -> int:
    """Run the gateway of this home until it is told to end; the exit code.

    Raises:
        MeshError: the home cannot be used, or the port cannot be bound.
    """
    logs.configure(now=clock.now, monotonic=time.monotonic)  # before the ledger, which has something to say
    config = load_config(home)
    if config.role != "gateway":
        raise InputError(f"{home} is the home of a {config.role}", hint=f"meshbridge --home {home} agent run")

    async def serve(inherited: Inherited, lock: HomeLock) -> tuple[int, Left | None]:
        async with open_registry(home) as registry, open_kept(Home(home), config) as kept:
            ledger = Ledger(registry, home, config.genesis, kept=kept)
            await ledger.load()
            agent = GatewayAgent(
                home, config, registry, ledger, workers=workers, metrics=metrics, inherited=inherited, kept=kept
            )
            gc.collect()
            gc.freeze()  # what is known at the start stays: a walk over it would stop everything meanwhile
            with contextlib.closing(agent):
                code = await agent.run()
        return code, agent.left(lock)

    return await node_process.run(home, serve)
