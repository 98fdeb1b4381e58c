"""One attempt at a training: snapshot -> parts -> fit -> evaluation -> export -> version -> gate -> transition.

Before each step that others can see (a version, a verdict, a transition) the attempt's fencing number is checked
under the training's row lock, so that an attempt that was given up for dead changes nothing.
"""

import logging
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from core.connections import Connections
from core.contract import Contract
from core.errors import ChampionChanged, TrainingFailed
from core.features import build_monitored
from core.findings import get_finding
from core.inference import OnnxModel
from core.model_directory import VersionFiles, log_version
from core.promotion import promote
from core.reference import build_reference
from core.snapshots import get_snapshot, load_snapshot
from core.tracking import ATTEMPT_TAG, CAUSE_TAG, SNAPSHOT_TAG, TRAINING_TAG
from core.trainings import CONTINUE, Training, finish_training, hold_attempt, record_step
from core.transitions import has_finished_transition
from core.verdicts import Verdict, find_verdict, load_outcomes, store_verdict
from training.candidate import Candidate, Scored, load_champion
from training.evaluation import measure_errors
from training.export import Parity, export_onnx, measure_parity
from training.fit import Fitted, fit_model, predict
from training.gate import Evidence, Scores, judge
from training.plots import write_plots
from training.sequence import BASELINE_NAME, Part, Parts, build_part, split_part
from workloads.declaration import Workload

logger = logging.getLogger(__name__)

_PARITY_ROWS = 256


@dataclass(frozen=True)
class _Attempt:
    """What every step of the attempt works with; `folder` is its own and empty at the start."""

    connections: Connections
    workload: Workload
    training: Training
    contract: Contract
    parameters: Mapping[str, int | float]
    run_id: str
    folder: Path

    def record(self, step: str, progress: float, **values: object) -> None:
        logger.info("training step", extra={"step": step, "progress": progress, "model": self.workload.name})
        with self.connections.engine.begin() as connection:
            record_step(connection, self.training.id, self.training.attempt, step=step, progress=progress, **values)


def run_attempt(
    connections: Connections, workload: Workload, training: Training, *, run_id: str, folder: Path
) -> Verdict:
    """Carry out this attempt at the training, in the MLflow run `run_id`; returns the gate's verdict.

    The training has its snapshot and is running. Where an earlier attempt was ended after its verdict, this one carries
    that verdict out and trains nothing. Raises AttemptSuperseded when a newer attempt owns it, StepFailed
    when a step cannot be done however often it is tried, Unavailable when something that it needs is away.
    """
    if training.snapshot_digest is None:
        raise TrainingFailed(workload.name, "load its snapshot", "it has none")
    given = dict(training.parameters)
    continues = bool(given.pop(CONTINUE, 0))
    parameters = workload.resolve_parameters(given)
    contract = workload.build_contract(parameters)
    attempt = _Attempt(connections, workload, training, contract, parameters, run_id, folder)

    earlier = _find_verdict(attempt)
    if earlier is not None and training.verdict_id is not None:
        try:
            return _conclude(attempt, earlier, training.verdict_id)
        except ChampionChanged as error:
            logger.warning("an earlier verdict no longer holds", extra={"reason": error.sentence})

    attempt.record("load snapshot", 0.02, run_id=run_id)
    with connections.engine.connect() as connection:
        columns = load_snapshot(connection, training.snapshot_digest, connections.tracking, folder)
    parts = split_part(contract, build_part(contract, columns), workload.split)
    champion_and_keras = load_champion(connections.registry, workload.name, folder)
    if continues and champion_and_keras is None:
        raise TrainingFailed(workload.name, "continue an earlier version", "no version is in Production")
    champion = None if champion_and_keras is None else champion_and_keras[0]
    start_from = champion_and_keras[1] if continues and champion_and_keras else None

    _log_inputs(attempt)
    attempt.record("fit", 0.05)
    fitted = fit_model(
        workload,
        contract,
        parameters,
        parts.train,
        parts.validation,
        start_from=start_from,
        report=lambda epoch, most: attempt.record(f"fit, epoch {epoch} of at most {most}", 0.05 + 0.6 * epoch / most),
    )
    trained_until = parts.validation.times[-1]
    if start_from is not None and champion is not None:
        trained_until = max(trained_until, champion.trained_until)

    attempt.record("evaluate", 0.68)
    evaluation = _evaluate(attempt, parts, fitted, trained_until)
    attempt.record("export", 0.72)
    onnx, parity = _export(attempt, parts, fitted)
    evaluation["parity"] = asdict(parity)
    attempt.record("calibrate reference", 0.76)
    reference = build_reference(
        build_monitored(contract, parts.train.inputs),
        [monitored.name for monitored in contract.monitored],
        [monitored.unit for monitored in contract.monitored],
        target_rate=workload.drift.target_rate,
        seed=int(parameters["seed"]),
    )
    attempt.record("log version", 0.82)
    files = VersionFiles(
        keras_path=folder / "model.keras",
        onnx_path=folder / "model.onnx",
        contract=contract.model_dump(mode="json"),
        reference=reference.model_dump(mode="json"),
        evaluation=evaluation,
    )
    connections.tracking.activate()
    source = log_version(
        run_id, files, input_shape=onnx.input_shape, output_shape=onnx.output_shape, name=workload.name
    )
    version = _register(attempt, source)
    challenger = Candidate(version, contract, onnx, trained_until)
    return _decide(attempt, columns, parts, challenger, champion, parity)


