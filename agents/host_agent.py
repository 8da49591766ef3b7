"""I/O: the agent on a host. Wiring only: read `start` top to bottom to see what an agent is.

What it believes is its slice of the authority log, verified entry by entry; what gateways say about places is kept
beside it. Both are on disk, so it starts and serves with every gateway away.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from agents import clock, node_process
from agents.admin.server import AdminConnection
from agents.adoptions import Adoptions
from agents.control import messages as c
from agents.control.reissue import reissue
from agents.estate import HomeConfig, load_config
from agents.gateway_links import GatewayLinks
from agents.guards import must_pass
from agents.handover import Inherited, Left
from agents.host_status import gateway_row, instance_rows, known_since, service_rows
from agents.knowledge.known import Known
from agents.local_services import LocalServices
from agents.namespace import Namespace, bind_tcp
from agents.node import NO_COMMAND, VERSION, Node, warning
from agents.saving import Saving
from agents.supervisor import DataWorkerProcess, Latest
from agents.workers import messages as m
from agents.workers.outbound import user_name
from agents.workers.placement import Placed
from bridge import limits, logs
from bridge.bugs import tell_bug
from bridge.dns.hosts_file import with_block, without_block
from bridge.dns.hosts_file_edit import edit as edit_hosts_file
from bridge.dns.server import serve as serve_dns
from bridge.errors import PeerError
from bridge.errors import clock as clock_words
from bridge.flows import Flow
from bridge.identity.issuer import make_csr
from bridge.logs import get_logger
from inventory.endpoints import Endpoint, parse_endpoint
from inventory.errors import AnswerIsNo, InputError, MeshError, Unavailable
from inventory.home import HomeLock, read_file, write_file
from inventory.model import Health
from inventory.names import parse_service_name, shown

log = get_logger()

DNS_PORT = 5300


class HostAgent(Node):
    """One host's agent."""

    def __init__(
        self,
        home: Path,
        config: HomeConfig,
        known: Known,
        *,
        workers: int,
        metrics: str | None,
        dns: str | None,
        hosts_file: Path | None,
        inherited: Inherited,
    ) -> None:
        root = known.slice.genesis.root_certificate
        super().__init__(home, config, root, workers=workers, metrics=metrics, inherited=inherited)
        self.known = known
        self._saved = known
        self.snapshot = known.snapshot
        self.namespace = Namespace(
            home,
            config.addresses,
            listen=self.workers.listen,
            unlisten=self.workers.unlisten,
            bind=lambda address, port: inherited.listener(address, port) or bind_tcp(address, port),
        )
        dns = dns or config.dns
        self._dns = parse_endpoint(dns, zero_ok=True) if dns else None
        self._dns_sockets: tuple[socket.socket, ...] = ()
        self._hosts_file = hosts_file
        self._epoch = _next_epoch(home)
        self._told: tuple[object, object] = (None, None)
        """Authority and rules as the workers were told last: encoded again only when they are something else."""
        self._placed = Placed()
        """As the workers were told last."""
        self._changed = Latest()
        self._saving = Saving(self._save)
        self._alarms: dict[str, str] = {}
        self._links = GatewayLinks(config.name, self, self.workers, lambda: self.snapshot, returns=inherited.is_any)
        self._adoptions = Adoptions(self.workers)
        self._services = LocalServices(home, config.name, self._links.report_changed, self._governors.checking)

    # --- starting -------------------------------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        if self.config.listen:
            self.workers.listen(m.ListenTunnels(), await self.tunnel_listener(self.config.listen))
        await self._publish()
        nursery.start_soon(self._services.run)
        nursery.start_soon(self._apply_changes)
        nursery.start_soon(self._saving.run)
        nursery.start_soon(self._retry_problems)
        endpoint = self._dns or Endpoint(self.namespace.book.server_address, DNS_PORT)
        serve = partial(
            serve_dns,
            endpoint,
            lambda: self.namespace.zone,
            on_bug=_dns_bug,
            sockets=self.inherited.dns(endpoint.host, endpoint.port),
            opened=self._dns_opened,
        )
        try:
            await nursery.start(serve)
        except MeshError as exc:
            if self._dns is not None:
                raise
            # The default place being taken is no reason not to serve: names resolve without DNS as well.
            self._alarms["dns"] = f"no DNS server: {exc}"
            log.warning("no DNS server", reason=str(exc))
            nursery.start_soon(self._retry_dns, nursery, serve)
        self._links.follow(nursery)

    def _dns_opened(self, sockets: tuple[socket.socket, socket.socket]) -> None:
        """The server closes its own when it ends; these stay for the program that may take our place."""
        self._dns_sockets = tuple(sock.dup() for sock in sockets)

    def dns_descriptors(self) -> tuple[int, ...]:
        return tuple(sock.detach() for sock in self._dns_sockets)

    async def reload(self) -> None:
        self._services.reload()
        self._changed.ask()

    # --- what is known --------------------------------------------------------------------------------------------

    async def updated(self, gateway: str, update: c.Update) -> None:
        """A gateway's update: checked, then in force. A gateway that sends what does not verify is not believed."""
        try:
            self.known = self.known.updated(gateway, update, at=clock.now())
        except InputError as exc:
            self._alarms[f"gateway {gateway}"] = f"gateway {gateway} sent what cannot be believed: {exc}"
            log.error("an update was refused", gateway=gateway, reason=str(exc))
            raise PeerError(f"its update was refused: {exc.what}") from None
        self._alarms.pop(f"gateway {gateway}", None)
        self.snapshot = self.known.snapshot
        await self._tell_worker()
        self._changed.ask()
        self._saving.ask()

    async def _tell_worker(self) -> None:
        snapshot = self.snapshot
        if snapshot.authority is not self._told[0] or snapshot.allows is not self._told[1]:
            self._told = (snapshot.authority, snapshot.allows)
            self.workers.know(m.Authority(state=snapshot.authority, allows=snapshot.allows))
        reported = {**snapshot.reported, self.name: self._services.declared}
        presence = self._links.with_lost(snapshot.presence)
        placed = Placed(snapshot.revision, presence, reported, snapshot.health)
        change = placed.since(self._placed)
        if change is not None:
            self._placed = placed
            self.workers.know_placement(change, placed.whole)

    async def _publish(self) -> None:
        """Everything that follows from what is known: the worker, the namespace, the checks, the report."""
        await self._tell_worker()
        mine = self.snapshot.evolved(reported={**self.snapshot.reported, self.name: self._services.declared})
        self._services.follow(mine)
        await self.namespace.sync(mine)
        self.metrics.estate(
            services=mine.services.keys(), number=mine.authority.number, as_of=self.known.as_of or clock.now()
        )
        if self._hosts_file is not None and self.namespace.zone is not None:
            await self._write_hosts(self._hosts_file)
        self.count_instances(mine)
        self._links.report_changed()

    async def _write_hosts(self, path: Path) -> None:
        assert self.namespace.zone is not None
        try:
            zone = self.namespace.zone
            block = partial(with_block, domain=zone.domain, addresses=zone.addresses)
            await trio.to_thread.run_sync(edit_hosts_file, path, block)
            self._alarms.pop("hosts-file", None)
        except MeshError as exc:
            self._alarms["hosts-file"] = str(exc)

    def leave_hosts_file(self) -> None:
        """Take our names out again: nothing listens at their addresses any more."""
        if self._hosts_file is None:
            return
        try:
            edit_hosts_file(self._hosts_file, partial(without_block, domain=self.snapshot.authority.namespace))
        except MeshError as exc:
            log.warning("names stay in the hosts file", reason=str(exc), hint=exc.hint)

    async def _apply_changes(self) -> None:
        while True:
            await self._changed.asked()
            try:
                await self._publish()
                self._links.follow(self._nursery)
                self._alarms.pop("publish", None)
            except BaseException as exc:  # what is known may be odd; that must not end what works
                if must_pass(exc):
                    raise
                self._alarms["publish"] = f"what is known could not be put in force: {type(exc).__name__}; see the log"
                tell_bug("a change could not be put in force", exc)
            await trio.sleep(limits.PUBLISH_INTERVAL)

    async def _save(self) -> None:
        known = self.known
        await trio.to_thread.run_sync(known.save, self.home, self._saved)
        self._saved = known

    def save_last(self) -> None:
        """After `run`: what came last and is not on disk yet. Whoever starts from there next, with no gateway to be
        reached, is not to allow what was taken away."""
        if self.known is not self._saved:
            try:
                self.known.save(self.home, self._saved)
            except MeshError as exc:
                log.warning("what came last is not saved", reason=str(exc), hint=exc.hint)

    async def _retry_problems(self) -> None:
        delay = limits.BIND_RETRY_FIRST
        while True:
            await trio.sleep(delay)
            delay = min(2 * delay, limits.BIND_RETRY_MAX)
            if self.namespace.problems:
                self._changed.ask()  # whoever held a port may be gone

    async def _retry_dns(self, nursery: trio.Nursery, serve: Callable[..., Awaitable[None]]) -> None:
        """Until whoever holds its place has gone."""
        delay = limits.BIND_RETRY_FIRST
        while "dns" in self._alarms:
            await trio.sleep(delay)
            delay = min(2 * delay, limits.BIND_RETRY_MAX)
            try:
                await nursery.start(serve)
                del self._alarms["dns"]
                log.info("the DNS server listens")
            except MeshError as exc:
                self._alarms["dns"] = f"no DNS server: {exc}"

    # --- gateways -------------------------------------------------------------------------------------------------

    def hello(self) -> c.Hello:
        return c.Hello(
            version=VERSION, epoch=self._epoch, number=self.known.slice.number, advertise=self.config.advertise
        )

    def health_of(self, instance: str) -> Health:
        return self._services.health.get(instance, Health())

    def report(self) -> c.Report:
        health = self._services.leaving() if self.lifecycle.draining.is_set() else dict(self._services.health)
        return c.Report(
            instances=self._services.declared,
            health=health,
            streams=self.streams,
            certificate_ends=max(0, int(self.identity.leaf.not_after)),
        )

    async def dial_back(self, gateway: str, message: c.DialBack) -> None:
        known = self.snapshot.authority.gateways.get(gateway)
        if known is not None:
            self.workers.tell_one(
                m.DialBack(
                    peer=message.peer,
                    role=message.role,
                    gateway=gateway,
                    address=known.address,
                    ticket=message.ticket,
                )
            )

    async def gateway_draining(self, gateway: str) -> None:
        self.workers.tell_all(m.LeaveGateway(gateway=gateway, reason="is draining"))

    def gateway_moved(self, gateway: str) -> None:
        self.workers.tell_all(m.LeaveGateway(gateway=gateway, reason="has new workers"))

    def link_changed(self) -> None:
        heard = frozenset(link.gateway for link in self._links if link.connected)
        if heard:
            self.renewal_possible.ask()
            self._links.one_is_up()
        known = self.known.linked(heard)
        if known is not self.known:
            self.known, self.snapshot = known, known.snapshot
            self._changed.ask()

    def workers_renewed(self) -> None:
        self._links.move_all()

    def worker_gone(self, worker: DataWorkerProcess) -> None:
        self._adoptions.worker_gone(worker)

    def worker_started(self, worker: DataWorkerProcess) -> None:
        self._links.retry_now()

    async def renew_identity(self) -> None:
        try:
            chain = await self._links.renew(make_csr(self.identity.key))
        except Unavailable:
            if self.identity.leaf.not_after > clock.now():
                raise
            gateways = self.snapshot.authority.gateways.values()
            genesis, key = self.known.slice.genesis, self.identity.key
            chain = await reissue(gateways, genesis, name=self.name, key=key, version=VERSION)
        await self.keep_identity(chain)

    def identity_renewed(self) -> None:
        self._links.report_changed()
        if not self._links.is_any_connected:
            self._links.retry_now()  # with the old one, which has ended, there was none to be had

    @property
    def renews(self) -> bool:
        gateways = self.snapshot.authority.gateways
        return any(
            link.connected and link.gateway in gateways and gateways[link.gateway].issuer for link in self._links
        )

    async def before_replacement(self) -> None:
        await self._links.take_leave()

    async def reachable(self) -> None:
        await self._links.returned()
        if self.inherited.trial is not None and self.inherited.is_linked:
            # Before the workers of the version before are told to end: until then nothing is lost.
            with trio.move_on_after(limits.TRIAL_LINKED):
                await self._links.up()
            if why := self.why_unlinked():
                raise Unavailable(why)

    def why_unlinked(self) -> str:
        return self._links.why_none()

    async def before_drain(self) -> None:
        """Peers hear that our instances are going before we stop taking streams (F08)."""
        self._links.report_changed()
        if self._links.is_any_connected:
            await trio.sleep(limits.DRAIN_NOTICE)

    # --- the worker -----------------------------------------------------------------------------------------------

    async def worker_message(
        self, worker: DataWorkerProcess, message: m.FromWorker, socks: list[socket.socket]
    ) -> None:
        match message:
            case m.PathNeeded():
                worker.paths[message.peer] = message.avoid
                self._nursery.start_soon(self._find_path, worker, message.peer, message.avoid)
            case m.GatewayLeaves():
                self._links.move(message.gateway, within=limits.CONTROL_MOVE_SPREAD)
            case m.ControlEnded():
                link = self._links.get(message.gateway)
                if link is not None:
                    link.failed(message.reason)
            case m.Adopted():
                self._adoptions.answered(message)
            case _:
                for sock in socks:
                    sock.close()

    async def _find_path(self, worker: DataWorkerProcess, peer: str, avoid: tuple[str, ...]) -> None:
        try:
            answer: m.PathFound | m.PathFailed = await self._links.find_path(peer, avoid)
        except BaseException as exc:  # whoever waits for the path is to hear of it, and nothing else to notice
            if must_pass(exc):
                raise
            tell_bug("a path could not be asked for", exc, peer=peer)
            answer = m.PathFailed(peer=peer, reason=f"internal error: {type(exc).__name__}")
        if isinstance(answer, m.PathFound) or not self.reloading.leaves:
            worker.answer(answer)

    def flowed(self, records: tuple[Flow, ...]) -> None:
        self._links.flowed(records)

    # --- commands -------------------------------------------------------------------------------------------------

    async def admin(self, connection: AdminConnection, command: str, arguments: dict[str, Any]) -> Any:
        match command:
            case "resolve":
                return self._resolve(str(arguments.get("name", "")))
            case "dial":
                return await self._dial(connection, str(arguments.get("name", "")))
            case _:
                raise InputError(f"a host's agent has no command {shown(command)}", hint=NO_COMMAND)

    def _resolve(self, text: str) -> dict[str, Any]:
        wanted = parse_service_name(text, self.snapshot.authority.namespace)
        name = f"{wanted.service}.{wanted.site}" if wanted.site else wanted.service
        found = self.namespace.lookup(name)
        if found is None:
            raise AnswerIsNo(
                f"{name} is not known here: nothing serves it, or no rule lets {self.name} reach it",
                hint=f"meshbridge policy explain host:{self.name} {wanted.service}",
            )
        problem = self.namespace.problems.get(found)
        if problem is not None:
            raise Unavailable(problem, hint="free the port; the agent tries again by itself")
        return {"name": name, "address": found[0], "port": found[1]}

    async def _dial(self, connection: AdminConnection, text: str) -> None:
        wanted = parse_service_name(text, self.snapshot.authority.namespace)
        user = await trio.to_thread.run_sync(user_name, connection.peer.uid)
        ours, theirs = socket.socketpair()
        with ours:
            await self._adoptions.join(wanted, theirs, user)
            await connection.take_over(ours)

    def status(self) -> dict[str, Any]:
        snapshot = self.snapshot
        rows = []
        for name, gateway in sorted(snapshot.authority.gateways.items()):
            link = self._links.get(name)
            rows.append(
                gateway_row(
                    gateway,
                    connected=link is not None and link.connected,
                    reason=link.last_error if link is not None else "",
                    clock_ahead=link.clock_difference if link is not None else None,
                )
            )
        return {
            "host": {"advertise": self.config.advertise, "listen": self.config.listen},
            "gateways": rows,
            "known_since": known_since(self.known.as_of),
            "services": service_rows(snapshot, self.namespace.names, self.namespace.book.assigned),
            "instances_here": instance_rows(self._services.instances, self._services.health),
        }

    def warnings(self) -> list[dict[str, str]]:
        found = [warning("cannot-bind", why, severity="error") for why in self.namespace.problems.values()]
        found += [warning(code.split()[0], text, severity="error") for code, text in self._alarms.items()]
        found += self._saving.warnings()
        if self._services.refusal is not None:
            found.append(warning("services-file", self._services.refusal, severity="error"))
        refused = self._services.refused(self.snapshot.authority)
        found += [warning("not-served", why, severity="error") for why in refused]
        if self.snapshot.authority.gateways and not self._links.is_any_connected:
            ends = clock_words(self.identity.leaf.not_after)
            text = f"no gateway is connected; what is known stays in force, and this host's certificate ends at {ends}"
            found.append(warning("no-gateway", text))
        revoked = self.snapshot.host_revoked(self.name)
        if revoked is not None:
            found.append(warning("revoked", f"this host is revoked: {revoked}", severity="error"))
        found += [
            warning("no-address", f"no address is left for {name}; enlarge --addresses")
            for name in self.namespace.book.without
        ]
        return found


