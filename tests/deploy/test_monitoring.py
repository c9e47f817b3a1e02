# SPDX-License-Identifier: Apache-2.0
"""Alerts and panels ask for what the code counts, and each alert says what to do."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import promql_parser
import pytest
import typer
from promql_parser import MatrixSelector, SubqueryExpr, VectorSelector

from client.ownkey_cli.__main__ import app
from services.keyvault.errors import KekCause
from services.shared.config import settings_of
from tests.support.manifests import ROOT, Object, named, of_kind, workload
from tests.support.metrics_reference import LABELS, PAGE, declared, page
from tests.support.source import python_files, read

OVERLAY = "production"
INCIDENTS = ROOT / "docs" / "operate" / "incidents.md"
PARTS = ("It means", "Customers see", "Look at", "Do")
TARGET_LABELS = frozenset({"job", "pod", "namespace", "instance", "app_kubernetes_io_name"})
"""What Prometheus adds to what it reads in Kubernetes."""
PROCESS = {
    name: frozenset[str]()
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes")
}
"""What the client library tells of every process."""
SERIES = {**PROCESS, **{name: labels for one in declared() for name, labels in one.series}}


def alerts() -> list[Object]:
    (rule,) = of_kind(OVERLAY, "PrometheusRule")
    return [one for group in rule["spec"]["groups"] for one in group["rules"]]


def dashboard() -> dict[str, Any]:
    found = named(OVERLAY, "ConfigMap", "ownkey-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    read: dict[str, Any] = json.loads(found["data"]["ownkey.json"])
    return read


def expressions() -> Iterator[tuple[str, str]]:
    """Every question that is asked of Prometheus, and who asks."""
    for alert in alerts():
        yield alert["alert"], alert["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def selectors(expression: Any) -> Iterator[VectorSelector]:
    """What an expression selects."""
    match expression:
        case VectorSelector():
            yield expression
        case MatrixSelector():
            yield expression.vector_selector
        case SubqueryExpr():
            yield from selectors(expression.expr)
        case _:
            for part in ("lhs", "rhs", "expr", "args", "param"):
                found = getattr(expression, part, None)
                for one in found if isinstance(found, list) else [found]:
                    if one is not None:
                        yield from selectors(one)


def grouped_by(text: str) -> set[str]:
    """The labels that an expression groups by."""
    found = re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", text)
    return {one.strip() for group in found for one in group.split(",")} - {""}


def sections() -> dict[str, str]:
    """The page's sections, by heading."""
    parts = re.split(r"^## (.+)$", INCIDENTS.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.requirement("O6", "O7")
class TestQuestions:
    @pytest.mark.parametrize(("asker", "text"), list(expressions()))
    def test_each_parses_and_asks_for_metrics_and_labels_that_there_are(
        self, asker: str, text: str
    ) -> None:
        found = list(selectors(promql_parser.parse(text)))
        assert found
        known: set[str] = set(TARGET_LABELS)
        for one in found:
            assert one.name in SERIES
            labels = SERIES[one.name] | TARGET_LABELS
            known |= SERIES[one.name]
            assert {matcher.name for matcher in one.matchers.matchers} <= labels
        assert grouped_by(text) <= known

    def test_every_metric_of_the_code_is_on_the_dashboard_or_in_an_alert(self) -> None:
        asked = {
            one.name for _, text in expressions() for one in selectors(promql_parser.parse(text))
        }
        unseen = [one.name for one in declared() if not asked & {name for name, _ in one.series}]
        assert unseen == []

    def test_panels_lie_beside_each_other_and_have_ids_of_their_own(self) -> None:
        panels = dashboard()["panels"]
        assert len({one["id"] for one in panels}) == len(panels)
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            at = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not taken & cells, panel["title"]
            assert all(x < 24 for x, _ in cells), panel["title"]
            taken |= cells


@pytest.mark.requirement("O6", "O7")
class TestAlerts:
    def test_each_has_a_name_of_its_own_and_says_how_bad_it_is_and_what_to_do(self) -> None:
        names = [one["alert"] for one in alerts()]
        assert len(set(names)) == len(names)
        for alert in alerts():
            assert re.fullmatch(r"Ownkey[A-Z]\w+", alert["alert"])
            assert alert["labels"]["severity"] in {"critical", "warning", "info"}
            assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}

    def test_what_each_text_names_is_a_label_of_its_alert(self) -> None:
        for alert in alerts():
            told = {
                name
                for text in alert["annotations"].values()
                for name in re.findall(r"\{\{ \$labels\.(\w+) \}\}", text)
            }
            kept = grouped_by(alert["expr"])
            # What is not summed up keeps all labels of its target.
            assert told <= (kept or TARGET_LABELS), alert["alert"]

    def test_each_has_its_incident_page_and_no_page_is_left_over(self) -> None:
        anchors = {one["alert"]: one["annotations"]["runbook_url"] for one in alerts()}
        assert anchors == {name: f"docs/operate/incidents.md#{name.lower()}" for name in sections()}

    @pytest.mark.parametrize(("name", "text"), list(sections().items()))
    def test_each_page_says_what_it_means_what_customers_see_and_what_to_do(
        self, name: str, text: str
    ) -> None:
        assert re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE) == list(PARTS)


