# SPDX-License-Identifier: Apache-2.0
"""Keys, their health and live tests, settings, and the audit trail, for people."""

from __future__ import annotations

from collections.abc import Iterable

from ownkey.keyvault.v1 import audit_pb2, key_pb2, live_test_pb2
from rich.console import Group, RenderableType
from rich.text import Text

from client.ownkey_cli.texts import (
    NONE,
    in_usd,
    seconds_text,
    short,
    time_text,
    word,
)
from client.ownkey_cli.views.tables import grid, table

_HEALTH_STYLES = {
    "active": "green",
    "suspect": "yellow",
    "cooling": "yellow",
    "no-credit": "red",
    "rejected": "red",
}
_RESULT_STYLES = {"valid": "bold green", "rate-limited": "bold yellow", "no-credit": "bold yellow"}


def keys_table(keys: Iterable[key_pb2.Key]) -> RenderableType:
    """An account's keys in its order."""
    return table(
        ("!key", "!provider", "!hint", "!use", "!health", "?!default model", "label"),
        (
            (
                short(key.name),
                key.provider,
                key.hint or NONE,
                use_text(key),
                health_text(key.health[0]) if key.health else NONE,
                key.default_model or NONE,
                key.label or NONE,
            )
            for key in keys
        ),
        empty="No keys. Add one: ownkey keys add --provider openai",
    )


def key_view(key: key_pb2.Key) -> RenderableType:
    """All about one key."""
    fields = grid(
        [
            ("name", key.name),
            ("provider", key.provider),
            ("hint", key.hint or NONE),
            ("lives", _residence(key)),
            ("label", key.label or NONE),
            ("use", use_text(key)),
            ("always use", "yes: never falls back to credits" if key.always_use else "no"),
            ("default model", key.default_model or NONE),
            ("allowed models", ", ".join(key.allowed_models) or "all"),
            ("monthly limit", _limit(key)),
            ("order", str(key.order)),
            ("version", str(key.version)),
            ("created", time_text(key, "create_time")),
            ("changed", time_text(key, "update_time")),
            ("etag", key.etag),
        ]
    )
    health = table(
        ("!health", "!of", "?!since", "?!until", "why", "next"),
        (
            (
                health_text(one),
                one.model or "the key",
                time_text(one, "since_time"),
                time_text(one, "until_time"),
                one.reason or NONE,
                one.next_step or NONE,
            )
            for one in key.health
        ),
        empty="Nothing is known of its health.",
    )
    return Group(fields, Text(), health)


def _limit(key: key_pb2.Key) -> str:
    return in_usd(key.monthly_limit_nano_usd) if key.HasField("monthly_limit_nano_usd") else NONE


def _residence(key: key_pb2.Key) -> str:
    held = key.residence == key_pb2.RESIDENCE_CLIENT_HELD
    return "in the customer's browser" if held else "on the server"


def tested_view(key: key_pb2.Key, test: live_test_pb2.LiveTest, done: str) -> RenderableType:
    """
    A key after a live test.

    Args:
        key: As it is now.
        test: What was found.
        done: What was done to the key, for example `stored`.
    """
    result = word(live_test_pb2.TestResult, test.result)
    rows: list[tuple[str, str | Text]] = [
        ("key", f"{key.name}  {key.hint}".rstrip()),
        ("test", Text(result, style=_RESULT_STYLES.get(result, "bold red"))),
        ("", test.detail),
        ("credit checked", "yes" if test.credit_checked else "no"),
    ]
    if test.cost_nano_usd:
        rows.append(("test cost", in_usd(test.cost_nano_usd)))
    if test.missing_permission:
        rows.append(("missing", test.missing_permission))
    if test.HasField("retry_after"):
        rows.append(("retry", f"in {seconds_text(test.retry_after.ToMilliseconds() / 1000)}"))
    return Group(Text.assemble(("Key ", ""), (done, "bold")), grid(rows))


def settings_view(settings: key_pb2.Settings) -> RenderableType:
    """Which of an account's keys are used."""
    return grid(
        [
            ("settings", settings.name),
            ("active provider", settings.active_provider or "the first key's"),
            ("use backups", "yes, in order" if settings.use_backups else "no"),
            ("etag", settings.etag),
        ]
    )


def audit_table(events: Iterable[audit_pb2.AuditEvent]) -> RenderableType:
    """The audit trail, newest first."""
    return table(
        (">#", "!time", "!actor", "!action", "key", "?>version", "details"),
        (
            (
                short(event.name),
                time_text(event, "event_time"),
                event.actor,
                word(audit_pb2.AuditAction, event.action),
                short(event.key),
                str(event.version or NONE),
                ", ".join(f"{name}={value}" for name, value in sorted(event.details.items()))
                or NONE,
            )
            for event in events
        ),
        empty="Nothing was done yet.",
    )


def use_text(key: key_pb2.Key) -> Text:
    """Whether and as what the key is used."""
    if key.state == key_pb2.KEY_STATE_DISABLED:
        return Text("disabled", style="dim")
    return Text("active", style="bold green") if key.active else Text("backup")


def health_text(health: key_pb2.KeyHealth) -> Text:
    """A state of health in its colour, with the time left where it ends by itself."""
    state = word(key_pb2.HealthState, health.state)
    text = Text(state, style=_HEALTH_STYLES.get(state, ""))
    if health.remaining_millis:
        text.append(f" {seconds_text(health.remaining_millis / 1000)}")
    return text