def _log_inputs(attempt: _Attempt) -> None:
    tracking = attempt.connections.tracking
    tracking.log_parameters(attempt.run_id, dict(attempt.parameters))
    digest = str(attempt.training.snapshot_digest)
    with attempt.connections.engine.connect() as connection:
        snapshot = get_snapshot(connection, digest)
    tracking.log_dataset(
        attempt.run_id,
        name=attempt.workload.name,
        digest=digest,
        source=snapshot.uri,
        rows=snapshot.rows,
        columns={column.name: column.dtype for column in attempt.contract.columns},
        context="training",
    )


def _evaluate(attempt: _Attempt, parts: Parts, fitted: Fitted, trained_until: np.datetime64) -> dict[str, Any]:
    tracking = attempt.connections.tracking
    predictions = predict(fitted.model, parts.holdout.inputs)
    model = measure_errors(parts.holdout.targets, predictions)
    baseline = measure_errors(parts.holdout.targets, parts.holdout.baseline)
    tracking.log_metric_history(attempt.run_id, fitted.history)
    tracking.log_metrics(
        attempt.run_id,
        {f"holdout_{name}": value for name, value in model.items()}
        | {f"{BASELINE_NAME}_{name}": value for name, value in baseline.items()}
        | {f"{name}_ratio": model[name] / baseline[name] for name in model if baseline[name] > 0}
        | {"best_epoch": float(fitted.best_epoch)},
    )
    plots = attempt.folder / "plots"
    plots.mkdir()
    for path in write_plots(plots, attempt.contract, fitted.history, parts.holdout, predictions):
        tracking.log_artifact(attempt.run_id, path, "plots")
    return {
        "metric": attempt.workload.gate.metric,
        "unit": attempt.contract.column(attempt.contract.target).unit,
        "model": model,
        "baseline": {"name": BASELINE_NAME, **baseline},
        "parts": {
            name: _describe(part)
            for name, part in (("train", parts.train), ("validation", parts.validation), ("holdout", parts.holdout))
        },
        "trained_until": str(trained_until),
        "best_epoch": fitted.best_epoch,
        "snapshot_digest": attempt.training.snapshot_digest,
    }


def _describe(part: Part) -> dict[str, object]:
    return {"rows": part.rows, "first_at": str(part.times[0]), "last_at": str(part.times[-1])}


def _export(attempt: _Attempt, parts: Parts, fitted: Fitted) -> tuple[OnnxModel, Parity]:
    fitted.model.save(attempt.folder / "model.keras")
    path = attempt.folder / "model.onnx"
    export_onnx(fitted.model, path)
    onnx = OnnxModel.load(path)
    target_std = float(parts.train.targets.std())
    parity = measure_parity(fitted.model, onnx, parts.holdout.inputs[-_PARITY_ROWS:], target_std)
    return onnx, parity


def _register(attempt: _Attempt, source: str) -> int:
    training = attempt.training
    tags = {
        TRAINING_TAG: str(training.id),
        ATTEMPT_TAG: str(training.attempt),
        SNAPSHOT_TAG: str(training.snapshot_digest),
        CAUSE_TAG: training.cause,
    }
    with attempt.connections.engine.begin() as connection:
        hold_attempt(connection, training.id, training.attempt)
        _delete_leftovers(connection, attempt)
        registered = attempt.connections.registry.register(attempt.workload.name, attempt.run_id, source, tags)
        record_step(
            connection,
            training.id,
            training.attempt,
            step="gate",
            progress=0.92,
            version=registered.version,
        )
    return registered.version


