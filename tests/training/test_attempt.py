"""Whole attempts on a real tracking server and a real database, with a small model."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from mlflow import MlflowClient
from sqlalchemy import select

from core.approvals import ask_for_approval, load_approvals, reject
from core.connections import Connections, open_connections
from core.errors import AttemptSuperseded, TrainingFailed
from core.evaluations import find_evaluation
from core.findings import Finding, store_finding
from core.model_directory import ModelDirectory
from core.principals import Role
from core.promotion import promote
from core.registry import Standing
from core.settings import Settings
from core.snapshots import load_snapshot
from core.tables.versions import transitions, verdicts
from core.trainings import Training
from core.verdicts import Verdict
from tests.training.preparing import (
    MINIMUM_ROWS,
    ROWS,
    SMALL,
    Attempted,
    attempt,
    bring_rows,
    build_workload,
    cut_snapshot,
    load,
    request,
    start_next_attempt,
)
from training import attempt as attempt_module
from training import variants as variants_module
from training.fit import fit_model
from training.gate import judge
from workloads.declaration import Workload
from workloads.prices.sample import FIRST_DAY

# Keras's TensorFlow variables do not know NumPy 2's `copy` keyword.
FIRST_CHECKS = ["valid", "fresh", "rows", "sanity", "parity", "latency", "size", "baseline"]

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def connections(database_url: str, tracking_server: str, tracking_settings: Settings) -> Iterator[Connections]:
    """The session's database: these tests keep apart by workloads of their own."""
    settings = tracking_settings.model_copy(update={"tracking_uri": tracking_server})
    with open_connections(settings, database_url) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(tracking_server: str) -> MlflowClient:
    return MlflowClient(tracking_server, tracking_server)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return build_workload()


@pytest.fixture(scope="module")
def digest(connections: Connections, workload: Workload) -> str:
    bring_rows(connections, workload)
    return cut_snapshot(connections, workload)


@pytest.fixture(scope="module")
def first(connections: Connections, workload: Workload, digest: str) -> Attempted:
    """The first training of the workload."""
    return attempt(connections, workload, request(connections, workload, digest))


@pytest.fixture
def own(connections: Connections) -> tuple[Workload, Training]:
    """A workload of the test's own with a training under way."""
    workload = build_workload()
    bring_rows(connections, workload)
    return workload, request(connections, workload, cut_snapshot(connections, workload))