def _dns_bug(error: Exception) -> None:
    tell_bug("a DNS query was dropped by a bug", error)


def _next_epoch(home: Path) -> int:
    """Grows with every start; of two sessions of one identity the gateway keeps the later (F19). Milliseconds: two
    machines with one identity that are switched on together do not start at the same one."""
    path = home / "epoch"
    try:
        before = msgspec.json.decode(read_file(path), type=int) if path.exists() else 0
    except (msgspec.DecodeError, MeshError):
        before = 0
    epoch = max(before + 1, int(clock.now() * 1000))
    try:
        write_file(path, str(epoch).encode())
    except MeshError as exc:  # a full disk is no reason not to serve; the clock goes forward in any case
        log.error("the number of this start is not remembered", reason=str(exc), hint=exc.hint)
    return epoch


async def run(
    home: Path, *, workers: int, metrics: str | None = None, dns: str | None = None, hosts_file: Path | None = None
) -> int:
    """Run the agent of this home until it is told to end; the exit code.

    Raises:
        MeshError: the home cannot be used, or a port cannot be bound.
    """
    logs.configure(now=clock.now, monotonic=time.monotonic)
    config = load_config(home)
    if config.role != "host":
        raise InputError(f"{home} is the home of a {config.role}", hint=f"meshbridge --home {home} gateway run")

    async def serve(inherited: Inherited, lock: HomeLock) -> tuple[int, Left | None]:
        known = Known.load(home, config.genesis)
        agent = HostAgent(
            home, config, known, workers=workers, metrics=metrics, dns=dns, hosts_file=hosts_file, inherited=inherited
        )
        is_followed = inherited.trial is not None  # should it fail
        try:
            code = await agent.run()
            left = agent.left(lock)
            is_followed = left is not None
        finally:
            agent.save_last()
            if not is_followed:
                agent.leave_hosts_file()
        return code, left

    return await node_process.run(home, serve)
