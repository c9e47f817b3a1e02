# SPDX-License-Identifier: Apache-2.0
"""The images: pinned, without rights, and holding what their code imports."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.manifests import OVERLAYS, ROOT, workloads

DOCKER = ROOT / "deploy" / "docker"
SERVICES = ("keyvault", "router", "ledger")
IMAGES = (*SERVICES, "demo")
EACH = pytest.mark.parametrize("image", IMAGES)
OWN = {"services", "ownkey", "simulator", "client", "deploy"}


def stages() -> dict[str, list[str]]:
    """The Dockerfile's instructions by stage, continued lines joined."""
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {"": []}
    stage = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"FROM (\S+) AS ([\w-]+)", line):
            stage = match[2]
            found[stage] = [line]
        elif line and not line.startswith("#"):
            found[stage].append(line)
    return found


def lineage(image: str) -> list[str]:
    """The instructions that an image consists of, its base's first."""
    own = stages()[image]
    base = own[0].split()[1]
    return [*(lineage(base) if base in stages() else []), *own]


def folders(image: str) -> list[Path]:
    """What of the checkout is copied into an image."""
    copies = [one.split()[1:-1] for one in lineage(image) if one.startswith("COPY ")]
    return [ROOT / path for parts in copies for path in parts if not path.startswith("--")]


def pins(path: Path) -> dict[str, str]:
    """The packages of a list, with their versions."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE))


def imported(image: str) -> Iterator[str]:
    """Top-level modules of others that an image's code imports, types apart."""
    for folder in folders(image):
        files = [folder] if folder.is_file() else folder.rglob("*.py")
        for path in (one for one in files if one.suffix == ".py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from (alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    yield node.module.partition(".")[0]


def own_imports(image: str) -> Iterator[str]:
    """Folders of the project's own packages that an image's code imports."""
    for folder in folders(image):
        for path in [folder] if folder.is_file() else folder.rglob("*.py"):
            if path.suffix == ".py":
                for name in re.findall(r"^\s*from ([\w.]+) import", path.read_text(), re.MULTILINE):
                    parts = name.split(".")
                    if parts[0] in OWN - {"ownkey"}:
                        found = ROOT.joinpath(*parts)
                        yield str(
                            (found if found.is_dir() else found.with_suffix(".py")).relative_to(
                                ROOT
                            )
                        )


@pytest.mark.requirement("O7")
class TestImages:
    @EACH
    def test_all_that_is_copied_is_there_and_sent_to_the_builder(self, image: str) -> None:
        sent = {
            line[1:]
            for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
            if line.startswith("!")
        }
        sources = [one for one in folders(image) if "--from" not in str(one)]
        assert sources
        for path in sources:
            if path.name in {"packages", "stubs"}:
                continue
            relative = path.relative_to(ROOT)
            assert path.exists(), relative
            assert {str(relative), *map(str, relative.parents)} & sent, relative

    @EACH
    def test_the_code_finds_all_that_it_imports(self, image: str) -> None:
        provided = {
            name.lower().replace("_", "-") for name in pins(DOCKER / f"requirements-{image}.txt")
        }
        known = packages_distributions()
        for module in sorted(set(imported(image)) - OWN - set(sys.stdlib_module_names)):
            holders = {name.lower().replace("_", "-") for name in known[module]}
            assert holders & provided, module

    @EACH
    def test_it_holds_all_of_the_project_that_its_code_imports(self, image: str) -> None:
        held = {str(one.relative_to(ROOT)) for one in folders(image) if one.exists()}
        for path in sorted(set(own_imports(image))):
            assert {path, *map(str, Path(path).parents)} & held, path

    @EACH
    def test_packages_are_the_versions_that_the_tests_run_on(self, image: str) -> None:
        tested = pins(ROOT / "requirements.txt")
        found = pins(DOCKER / f"requirements-{image}.txt")
        assert found
        assert {name: tested.get(name) for name in found} == found

    @EACH
    def test_it_runs_without_rights_and_without_an_installer(self, image: str) -> None:
        lines = lineage(image)
        assert [one for one in lines if one.startswith("USER ")] == ["USER 65532:65532"]
        assert any("pip uninstall" in one for one in lines)

    @EACH
    def test_it_holds_no_compiler(self, image: str) -> None:
        """Nothing installs one, and a base that brings one fails the build."""
        lines = lineage(image)
        assert not [one for one in lines if re.search(r"\b(apt|apt-get|apk|dnf)\b", one)]
        (check,) = (one for one in lines if "The base must not hold" in one)
        assert "for tool in cc gcc g++ clang ld make;" in check
        assert "exit 1" in check

    def test_the_base_is_one_exact_image(self) -> None:
        (argument,) = (one for one in stages()[""] if one.startswith("ARG PYTHON="))
        version = r"python:3\.11\.\d+-slim-bookworm"
        assert re.fullmatch(rf"ARG PYTHON={version}@sha256:[0-9a-f]{{64}}", argument)
        bases = {lines[0].split()[1] for name, lines in stages().items() if name}
        assert bases - stages().keys() == {"${PYTHON}"}

    @pytest.mark.parametrize("image", SERVICES)
    def test_a_service_tells_what_it_is_and_how_it_is(self, image: str) -> None:
        lines = lineage(image)
        labels = " ".join(one for one in lines if one.startswith("LABEL "))
        for label in ("title", "description", "licenses", "version"):
            assert f"org.opencontainers.image.{label}=" in labels
        (health,) = (one for one in lines if one.startswith("HEALTHCHECK "))
        assert '"services.shared.health_check"' in health
        assert (ROOT / "services/shared/health_check.py").is_file()

    @pytest.mark.parametrize("overlay", sorted(path.name for path in OVERLAYS.iterdir()))
    def test_the_overlays_run_the_release_that_is_built(self, overlay: str) -> None:
        (release,) = {
            match
            for lines in stages().values()
            for match in re.findall(r'image\.version="([^"]+)"', " ".join(lines))
        }
        own = {
            container["image"]
            for workload in workloads(overlay)
            for container in workload.containers
            if container["image"].startswith("ownkey/")
        }
        assert own
        assert {image.partition(":")[2] for image in own} == {release}
