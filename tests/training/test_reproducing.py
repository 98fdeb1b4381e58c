"""A version is made again from its snapshot; what stands in the way is named."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from sqlalchemy import update

from core.connections import Connections, open_connections
from core.settings import Settings
from core.snapshots import get_snapshot
from core.tables.data import snapshots
from core.tables.trainings import trainings
from core.trainings import CONTINUE, Training
from tests.training.preparing import Attempted, attempt, bring_rows, build_workload, cut_snapshot, request
from training import provenance, reproducing
from training.provenance import compute_code_digest, describe_provenance, find_code_version
from training.reproducing import reproduce_version
from training.variants import fit_variant
from workloads.declaration import Workload

# Keras's TensorFlow variables do not know NumPy 2's `copy` keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def connections(database_url: str, tracking_server: str, tracking_settings: Settings) -> Iterator[Connections]:
    """The session's database: these tests keep apart by workloads of their own."""
    settings = tracking_settings.model_copy(update={"tracking_uri": tracking_server})
    with open_connections(settings, database_url) as opened:
        yield opened


@pytest.fixture(scope="module")
def workload() -> Workload:
    return build_workload()


@pytest.fixture(scope="module")
def first(connections: Connections, workload: Workload) -> Attempted:
    bring_rows(connections, workload)
    return attempt(connections, workload, request(connections, workload, cut_snapshot(connections, workload)))


def request_continuation(connections: Connections, workload: Workload, digest: str) -> Training:
    given: dict[str, Any] = {CONTINUE: 1}
    return request(connections, workload, digest, **given)


@pytest.fixture(scope="module")
def continued(connections: Connections, workload: Workload, first: Attempted) -> Attempted:
    digest = str(first.training.snapshot_digest)
    return attempt(connections, workload, request_continuation(connections, workload, digest))


def test_run_says_what_it_was_made_with(
    connections: Connections, first: Attempted, tracking_server: str, tmp_path: Path
) -> None:
    client = MlflowClient(tracking_server, tracking_server)
    run = client.get_run(first.run_id)
    assert run.data.tags["millrace.code_version"] == find_code_version()
    assert run.data.params["seed"] == "7"
    expected = describe_provenance(str(first.training.snapshot_digest), {}, "", None)
    document = connections.tracking.find_artifact(first.run_id, "provenance.json", 10**6)
    assert document is not None
    for fact in (expected.snapshot_digest, expected.code_digest, expected.packages["keras"], expected.python):
        assert fact.encode() in document


def test_version_is_made_again_to_the_same_predictions(
    connections: Connections, workload: Workload, first: Attempted
) -> None:
    found = reproduce_version(connections, workload, 1)
    assert (found.is_equal, found.reasons) == (True, ())
    assert found.difference == 0.0
    assert found.rows == 24


def test_version_that_continued_another_is_made_again_from_that_one(
    connections: Connections, workload: Workload, continued: Attempted
) -> None:
    found = reproduce_version(connections, workload, continued.verdict.version)
    assert (found.is_equal, found.reasons) == (True, ())


def test_other_result_is_found_though_everything_is_said_to_be_the_same(
    connections: Connections, workload: Workload, first: Attempted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit_otherwise(workload: Workload, parameters: dict[str, int | float], *others: object) -> object:
        return fit_variant(workload, {**parameters, "seed": 8}, *others)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(reproducing, "fit_variant", fit_otherwise)
    found = reproduce_version(connections, workload, 1)
    assert not found.is_equal
    assert found.difference is not None and found.difference > 1e-6
    assert "another processor or build" in found.reasons[0]


def test_other_code_and_packages_are_named(
    connections: Connections, workload: Workload, first: Attempted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "compute_code_digest", lambda: "0" * 64)
    monkeypatch.setattr(provenance, "version", lambda _name: "0.0.1")
    found = reproduce_version(connections, workload, 1)
    assert found.is_equal
    assert any(reason.startswith("the code is another: it was ") for reason in found.reasons)
    assert any(reason.startswith("keras was ") and reason.endswith(" and is 0.0.1") for reason in found.reasons)


def test_parameters_that_the_workload_no_longer_takes_are_named(
    connections: Connections, workload: Workload, first: Attempted
) -> None:
    parameters = {name: one for name, one in workload.parameters.items() if name != "dropout"}
    found = reproduce_version(connections, replace(workload, parameters=parameters), 1)
    assert not found.is_equal
    assert "dropout" in found.reasons[-1]


def test_missing_snapshot_is_named(connections: Connections, tracking_settings: Settings) -> None:
    workload = build_workload()
    bring_rows(connections, workload)
    digest = cut_snapshot(connections, workload)
    attempt(connections, workload, request(connections, workload, digest))
    with connections.engine.connect() as connection:
        uri = get_snapshot(connection, digest).uri
    (Path(tracking_settings.artifacts) / uri.removeprefix("mlflow-artifacts:/")).unlink()
    found = reproduce_version(connections, workload, 1)
    assert not found.is_equal
    assert "the file of its snapshot is gone" in found.reasons[0]
    with connections.engine.begin() as connection:
        connection.execute(update(trainings).where(trainings.c.model == workload.name).values(snapshot_digest=None))
        connection.execute(snapshots.delete().where(snapshots.c.digest == digest))
    assert "is not recorded any more" in reproduce_version(connections, workload, 1).reasons[0]


def test_code_digest_follows_every_file_that_decides_a_training(tmp_path: Path) -> None:
    for name in ("core", "training", "workloads/prices", "web"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "one.py").write_text("x = 1\n")
    before = compute_code_digest(tmp_path)
    (tmp_path / "web" / "one.py").write_text("x = 2\n")
    assert compute_code_digest(tmp_path) == before
    (tmp_path / "workloads" / "prices" / "one.py").write_text("x = 2\n")
    changed = compute_code_digest(tmp_path)
    assert changed != before
    (tmp_path / "workloads" / "prices" / "one.py").rename(tmp_path / "workloads" / "prices" / "two.py")
    assert compute_code_digest(tmp_path) not in (before, changed)


def test_code_version_outside_of_a_checkout_is_unknown(tmp_path: Path) -> None:
    assert find_code_version(tmp_path) == "unknown"