def _delete_leftovers(connection: Connection, attempt: _Attempt) -> None:
    """Delete what an earlier attempt at this training registered and never brought to a verdict."""
    model, training, registry = attempt.workload.name, attempt.training, attempt.connections.registry
    outcomes = load_outcomes(connection, model)
    for found in registry.load_versions(model):
        is_own = found.tags.get(TRAINING_TAG) == str(training.id)
        is_earlier = is_own and int(found.tags[ATTEMPT_TAG]) < training.attempt
        if is_earlier and found.stage == "None" and found.version not in outcomes:
            registry.delete_version(model, found.version)
            logger.warning("version without a verdict deleted", extra={"model": model, "version": found.version})


def _find_verdict(attempt: _Attempt) -> Verdict | None:
    if attempt.training.verdict_id is None:
        return None
    with attempt.connections.engine.connect() as connection:
        return find_verdict(connection, attempt.training.verdict_id)


def _decide(
    attempt: _Attempt,
    columns: Mapping[str, NDArray[np.generic]],
    parts: Parts,
    challenger: Candidate,
    champion: Candidate | None,
    parity: Parity,
) -> Verdict:
    workload, training, connections = attempt.workload, attempt.training, attempt.connections
    while True:
        speaks_against = champion is not None and _speaks_against(attempt, champion.version)
        evidence = _gather_evidence(columns, parts, challenger, champion, parity, speaks_against)
        verdict = judge(attempt.contract, workload.gate, evidence, seed=int(attempt.parameters["seed"]))
        with connections.engine.begin() as connection:
            hold_attempt(connection, training.id, training.attempt)
            verdict_id = store_verdict(connection, verdict, training.id)
            record_step(
                connection, training.id, training.attempt, step="transition", progress=0.97, verdict_id=verdict_id
            )
        try:
            return _conclude(attempt, verdict, verdict_id)
        except ChampionChanged as error:
            logger.warning("the champion changed while the challenger was judged", extra={"reason": error.sentence})
            present = load_champion(connections.registry, workload.name, attempt.folder)
            champion = None if present is None else present[0]


def _speaks_against(attempt: _Attempt, champion: int) -> bool:
    """Whether the finding that started this training is about the champion."""
    finding_id = attempt.training.finding_id
    if finding_id is None:
        return False
    with attempt.connections.engine.connect() as connection:
        return get_finding(connection, attempt.workload.name, finding_id).version == champion


def _conclude(attempt: _Attempt, verdict: Verdict, verdict_id: uuid.UUID) -> Verdict:
    """Carry the verdict out, unless that was done already, and end the training; raises ChampionChanged."""
    workload, training, connections = attempt.workload, attempt.training, attempt.connections

    def check(connection: Connection, production: int | None) -> None:
        hold_attempt(connection, training.id, training.attempt)
        if production not in (verdict.champion_version, verdict.version):
            raise ChampionChanged(workload.name, verdict.champion_version, production)

    with connections.engine.connect() as connection:
        is_done = has_finished_transition(connection, verdict_id)
    if verdict.outcome == "promote" and not is_done:
        promote(
            connections.engine,
            connections.registry,
            workload.name,
            verdict.version,
            actor=training.actor,
            cause="gate",
            reason=verdict.reason,
            verdict_id=verdict_id,
            guard=check,
        )
    connections.tracking.log_document(attempt.run_id, asdict(verdict), "verdict.json")
    connections.tracking.set_tags(
        attempt.run_id, {"millrace.verdict": verdict.outcome, "millrace.version": str(verdict.version)}
    )
    with connections.engine.begin() as connection:
        finish_training(connection, training.id, training.attempt)
    return verdict


def _gather_evidence(
    columns: Mapping[str, NDArray[np.generic]],
    parts: Parts,
    challenger: Candidate,
    champion: Candidate | None,
    parity: Parity,
    speaks_against_champion: bool,
) -> Evidence:
    """The common hold-out: the challenger's, less what the champion has seen or cannot predict."""
    seen = challenger.trained_until if champion is None else max(challenger.trained_until, champion.trained_until)
    holdout = parts.holdout.since(seen)
    champion_scored: Scored | None = None
    if champion is not None:
        champion_scored = champion.predict(columns, holdout.times)
        common = np.isin(holdout.times, champion_scored.times)
        holdout = Part(holdout.inputs[common], holdout.targets[common], holdout.baseline[common], holdout.times[common])
    predictions = challenger.model.predict(holdout.inputs).astype(np.float64)[:, 0]
    return Evidence(
        targets=holdout.targets,
        baseline=holdout.baseline,
        challenger=Scores(challenger.version, predictions),
        champion=None
        if champion is None or champion_scored is None
        else Scores(champion.version, champion_scored.predictions),
        parity=parity.difference / parity.allowed if parity.allowed else 0.0,
        training_rows=parts.train.rows,
        speaks_against_champion=speaks_against_champion,
    )
