"""Variants, tables and version names in whole attempts: on a real tracking server and a real database."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from core.connections import Connections, open_connections
from core.contract import Contract
from core.errors import TrainingFailed, VersionNameTaken
from core.model_directory import ModelDirectory
from core.resolution import find_target_version
from core.settings import Settings
from core.trainings import CONTINUE, VERSION_NAME, request_training, start_attempt
from core.verdicts import Verdict
from core.version_names import load_version_names
from ingestion.importing import import_file
from ingestion.snapshots import create_snapshot
from training.attempt import run_attempt
from training.variants import Earlier, fit_variant
from workloads.catalogue import get_workload
from workloads.declaration import Workload
from workloads.failures.workload import FEATURES

# Keras's TensorFlow variables do not know NumPy 2's `copy` keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SMALL = {"hidden_size": 8, "num_layers": 1, "max_epochs": 4, "learning_rate": 0.02}
VARIANTS = ("4_features", "5_features")


@pytest.fixture(scope="module")
def connections(database_url: str, tracking_server: str, tracking_settings: Settings) -> Iterator[Connections]:
    settings = tracking_settings.model_copy(update={"tracking_uri": tracking_server})
    with open_connections(settings, database_url) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(tracking_server: str) -> MlflowClient:
    return MlflowClient(tracking_server, tracking_server)


@dataclass(frozen=True)
class Trained:
    workload: Workload
    verdict: Verdict
    run_id: str
    contract: Contract


def bring(connections: Connections, name: str, rows: int) -> tuple[Workload, str]:
    """The workload under a name of the test's own, with rows of its sample in a snapshot."""
    workload = replace(get_workload(name), name=f"{name}_{uuid.uuid4().hex[:8]}")
    contract = workload.build_contract()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sample.csv"
        workload.load_function("sample")(path, rows=rows)
        import_file(connections.engine, contract, path, name=path.name, actor="tests")
        return workload, create_snapshot(connections.engine, contract, connections.tracking, Path(folder)).digest


def train(connections: Connections, workload: Workload, digest: str, **parameters: object) -> Trained:
    with connections.engine.begin() as connection:
        training, _ = request_training(
            connection,
            workload.name,
            cause="hand",
            actor="tests",
            parameters={**SMALL, **parameters},
            snapshot_digest=digest,
            is_enqueued=False,
        )
        training = start_attempt(connection, training.id)
    run_id = connections.tracking.start_run(workload.name, None, {})
    with TemporaryDirectory() as folder:
        verdict = run_attempt(connections, workload, training, run_id=run_id, folder=Path(folder))
    connections.tracking.finish_run(run_id, "FINISHED")
    with TemporaryDirectory() as folder:
        connections.registry.download(workload.name, verdict.version, Path(folder))
        contract = Contract.model_validate(ModelDirectory.open(Path(folder)).contract)
    return Trained(workload, verdict, run_id, contract)


@pytest.fixture(scope="module")
def first(connections: Connections) -> Trained:
    workload, digest = bring(connections, "man_hours", rows=600)
    return train(connections, workload, digest, **{VERSION_NAME: "1.0.0"})


