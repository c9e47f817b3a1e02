# SPDX-License-Identifier: Apache-2.0
"""House rules that hold for every file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.requirements import citations, requirements
from tests.support.source import ROOT, project_files, python_files, read

LINES_MAX = 600
FILE_BYTES_MAX = 1_000_000
SPDX = "SPDX-License-Identifier: Apache-2.0"
LICENSED = {".go", ".hcl", ".js", ".proto", ".py", ".sh", ".sql", ".ts"}
EMPTY_NAMES = {"common", "helper", "helpers", "misc", "util", "utils"}
# Written in parts, so that this file does not find itself.
UNFINISHED = re.compile(
    r"\b(TO" + r"DO|FIX" + r"ME)\b|pytest\.(mark\.)?(skip|xfail)|unittest\.skip|NotImplemented"
    r"Error|type: ignore\s*$|no" + r"qa\s*$",
    re.MULTILINE,
)
REGISTRY = re.compile(
    r"https?://[^\s/]*\b(pypi|pythonhosted|npmjs|registry|proxy\.golang|goproxy)\b|"
    r"^\s*--(extra-)?index-url|^\s*--find-links|^\s*--trusted-host",
    re.MULTILINE,
)
LOCAL_PATH = re.compile(r"(?<![\w.])/(home|Users)/[a-z]\w*/|(?<![\w.])/ro" + "ot/")

SOURCE = [path for path in project_files() if path.suffix in LICENSED]
TEXT = [path for path in project_files() if path.suffix not in {".png", ".sum", ".svg", ".xz"}]


@pytest.mark.parametrize("path", SOURCE, ids=str)
def test_a_source_file_opens_with_its_licence(path: Path) -> None:
    assert SPDX in read(path).split("\n", 2)[0]


@pytest.mark.parametrize("path", SOURCE, ids=str)
def test_a_source_file_holds_one_thing(path: Path) -> None:
    assert len(read(path).splitlines()) <= LINES_MAX


@pytest.mark.parametrize("path", project_files(), ids=str)
def test_a_name_says_what_a_file_is_about(path: Path) -> None:
    assert not EMPTY_NAMES & {Path(part).stem for part in path.parts}


@pytest.mark.parametrize("path", python_files(), ids=str)
def test_nothing_is_left_unfinished_skipped_or_silenced_whole(path: Path) -> None:
    assert not [match.group() for match in UNFINISHED.finditer(read(path))]


@pytest.mark.parametrize("path", TEXT, ids=str)
def test_no_file_names_a_package_registry_or_a_path_of_one_machine(path: Path) -> None:
    text = read(path)
    assert not [match.group() for match in REGISTRY.finditer(text)]
    assert not [match.group() for match in LOCAL_PATH.finditer(text)]
    assert str(ROOT) not in text


def test_generated_code_is_not_committed() -> None:
    assert not [path for path in project_files() if "_pb2" in path.name or path.parts[0] == "build"]


def test_no_file_is_large() -> None:
    assert not [path for path in project_files() if (ROOT / path).stat().st_size > FILE_BYTES_MAX]


def test_there_are_fifty_seven_requirements() -> None:
    assert len(requirements()) == 57


def test_every_cited_requirement_exists() -> None:
    assert set(citations()) <= set(requirements())
