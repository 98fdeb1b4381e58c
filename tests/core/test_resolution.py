"""From a target to one version."""

import pytest

from core.errors import ModelVersionNotFound, NoProductionVersion
from core.resolution import resolve_target

NAMES = {"20261121": 3, "1.0.0": 2, "gone": 9}


def resolve(
    target: str,
    *,
    production: int | None = 2,
    passed: tuple[int, ...] = (3, 2, 1),
    existing: tuple[int, ...] = (4, 3, 2, 1),
) -> int:
    return resolve_target("prices", target, production=production, passed=passed, existing=existing, names=NAMES)


def test_production_is_the_version_in_that_stage() -> None:
    assert resolve("Production") == 2
    assert resolve("Production", production=1, passed=()) == 1


def test_latest_is_the_latest_that_passed_the_gate_not_the_latest_that_exists() -> None:
    assert resolve("latest") == 3
    assert resolve("latest", passed=(1, 3, 2)) == 3


def test_latest_is_none_that_was_deleted() -> None:
    assert resolve("latest", passed=(9, 2), existing=(2, 1)) == 2


@pytest.mark.parametrize(("target", "version"), [("1", 1), ("4", 4)])
def test_number_is_that_version_whether_it_passed_or_not(target: str, version: int) -> None:
    assert resolve(target, passed=(), production=None) == version


def test_moving_target_without_a_version_says_how_to_get_one() -> None:
    for target in ("Production", "latest"):
        with pytest.raises(NoProductionVersion, match=f"{target!r}.*millrace train prices"):
            resolve(target, production=None, passed=())
    with pytest.raises(NoProductionVersion):
        resolve("latest", passed=(9,), existing=(1,))


@pytest.mark.parametrize(
    "target",
    [
        "5",
        "0",
        "-1",
        "01",
        "1.0",
        " 1",
        "1 ",
        "",
        "production",
        "PRODUCTION",
        "Latest",
        "Staging",
        "١",
        "²",
        "9" * 5000,
    ],
)
def test_target_that_names_no_version_is_never_answered_by_another_one(target: str) -> None:
    with pytest.raises(ModelVersionNotFound, match=r"existing are 4, 3 \(20261121\), 2") as missing:
        resolve(target)

    assert missing.value.facts() == {"model": "prices", "wanted": target}
    assert len(missing.value.sentence) < 200


@pytest.mark.parametrize(("name", "version"), [("20261121", 3), ("1.0.0", 2)])
def test_a_name_is_the_version_that_bears_it(name: str, version: int) -> None:
    assert resolve(name) == version


@pytest.mark.parametrize("name", ["1.0.1", "gone", "20261122"])
def test_a_name_without_its_version_is_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(ModelVersionNotFound, match=r"existing are 4, 3 \(20261121\), 2 \(1.0.0\), 1"):
        resolve(name)
