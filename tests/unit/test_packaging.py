"""The lock files agree with pyproject.toml, are hashed throughout, and name no machine and no package index."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import aiagentchat

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = {
    "requirements/runtime.txt": PROJECT["dependencies"] + EXTRAS["server"],
    "requirements/dev.txt": PROJECT["dependencies"] + EXTRAS["server"] + EXTRAS["dev"],
    "requirements/daemon.txt": PROJECT["dependencies"],
    "requirements/synapse.txt": EXTRAS["server"],
    "requirements/build.txt": [],
}
ENTRY = re.compile(
    r"^([^\s\[]+)(?:\[\S+\])?==(\S+)(?: ; [^\\\n]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})*)", re.MULTILINE
)


def pins(lock: str) -> dict[str, Version]:
    return {canonicalize_name(name): Version(version) for name, version, _ in ENTRY.findall((ROOT / lock).read_text())}


@pytest.mark.parametrize(("lock", "wanted"), LOCKS.items())
def test_every_dependency_is_locked_at_a_version_that_is_asked_for(lock: str, wanted: list[str]) -> None:
    locked = pins(lock)
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} is not in {lock}: run `make lock`"
        assert version in requirement.specifier, f"{requirement} is locked at {version}: run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes_and_there_is_nothing_else(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert [name for name, _, hashes in ENTRY.findall(text) if not hashes] == []
    rest = [line for line in ENTRY.sub("", text).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert rest == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_machine_and_no_package_index(lock: str) -> None:
    assert re.findall(r"\S*(?:://|(?<![\w.])/\w)\S*", (ROOT / lock).read_text()) == []


def test_what_is_tested_is_what_a_user_and_an_image_get() -> None:
    tested = pins("requirements/dev.txt")
    for lock in LOCKS:
        assert pins(lock).items() <= tested.items()


def test_the_version_is_written_once() -> None:
    assert "version" in PROJECT["dynamic"]
    assert str(Version(aiagentchat.__version__)) == aiagentchat.__version__


def test_the_changelog_has_a_section_for_the_version() -> None:
    assert f"## [{aiagentchat.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
