"""pyproject.toml as the tests read it: what each extra asks for."""

import tomllib

from packaging.requirements import Requirement

from tests.packaging.locks import ROOT


def read_requirements(extra: str) -> list[Requirement]:
    """What the project with this extra asks for, the extras that it is made of resolved."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [Requirement(entry) for entry in project["dependencies"]]
    waiting, seen = [extra], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for requirement in map(Requirement, project["optional-dependencies"][name]):
            if requirement.name == project["name"]:
                waiting += requirement.extras
            else:
                found.append(requirement)
    return found


def read_build_requirements() -> list[Requirement]:
    """What builds the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [Requirement(entry) for entry in project["build-system"]["requires"]]
