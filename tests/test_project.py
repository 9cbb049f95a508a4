"""What the files around the package say of it is true: one version, pins within ranges, plots as an extra."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = {requirement.name: requirement for requirement in map(Requirement, PROJECT["dependencies"])}
EXTRAS = PROJECT["optional-dependencies"]


def pins(file):
    """`{package: version}` of a file of constraints."""
    return dict(line.split("==") for line in (ROOT / file).read_text().splitlines() if "==" in line)


PINNED, LOWEST = pins("constraints.txt"), pins("constraints-lowest.txt")


def extra(name):
    """The packages of an extra, those of the extras that it names included."""
    for requirement in map(Requirement, EXTRAS[name]):
        if requirement.name == PROJECT["name"]:
            for other in requirement.extras:
                yield from extra(other)
        else:
            yield requirement.name


def test_there_is_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == version("expert-condenser")
    assert f"## {PROJECT['version']} " in (ROOT / "CHANGELOG.md").read_text()


def test_statistics_and_plots_are_extras():
    optional = {"plots": "matplotlib", "statistics": "scipy", "eval": "lm_eval", "testbed": "reasoning-gym"}
    for name, package in optional.items():
        assert package in set(extra(name))
        assert package not in NEEDED
    assert {"torch", "transformers"} <= NEEDED.keys(), "control"


def test_all_has_every_extra_of_a_user_and_dev_what_the_tests_need():
    others = {package for name in EXTRAS.keys() - {"all", "dev", "engines"} for package in extra(name)}
    assert "deepspeed" in set(extra("engines")) - others, "built on the spot, which may fail"
    assert set(extra("all")) == others
    assert {"matplotlib", "scipy", "reasoning-gym", "lm_eval"} <= set(extra("dev"))
    assert "vllm" not in others, "control"


@pytest.mark.parametrize("name", sorted(PINNED.keys() & NEEDED.keys()))
def test_the_pinned_version_lies_within_the_range(name):
    assert PINNED[name] in NEEDED[name].specifier
    assert "0.0.1" not in NEEDED[name].specifier, "control"


@pytest.mark.parametrize("name", LOWEST)
def test_the_lowest_version_is_the_lower_end_of_the_range(name):
    (lower,) = [part.version for part in NEEDED[name].specifier if part.operator == ">="]
    assert Version(LOWEST[name]) == Version(lower)
    assert Version(LOWEST[name]) <= Version(PINNED[name])


def test_the_hooks_of_a_commit_are_the_commands_of_make_check():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    checks = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    commands = {hook["entry"].removeprefix(".venv/").removesuffix(" --force-exclude") for hook in local["hooks"]}
    made = {line.strip().replace("$(BIN)", "bin").removesuffix(" .") for line in checks.splitlines()}
    assert commands == {command for command in made if "pytest" not in command}
