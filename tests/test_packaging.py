"""The lock, what is installed, and the two ways to install it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = [
    line
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line[:1] not in ("#", "")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def versions() -> dict[str, str]:
    pairs = [line.split("==") for line in LOCK]
    return {canonicalize_name(name): version for name, version in pairs}


def test_lock_has_exact_versions_and_nothing_of_a_machine():
    for line in LOCK:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+(post\d+)?", line), line
    assert versions()["torch"] == "2.13.0"


def test_lock_satisfies_what_the_project_asks_for():
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]
    for requirement in map(Requirement, asked):
        locked = versions()[canonicalize_name(requirement.name)]
        assert locked in requirement.specifier, requirement


def test_this_environment_is_the_lock():
    differing = {
        name: (version, metadata.version(name))
        for name, version in versions().items()
        if metadata.version(name).split("+")[0] != version
    }
    assert differing == {}


def test_conda_environment_has_the_locked_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    python = next(line for line in conda if line.startswith("python="))
    assert python.removeprefix("python=") in (ROOT / "requirements.lock").read_text()
    # The versions themselves are in one place: conda's pip reads the lock, relative to this file.
    assert pip["pip"] == ["-r requirements.lock", "-e ."]
    assert not {canonicalize_name(re.split("[=<>]", line)[0]) for line in conda} & (
        versions().keys() - {"pip"}
    )


def test_readme_and_makefile_ask_for_the_locks_python():
    [python] = re.findall(r"CPython (\d\.\d+)\.", (ROOT / "requirements.lock").read_text())
    assert (
        f"On Linux with Python {python} (what the lock is for" in (ROOT / "README.md").read_text()
    )
    message = f"Python {python} is needed (a later one may need another lock)"
    makefile = (ROOT / "Makefile").read_text()
    assert message in makefile
    assert f"PYTHON=python{python}" in makefile


@pytest.mark.parametrize("target", ["reproduce", "test", "bench", "ui", "lint", "setup", "docs"])
def test_make_knows_its_targets(target):
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(rf"^{target} +\S", shown.stdout, flags=re.MULTILINE)


def test_every_dependency_says_why():
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        assert re.search(rf'"{re.escape(requirement)}", +# \w+', text), requirement