def load_rows(connections: Connections, digest: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    with connections.engine.connect() as connection:
        columns = load_snapshot(connection, digest, connections.tracking, folder)
    return columns["Close"], columns["Date"]


def count_stored(connections: Connections, model: str) -> tuple[int, int]:
    """How many verdicts and transitions there are of the model."""
    with connections.engine.connect() as connection:
        found = [
            len(connection.execute(select(table.c.id).where(table.c.model == model)).all())
            for table in (verdicts, transitions)
        ]
    return found[0], found[1]


# --- a first training --------------------------------------------------------------------------------------------


def test_first_training_ends_with_its_version_in_production(
    connections: Connections, workload: Workload, first: Attempted, client: MlflowClient
) -> None:
    training, verdict = first.training, first.verdict
    assert (verdict.outcome, verdict.version, verdict.champion_version) == ("promote", 1, None)
    assert (training.state, training.step, training.progress) == ("finished", "finished", 1.0)
    assert (training.run_id, training.version, training.error) == (first.run_id, 1, None)
    assert training.verdict_id is not None
    version = connections.registry.get_version(workload.name, 1)
    assert (version.stage, version.run_id) == ("Production", first.run_id)
    assert version.tags["millrace.training_id"] == str(training.id)
    assert int(client.get_model_version_by_alias(workload.name, "production").version) == 1
    assert count_stored(connections, workload.name) == (1, 1)


def test_run_holds_parameters_metrics_of_every_epoch_plots_dataset_and_verdict(
    first: Attempted, workload: Workload, digest: str, client: MlflowClient, tmp_path: Path
) -> None:
    run = client.get_run(first.run_id)
    expected = {name: str(value) for name, value in workload.resolve_parameters(SMALL).items()}
    assert run.data.params == expected
    for name in ("loss", "val_loss"):
        history = client.get_metric_history(first.run_id, name)
        assert [metric.step for metric in history] == [1, 2]
    names = {f"{part}_{error}" for part in ("holdout", "persistence") for error in ("mae", "rmse", "mape")}
    assert names <= set(run.data.metrics)
    assert {file.path for file in client.list_artifacts(first.run_id, "plots")} == {
        "plots/backtest.png",
        "plots/loss.png",
        "plots/predicted_against_actual.png",
        "plots/residuals.png",
    }
    for file in client.list_artifacts(first.run_id, "plots"):
        assert Path(client.download_artifacts(first.run_id, file.path, str(tmp_path))).read_bytes()[1:4] == b"PNG"
    assert run.inputs is not None
    dataset = run.inputs.dataset_inputs[0].dataset
    assert digest.startswith(dataset.digest)
    assert json.loads(dataset.profile or "") == {"num_rows": ROWS, "digest": digest}
    verdict = json.loads(Path(client.download_artifacts(first.run_id, "verdict.json", str(tmp_path))).read_text())
    assert (verdict["outcome"], verdict["version"]) == ("promote", 1)
    assert [check["name"] for check in verdict["checks"]] == FIRST_CHECKS


def test_logged_errors_are_those_of_the_downloaded_export_on_the_snapshots_last_rows(
    connections: Connections, workload: Workload, first: Attempted, digest: str, client: MlflowClient, tmp_path: Path
) -> None:
    place = tmp_path / "version"
    place.mkdir()
    connections.registry.download(workload.name, 1, place)
    closes, times = load_rows(connections, digest, tmp_path)
    steps, rows = SMALL["sequence_length"], ROWS // 10
    targets = np.arange(ROWS - rows, ROWS)
    windows = np.stack([closes[row - steps : row] for row in targets]).astype(np.float32)[:, :, None]
    session = onnxruntime.InferenceSession(str(place / "model.onnx"), providers=["CPUExecutionProvider"])
    predictions = session.run(None, {"inputs": windows})[0][:, 0].astype(np.float64)
    metrics = client.get_run(first.run_id).data.metrics
    for name, answers in (("holdout", predictions), ("persistence", closes[targets - 1])):
        misses = answers - closes[targets]
        assert metrics[f"{name}_mae"] == pytest.approx(np.mean(np.abs(misses)), rel=1e-4)
        assert metrics[f"{name}_rmse"] == pytest.approx(np.sqrt(np.mean(misses**2)), rel=1e-4)
        assert metrics[f"{name}_mape"] == pytest.approx(100 * np.mean(np.abs(misses) / closes[targets]), rel=1e-4)
    evaluation = ModelDirectory.open(place).evaluation
    assert evaluation["trained_until"] == str(times[ROWS - rows - 1])
    assert evaluation["snapshot_digest"] == digest
    with connections.engine.connect() as connection:
        promised = find_evaluation(connection, workload.name, 1)
    assert promised is not None
    assert promised.metric == "mae"
    assert promised.error == pytest.approx(metrics["holdout_mae"])
    assert (promised.lower, promised.upper) == pytest.approx((metrics["holdout_mae_low"], metrics["holdout_mae_high"]))
    assert (promised.baseline_name, promised.contract.steps) == ("persistence", SMALL["sequence_length"])
    parts = evaluation["parts"]
    assert isinstance(parts, dict)
    assert parts["holdout"] == {"rows": rows, "first_at": str(times[targets[0]]), "last_at": str(times[-1])}


# --- champion and challenger -------------------------------------------------------------------------------------


def test_second_training_of_the_same_rows_ties_and_keeps_the_champion(
    connections: Connections, workload: Workload, first: Attempted, digest: str
) -> None:
    again = attempt(connections, workload, request(connections, workload, digest))
    assert (again.verdict.outcome, again.verdict.champion_version) == ("keep", 1)
    assert again.training.state == "finished"
    production = connections.registry.find_production(workload.name)
    assert production is not None and production.version == first.verdict.version
    check = again.verdict.checks[-1]
    assert (check.name, check.value) == ("champion", 0.0)


def test_holdout_leaves_out_what_the_champion_has_trained_on(
    connections: Connections, workload: Workload, first: Attempted
) -> None:
    # The champion has trained on 216 of 240 rows; of the 22 last ones of 228 it has not seen 12.
    last_at = datetime.combine(FIRST_DAY, datetime.min.time(), UTC) + timedelta(days=227)
    digest = cut_snapshot(connections, workload, last_at)
    ended = attempt(connections, workload, request(connections, workload, digest))
    assert ended.verdict.outcome == "insufficient_evidence"
    check = next(check for check in ended.verdict.checks if check.name == "rows")
    assert (check.value, check.threshold) == (12.0, float(MINIMUM_ROWS))
    production = connections.registry.find_production(workload.name)
    assert production is not None and production.version == first.verdict.version


def test_continuing_without_a_champion_is_refused(connections: Connections, own: tuple[Workload, Training]) -> None:
    workload, training = own
    continued = Training(**{**training.__dict__, "parameters": {**training.parameters, "continue": 1}})
    with pytest.raises(TrainingFailed, match="no version is in Production"):
        attempt(connections, workload, continued)


def store_drift(connections: Connections, model: str, version: int) -> uuid.UUID:
    """A confirmed finding against that version."""
    finding = Finding(
        id=uuid.uuid4(),
        model=model,
        version=version,
        subject="drift",
        outcome="retrain",
        is_drifted=True,
        reasons=["drifted"],
        statistic=0.5,
        threshold=0.1,
        rows=300,
        measure={},
        report_uri=None,
        training_id=None,
        window_from_at=None,
        window_to_at=None,
        found_at=datetime.now(UTC),
    )
    with connections.engine.begin() as connection:
        store_finding(connection, finding)
    return finding.id


def attempt_against(connections: Connections, workload: Workload, digest: str, version: int) -> Attempted:
    """A challenger that is the champion all but for a small step, started by a finding against `version`."""
    finding_id = store_drift(connections, workload.name, version)
    small_step = {"continue": 1, "learning_rate": 1e-5}
    training = request(connections, workload, digest, cause="finding", finding_id=finding_id, **small_step)
    return attempt(connections, workload, training)


def test_finding_against_the_champion_promotes_a_challenger_that_is_not_worse(
    connections: Connections, workload: Workload, first: Attempted, digest: str
) -> None:
    ended = attempt_against(connections, workload, digest, first.verdict.version)
    assert ended.verdict.outcome == "promote"
    production = connections.registry.find_production(workload.name)
    assert production is not None and production.version == ended.verdict.version
    assert connections.registry.get_version(workload.name, first.verdict.version).stage == "Archived"


def test_finding_against_another_version_does_not_speak_against_the_champion(
    connections: Connections, workload: Workload, first: Attempted, digest: str
) -> None:
    ended = attempt_against(connections, workload, digest, first.verdict.version + 100)
    assert ended.verdict.outcome == "keep"


def test_champion_that_changed_while_the_challenger_was_judged_is_judged_against(
    connections: Connections, workload: Workload, first: Attempted, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, model = connections.registry, workload.name
    source = registry.find_production(model)
    assert source is not None
    other = registry.register(model, source.run_id, source.source, {}).version
    judged = judge
    champions: list[int | None] = []

    def judge_late(*arguments: object, **named: object) -> Verdict:
        verdict = judged(*arguments, **named)  # type: ignore[arg-type]  # passed on as they came
        champions.append(verdict.champion_version)
        if len(champions) == 1:
            # A person promotes another version between the verdict and the transition.
            promote(connections.engine, registry, model, other, actor="ann", cause="hand")
        return replace(verdict, outcome="promote") if len(champions) == 1 else verdict

    monkeypatch.setattr(attempt_module, "judge", judge_late)
    ended = attempt(connections, workload, request(connections, workload, digest))
    assert champions == [source.version, other]
    assert ended.verdict.outcome == "keep"
    production = registry.find_production(model)
    assert production is not None and production.version == other


# --- attempts that are given up ----------------------------------------------------------------------------------


def test_attempt_that_is_superseded_while_it_fits_leaves_nothing(
    connections: Connections, own: tuple[Workload, Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, training = own

    def fit_until_superseded(*arguments: object, **named: object) -> object:
        report = named["report"]

        def report_late(epoch: int, most: int) -> None:
            start_next_attempt(connections, training)
            report(epoch, most)  # type: ignore[operator]  # the hook of the attempt

        return fit_model(*arguments, **{**named, "report": report_late})  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(variants_module, "fit_model", fit_until_superseded)
    with pytest.raises(AttemptSuperseded):
        attempt(connections, workload, training)
    check_nothing_is_left(connections, workload, training)


def test_attempt_that_is_superseded_before_it_registers_leaves_no_version(
    connections: Connections, own: tuple[Workload, Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, training = own
    interrupt_after(monkeypatch, "log_version", connections, training)
    with pytest.raises(AttemptSuperseded):
        attempt(connections, workload, training)
    check_nothing_is_left(connections, workload, training)


def check_nothing_is_left(connections: Connections, workload: Workload, training: Training) -> None:
    assert connections.registry.load_versions(workload.name) == []
    assert count_stored(connections, workload.name) == (0, 0)
    now = load(connections, training)
    assert (now.state, now.attempt, now.version, now.verdict_id) == ("running", 2, None, None)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: str, connections: Connections, training: Training) -> None:
    """Another attempt takes the training when this step of the attempt's module has returned."""
    original = getattr(attempt_module, step)

    def act(*arguments: object, **named: object) -> object:
        result = original(*arguments, **named)
        start_next_attempt(connections, training)
        monkeypatch.setattr(attempt_module, step, original)
        return result

    monkeypatch.setattr(attempt_module, step, act)


def test_version_that_never_came_to_a_verdict_is_deleted_by_the_next_attempt(
    connections: Connections, own: tuple[Workload, Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, training = own
    interrupt_after(monkeypatch, "judge", connections, training)
    with pytest.raises(AttemptSuperseded):
        attempt(connections, workload, training)
    assert [one.version for one in connections.registry.load_versions(workload.name)] == [1]
    assert count_stored(connections, workload.name) == (0, 0)

    ended = attempt(connections, workload, load(connections, training))
    assert ended.verdict.outcome == "promote"
    left = connections.registry.load_versions(workload.name)
    assert [(one.version, one.stage) for one in left] == [(ended.verdict.version, "Production")]
    assert count_stored(connections, workload.name) == (1, 1)


def test_verdict_that_was_not_carried_out_is_carried_out_by_the_next_attempt(
    connections: Connections, own: tuple[Workload, Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, training = own

    def supersede(*arguments: object, **named: object) -> object:
        start_next_attempt(connections, training)
        return promote(*arguments, **named)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(attempt_module, "promote", supersede)
    with pytest.raises(AttemptSuperseded):
        attempt(connections, workload, training)
    assert connections.registry.find_production(workload.name) is None
    assert count_stored(connections, workload.name) == (1, 0)

    monkeypatch.setattr(attempt_module, "promote", promote)
    monkeypatch.setattr(variants_module, "fit_model", None)
    ended = attempt(connections, workload, load(connections, training))
    assert isinstance(ended.verdict, Verdict)
    assert (ended.training.state, ended.training.attempt) == ("finished", 2)
    # The verdict is with the run that made the version.
    assert ended.training.run_id not in (None, ended.run_id)
    assert connections.tracking.find_artifact(str(ended.training.run_id), "verdict.json", 10_000) is not None
    assert connections.tracking.find_artifact(ended.run_id, "verdict.json", 10_000) is None
    production = connections.registry.find_production(workload.name)
    assert production is not None and production.version == ended.verdict.version == 1
    assert count_stored(connections, workload.name) == (1, 1)


class Killed(Exception):
    pass


def test_challenger_that_needs_an_approval_waits_and_what_was_rejected_is_not_asked_for_again(
    connections: Connections, own: tuple[Workload, Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, training = replace(own[0], approver=Role.OPERATOR), own[1]

    def ask_and_die(*arguments: object, **named: object) -> None:
        ask_for_approval(*arguments, **named)  # type: ignore[arg-type]  # passed on as they came
        raise Killed

    monkeypatch.setattr(attempt_module, "ask_for_approval", ask_and_die)
    with pytest.raises(Killed):
        attempt(connections, workload, training)
    assert connections.registry.load_standing(workload.name) == Standing(None, None, staging=1)
    with connections.engine.connect() as connection:
        [waiting] = load_approvals(connection, workload.name)
    assert (waiting.approver, waiting.transition.actor) == (Role.OPERATOR, training.actor)
    reject(connections.engine, connections.registry, workload.name, 1, actor="bea", reason="biased")

    start_next_attempt(connections, training)
    ended = attempt(connections, workload, load(connections, training))
    assert (ended.training.state, ended.verdict.outcome, ended.verdict.approver) == ("finished", "promote", "operator")
    assert connections.registry.get_version(workload.name, 1).stage == "Archived"
    assert count_stored(connections, workload.name) == (1, 2)


def test_training_without_a_snapshot_fails(connections: Connections, own: tuple[Workload, Training]) -> None:
    workload, training = own
    bare = Training(**{**training.__dict__, "snapshot_digest": None, "id": uuid.uuid4()})
    with pytest.raises(TrainingFailed, match="load its snapshot: it has none"):
        attempt(connections, workload, bare)