def load_children(client: MlflowClient, run_id: str) -> list[Run]:
    experiment = client.get_run(run_id).info.experiment_id
    return list(client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'"))


def test_both_variants_are_child_runs_with_their_errors_on_validation_and_hold_out(
    first: Trained, client: MlflowClient
) -> None:
    children = {run.data.tags["millrace.variant"]: run for run in load_children(client, first.run_id)}
    assert sorted(children) == sorted(VARIANTS)
    parent = client.get_run(first.run_id).data.metrics
    for variant, run in children.items():
        assert run.info.status == "FINISHED"
        assert run.data.params["features"] == ", ".join(first.workload.variants[variant])
        for part in ("validation", "holdout"):
            for metric in ("mae", "rmse", "r2"):
                assert parent[f"{variant}_{part}_{metric}"] == run.data.metrics[f"{part}_{metric}"]


def test_variant_with_the_smaller_validation_error_goes_on_to_the_gate(
    first: Trained, client: MlflowClient, connections: Connections
) -> None:
    metrics = client.get_run(first.run_id).data.metrics
    better = min(VARIANTS, key=lambda variant: metrics[f"{variant}_validation_rmse"])
    assert first.contract.variant == better
    assert first.contract.features == first.workload.variants[better]
    assert metrics["holdout_rmse"] == pytest.approx(metrics[f"{better}_holdout_rmse"])
    assert (first.verdict.outcome, first.verdict.version) == ("promote", 1), first.verdict.reason
    version = connections.registry.get_version(first.workload.name, 1)
    assert version.tags["millrace.variant"] == better


def test_version_has_its_name_in_the_registry_the_table_and_its_own_contract(
    first: Trained, connections: Connections
) -> None:
    model = first.workload.name
    assert first.contract.version_name == "1.0.0"
    assert connections.registry.get_version(model, 1).tags["millrace.version_name"] == "1.0.0"
    with connections.engine.connect() as connection:
        assert load_version_names(connection, model) == {"1.0.0": 1}
    assert [find_target_version(connections, model, wanted) for wanted in ("1.0.0", "1", "Production")] == [1, 1, 1]


def test_binary_table_is_trained_to_production_continued_and_named_by_the_day(
    connections: Connections, client: MlflowClient
) -> None:
    workload, digest = bring(connections, "failures", rows=1600)
    before = datetime.now(UTC)
    trained = train(connections, workload, digest)
    assert trained.verdict.outcome == "promote", trained.verdict.reason
    assert trained.contract.version_name in (f"{before:%Y%m%d}", f"{datetime.now(UTC):%Y%m%d}")
    assert load_children(client, trained.run_id) == []
    metrics = client.get_run(trained.run_id).data.metrics
    names = {
        f"{part}_{metric}" for part in ("holdout", "prior", "logistic_regression") for metric in ("log_loss", "pr_auc")
    }
    assert names <= set(metrics)
    assert metrics["holdout_log_loss"] < metrics["prior_log_loss"]

    again = train(connections, workload, digest, **{CONTINUE: 1, "max_epochs": 1, "learning_rate": 1e-6})
    assert again.verdict.champion_version == 1
    assert again.contract.version_name != trained.contract.version_name
    # The same hold-out for both: as many rows as the first had, none of which either has trained on.
    rows = [next(check.value for check in one.verdict.checks if check.name == "rows") for one in (trained, again)]
    assert rows[0] == rows[1]


def test_a_name_that_is_taken_ends_the_training_before_a_version_is_made(
    first: Trained, connections: Connections
) -> None:
    workload, digest = first.workload, bring_again(connections, first.workload)
    with pytest.raises(VersionNameTaken):
        train(connections, workload, digest, **{VERSION_NAME: "1.0.0", "max_epochs": 1})
    assert [version.version for version in connections.registry.load_versions(workload.name)] == [1]


def bring_again(connections: Connections, workload: Workload) -> str:
    with TemporaryDirectory() as folder:
        contract = workload.build_contract()
        return create_snapshot(connections.engine, contract, connections.tracking, Path(folder)).digest


@pytest.mark.parametrize(
    "changed",
    [{"features": FEATURES[::-1]}, {"features": (*FEATURES[:-1], "KNR")}, {"classes": ("1", "0")}],
)
def test_weights_of_other_features_or_classes_are_not_continued(changed: dict[str, object]) -> None:
    workload = get_workload("failures")
    earlier = Earlier(replace(workload, slices=(), monitored=(), **changed).build_contract(), Path("none.keras"))  # type: ignore[arg-type]  # the fields of a workload
    columns = {column.name: np.arange(100).astype(np.str_) for column in workload.columns}
    with pytest.raises(TrainingFailed, match=f"its {next(iter(changed))} were .* train anew"):
        fit_variant(workload, workload.resolve_parameters(), columns, "", earlier, lambda _epoch, _most: None)