@pytest.mark.requirement("O6")
class TestWords:
    """What the incident pages name, in backticks, is what the services say."""

    WORDS = sorted(set(re.findall(r"`([A-Za-z_]+)`", INCIDENTS.read_text())))

    @pytest.mark.parametrize("word", [one for one in WORDS if one.startswith("OWNKEY_")])
    def test_settings(self, word: str) -> None:
        service = word.split("_")[1].lower()
        config = importlib.import_module(f"services.{service}.config")
        known = getattr(config, f"{service.title()}Config")
        assert word in settings_of(known, prefix=f"OWNKEY_{service.upper()}_")

    @pytest.mark.parametrize(
        "word", [one for one in WORDS if one.isupper() and not one.startswith("OWNKEY_")]
    )
    def test_reasons_codes_and_causes(self, word: str) -> None:
        reasons = "".join(
            (ROOT / "protos/ownkey" / service / "v1/error_reason.proto").read_text()
            for service in ("keyvault", "router", "ledger")
        )
        known = {code.name for code in grpc.StatusCode} | {cause.value for cause in KekCause}
        assert word in known or re.search(rf"\bERROR_REASON_{word}\b", reasons)

    @pytest.mark.parametrize("word", [one for one in WORDS if "_" in one and one.islower()])
    def test_events_fields_and_outcomes_of_the_log(self, word: str) -> None:
        outside = {"min_decryption_version", "synchronous_standby_names", "synchronous_commit"}
        assert word in outside or any(
            re.search(rf"\b{word}\b", read(path)) for path in python_files("services")
        )


@pytest.mark.requirement("O6")
class TestCommands:
    """The commands of the incident pages exist."""

    COMMANDS = sorted(
        {
            line
            for block in re.findall(r"```sh\n(.*?)```", INCIDENTS.read_text(), re.DOTALL)
            for line in block.splitlines()
        }
    )

    @pytest.mark.parametrize("line", [one for one in COMMANDS if one.startswith("ownkey ")])
    def test_of_ownkey(self, line: str) -> None:
        at: Any = typer.main.get_command(app)
        words = line.partition("#")[0].split()[1:]
        while words and hasattr(at, "commands"):
            at = at.commands[words.pop(0)]
        assert not hasattr(at, "commands"), "a group is no command"
        options = {name for parameter in at.params for name in (*parameter.opts,)}
        assert {word for word in words if word.startswith("--")} <= options

    @pytest.mark.parametrize("line", [one for one in COMMANDS if one.startswith("kubectl ")])
    def test_of_kubectl_name_what_is_deployed(self, line: str) -> None:
        for name in re.findall(r"deployment/([\w-]+)", line):
            assert workload(OVERLAY, name).owner["kind"] == "Deployment"
        assert "--namespace ownkey" in line

    def test_are_of_known_programs(self) -> None:
        assert {line.split()[0] for line in self.COMMANDS} <= {"ownkey", "kubectl", "vault", "psql"}


@pytest.mark.requirement("O6")
class TestReference:
    def test_the_page_of_metrics_is_current(self) -> None:
        assert Path(PAGE).read_text() == page(), "run `make metrics-reference`"

    def test_every_label_is_one_that_is_bounded(self) -> None:
        """No account, no key, no request can be a label, as none is in this list."""
        found = {label for one in declared() for label in one.labels}
        assert found == set(LABELS)
        assert not {label for label in found if re.search(r"account|key|request|user|id$", label)}

    def test_names_are_as_prometheus_has_them(self) -> None:
        """As in https://prometheus.io/docs/practices/naming/."""
        for one in declared():
            assert re.fullmatch(r"ownkey_[a-z_]+[a-z]", one.name)
            assert one.name.endswith("_total") == (one.kind == "counter")
            assert one.text.endswith(".")
            if one.service in {"keyvault", "router", "ledger"}:
                assert one.name.startswith(f"ownkey_{one.service}_")
