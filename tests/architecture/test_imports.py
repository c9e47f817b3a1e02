# SPDX-License-Identifier: Apache-2.0
"""
Imports point inwards: domain <- usecases <- adapters, rpc <- bootstrap; no service knows another.

The tables below are the rule; a new room needs its row.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.source import imported_modules, is_below, python_files

SERVICES = ("keyvault", "ledger", "router")

# What each room of a service may import of its own service. `providers` are the router's sans-I/O
# dialects: as pure as the domain.
ROOMS = {
    "domain": {"domain", "errors"},
    "errors": {"domain", "errors"},
    "providers": {"domain", "errors", "providers"},
    "usecases": {"domain", "errors", "providers", "usecases"},
    "adapters": {"domain", "errors", "providers", "usecases", "adapters"},
    "rpc": {"domain", "errors", "usecases", "rpc"},
    # Reads onto the RPCs' messages, so that both doors refuse the same.
    "http": {"domain", "errors", "usecases", "rpc", "http"},
    "config": {"domain", "errors", "config"},
    "migrations": {"migrations"},
    "bootstrap": {
        "domain",
        "errors",
        "providers",
        "usecases",
        "adapters",
        "rpc",
        "http",
        "config",
        "bootstrap",
    },
    "__main__": {"bootstrap", "config", "__main__"},
    "__init__": set(),
}

DRIVERS = {
    "PostgreSQL": ("asyncpg", "sqlalchemy", "alembic", "services.shared.postgres"),
    "Vault": ("hvac", "requests"),
    "HTTP": ("aiohttp", "httpx"),
    "gRPC": ("grpc", "ownkey", "services.shared.channel.open_channel"),
}
"""The outside systems and the modules that talk to them."""

IMPURE = (
    "asyncio",
    "logging",
    "os",
    "random",
    "socket",
    "structlog",
    "subprocess",
    "threading",
    "time",
    "services.shared.boundary",
    "services.shared.config",
    "services.shared.logging",
    "services.shared.migrate",
    "services.shared.server",
    *(module for modules in DRIVERS.values() for module in modules),
)
"""What rules must not touch: I/O, processes, clocks and chance."""


def own_files(*rooms: str) -> list[Path]:
    return [
        path
        for path in python_files("services")
        if path.parts[1] in SERVICES and (not rooms or room_of(path) in rooms)
    ]


def room_of(path: Path) -> str:
    return path.parts[2].removesuffix(".py")


@pytest.mark.parametrize("path", own_files(), ids=str)
def test_a_room_imports_only_rooms_further_in(path: Path) -> None:
    allowed = ROOMS[room_of(path)]
    own = f"services.{path.parts[1]}"
    for module in imported_modules(path):
        if is_below(module, own):
            room = module.removeprefix(own).lstrip(".").partition(".")[0]
            assert room in allowed, f"{room_of(path)} must not import {module}"


@pytest.mark.parametrize("path", python_files("services"), ids=str)
def test_no_service_imports_another(path: Path) -> None:
    others = [f"services.{name}" for name in SERVICES if name != path.parts[1]]
    outside = [
        module
        for module in imported_modules(path)
        if is_below(module, *others, "simulator", "client", "deploy", "tests")
    ]
    assert not outside


@pytest.mark.parametrize("path", own_files("domain", "providers", "errors"), ids=str)
def test_rules_are_free_of_io_clocks_and_chance(path: Path) -> None:
    impure = [module for module in imported_modules(path) if is_below(module, *IMPURE)]
    assert not impure


@pytest.mark.parametrize("path", own_files("usecases"), ids=str)
def test_use_cases_reach_outside_systems_through_ports_only(path: Path) -> None:
    drivers = [module for modules in DRIVERS.values() for module in modules]
    assert not [module for module in imported_modules(path) if is_below(module, *drivers)]


@pytest.mark.parametrize("path", own_files("adapters"), ids=str)
def test_an_adapter_talks_to_one_outside_system(path: Path) -> None:
    modules = imported_modules(path)
    systems = {
        system
        for system, drivers in DRIVERS.items()
        if any(is_below(module, *drivers) for module in modules)
    }
    assert len(systems) <= 1, f"talks to {', '.join(sorted(systems))}"


@pytest.mark.parametrize("path", python_files("simulator"), ids=str)
def test_the_simulator_shares_no_code_with_what_it_checks(path: Path) -> None:
    assert not [
        module for module in imported_modules(path) if is_below(module, "services", "ownkey")
    ]


@pytest.mark.parametrize("path", python_files("deploy", "client"), ids=str)
def test_callers_use_the_contract_not_the_code_behind_it(path: Path) -> None:
    behind = ["tests", *(f"services.{name}" for name in SERVICES)]
    assert not [module for module in imported_modules(path) if is_below(module, *behind)]
