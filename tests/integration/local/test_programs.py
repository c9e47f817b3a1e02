# SPDX-License-Identifier: Apache-2.0
"""A program is taken from PATH, else from the cache, else built once; a missing tool is named."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.programs import CHROMIUM, CUSTOM_RESOURCES, GRPCURL, VAULT, ProgramMissingError
from deploy.programs.chromium import Chromium
from deploy.programs.modules import GoModule, ModuleFiles

# Stands in for Go: records that it was called and writes the file named after `-o`.
COMPILER = """#!/bin/sh
echo called >> "{calls}"
while [ "$1" != "-o" ]; do shift; done
{outcome}
"""
BUILDS = 'echo built > "$2"'
FAILS = "echo 'no space left'; exit 1"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH holds nothing but what a test puts there."""
    (tmp_path / "bin").mkdir()
    return {"PATH": str(tmp_path / "bin"), "OWNKEY_CACHE": str(tmp_path / "cache")}


def put_on_path(tmp_path: Path, name: str, text: str) -> Path:
    program = tmp_path / "bin" / name
    program.write_text(text)
    program.chmod(0o755)
    return program


@pytest.mark.requirement("O2")
class TestProgram:
    def test_one_on_path_is_taken(self, tmp_path: Path, environ: dict[str, str]) -> None:
        vault = put_on_path(tmp_path, "vault", "#!/bin/sh\n")
        assert VAULT.path(environ) == vault

    def test_it_is_built_once_though_two_ask_at_the_same_time(
        self, tmp_path: Path, environ: dict[str, str]
    ) -> None:
        calls = tmp_path / "calls"
        put_on_path(tmp_path, "go", COMPILER.format(calls=calls, outcome=BUILDS))
        said: list[str] = []
        with ThreadPoolExecutor(2) as threads:
            found = list(threads.map(lambda _: VAULT.path(environ, said.append), range(2)))
        assert found == [tmp_path / "cache" / f"vault-{VAULT.version}" / "vault"] * 2
        assert calls.read_text() == "called\n"
        assert len(said) == 1
        assert "9 minutes" in said[0]
        assert VAULT.path(environ) == found[0]

    def test_without_vault_and_go_both_are_named(self, environ: dict[str, str]) -> None:
        with pytest.raises(ProgramMissingError, match=r"install HashiCorp Vault, or Go 1\.25"):
            VAULT.path(environ)

    def test_a_failed_build_leaves_nothing_that_looks_like_vault(
        self, tmp_path: Path, environ: dict[str, str]
    ) -> None:
        put_on_path(tmp_path, "go", COMPILER.format(calls=tmp_path / "calls", outcome=FAILS))
        with pytest.raises(ProgramMissingError, match=r"build\.log says why"):
            VAULT.path(environ)
        folder = tmp_path / "cache" / f"vault-{VAULT.version}"
        assert {path.name for path in folder.iterdir()} == {"build.log", "lock"}
        assert "no space left" in (folder / "build.log").read_text()

    def test_one_that_is_no_library_is_built_by_the_name_of_its_package(
        self, tmp_path: Path, environ: dict[str, str]
    ) -> None:
        calls = tmp_path / "calls"
        records = 'echo "$*" >> "' + str(calls) + '"\nshift 4\n' + BUILDS
        put_on_path(tmp_path, "go", f"#!/bin/sh\n{records}\n")
        assert GRPCURL.path(environ).read_text() == "built\n"
        assert calls.read_text().endswith(f" {GRPCURL.package}\n")


PINNED = GoModule(path="example.com/one", version="v1.2.3", sum="h1:one", files="crds/*.yaml")
FILES = ModuleFiles(name="files", title="the files", modules=(PINNED,))


@pytest.mark.requirement("O2", "O7")
class TestModuleFiles:
    """What comes out of a module is what its hash says, or nothing."""

    @staticmethod
    def module(tmp_path: Path, sum_told: str) -> Path:
        """A Go that gives a module with two files, of which one is wanted."""
        folder = tmp_path / "module"
        (folder / "crds").mkdir(parents=True)
        (folder / "crds" / "one.yaml").write_text("kind: One\n")
        (folder / "crds" / "README.md").touch()
        told = json.dumps({"Dir": str(folder), "Sum": sum_told})
        asked = tmp_path / "asked"
        go = f"#!/bin/sh\necho \"$*\" >> {asked}\necho '{told}'\n"
        put_on_path(tmp_path, "go", go)
        return asked

    def test_they_are_fetched_once(self, tmp_path: Path, environ: dict[str, str]) -> None:
        asked = self.module(tmp_path, PINNED.sum)
        said: list[str] = []
        folders = {FILES.path(environ, said.append) for _ in range(2)}
        assert folders == {FILES.find(environ)}
        (folder,) = folders
        assert {path.name for path in folder.iterdir()} == {"one.yaml"}
        assert asked.read_text() == "mod download -json example.com/one@v1.2.3\n"
        assert len(said) == 1
        assert {path.name for path in folder.parent.iterdir()} == {folder.name}

    def test_of_another_content_than_the_pinned_one_nothing_is_taken(
        self, tmp_path: Path, environ: dict[str, str]
    ) -> None:
        self.module(tmp_path, "h1:another")
        with pytest.raises(ProgramMissingError, match="is not the one that is pinned"):
            FILES.path(environ)
        assert FILES.find(environ) is None

    def test_without_go_or_its_proxy_the_remedy_is_named(
        self, tmp_path: Path, environ: dict[str, str]
    ) -> None:
        with pytest.raises(ProgramMissingError, match="install Go"):
            FILES.path(environ)
        put_on_path(tmp_path, "go", "#!/bin/sh\nexit 1\n")
        with pytest.raises(ProgramMissingError, match="see that Go reaches its module proxy"):
            FILES.path(environ)

    def test_other_pins_are_another_folder(self, environ: dict[str, str]) -> None:
        other = ModuleFiles(name="files", title="the files", modules=CUSTOM_RESOURCES.modules)
        assert other._folder(environ) != FILES._folder(environ)


@pytest.mark.requirement("O2")
class TestBrowser:
    def test_the_browser_on_path_is_taken(self, tmp_path: Path, environ: dict[str, str]) -> None:
        program = put_on_path(tmp_path, "google-chrome", "#!/bin/sh\n")

        assert CHROMIUM.path(environ) == program

    def test_root_gets_debians_package(self, tmp_path: Path, environ: dict[str, str]) -> None:
        told: list[str] = []
        browser = tmp_path / "bin" / "chromium"
        installs = (
            f'#!/bin/sh\ncase "$*" in *install*) echo > {browser}; /bin/chmod +x {browser};; esac\n'
        )
        put_on_path(tmp_path, "apt-get", installs)

        assert Chromium(is_root=lambda: True).path(environ, told.append) == browser
        assert len(told) == 1

    def test_without_one_the_remedy_is_named(self, tmp_path: Path, environ: dict[str, str]) -> None:
        for is_root in (False, True):
            with pytest.raises(ProgramMissingError, match="apt-get install chromium"):
                Chromium(is_root=lambda root=is_root: root).path(environ)
        put_on_path(tmp_path, "apt-get", "#!/bin/sh\nexit 1\n")
        with pytest.raises(ProgramMissingError, match="`apt-get update` failed"):
            Chromium(is_root=lambda: True).path(environ)
        put_on_path(tmp_path, "apt-get", "#!/bin/sh\n")
        with pytest.raises(ProgramMissingError, match="not on PATH"):
            Chromium(is_root=lambda: True).path(environ)
