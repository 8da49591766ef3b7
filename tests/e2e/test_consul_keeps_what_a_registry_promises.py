"""I/O: the registry in Consul passes the suite that every registry passes, with the documented token, and over TLS."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agents.consul import open_consul
from inventory.registries.consul import ConsulRegistry
from inventory.registries.consul_place import ConsulPlace
from tests.support.consul_server import ConsulServer, new_consul
from tests.support.estate import Estate
from tests.support.registry_contract import CONTRACT, Check


@asynccontextmanager
async def empty(place: ConsulPlace) -> AsyncIterator[ConsulRegistry]:
    async with open_consul(place) as registry:
        await registry.store.begin()
        await registry.store.become("ready")
        yield registry


def fresh(consul: ConsulServer) -> ConsulPlace:
    return consul.place(f"t-{secrets.token_hex(4)}/")


@pytest.fixture(scope="session")
def consul_tls(consul_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    directory = tmp_path_factory.mktemp("consul-tls")
    with Estate(directory) as ports, new_consul(directory, ports, tls=True) as server:
        yield server


async def test_contract_over_tls(consul_tls: ConsulServer) -> None:
    for check in CONTRACT:
        async with empty(fresh(consul_tls)) as registry:
            await check(registry)


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
async def test_contract(check: Check, consul: ConsulServer) -> None:
    async with empty(fresh(consul)) as registry:
        await check(registry)
