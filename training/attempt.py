"""One attempt at a training: snapshot -> parts -> fit -> evaluation -> export -> version -> gate -> transition.

Before each step that others can see (a version, a verdict, a transition) the attempt's fencing number is checked
under the training's row lock, so that an attempt that was given up for dead changes nothing.
"""

import logging
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection

from core.approvals import ask_for_approval
from core.connections import Connections
from core.contract import Contract
from core.errors import ChampionChanged, ExportFailed, TrainingFailed
from core.evaluations import TARGET_MEANS, build_evaluation, store_evaluation
from core.findings import get_finding
from core.inference import OnnxModel
from core.model_directory import SAMPLE_ROWS, VersionFiles, log_version
from core.promotion import promote
from core.snapshots import get_snapshot, load_snapshot
from core.tracking import ATTEMPT_TAG, CAUSE_TAG, CODE_TAG, SNAPSHOT_TAG, TRAINING_TAG, VARIANT_TAG, VERSION_NAME_TAG
from core.trainings import CONTINUE, VERSION_NAME, Training, finish_training, hold_attempt, record_step
from core.transitions import has_finished_transition
from core.verdicts import Verdict, find_verdict, load_outcomes, store_verdict
from core.version_names import reserve_version_name, settle_version_name
from training.budget import Cost, measure_cost
from training.candidate import Candidate, load_champion
from training.comparison import gather_evidence
from training.continuing import choose_earlier
from training.export import KerasFile, Parity, SavedModel, export_onnx, get_row_shapes, measure_parity
from training.fit import Fitted, predict
from training.gate import judge
from training.kinds import Kind, get_kind
from training.parts import Columns, Parts, Seen, describe_seen
from training.plots import write_plots
from training.profile import build_profile
from training.provenance import Provenance, describe_provenance
from training.scorecard import build_scorecard
from training.variants import fit_variants
from workloads.declaration import Workload

logger = logging.getLogger(__name__)

_PARITY_ROWS = 256
_SAMPLE_ROWS = 4


@dataclass(frozen=True)
class _Attempt:
    """What every step of the attempt works with; `folder` is its own and empty at the start."""

    connections: Connections
    workload: Workload
    training: Training
    contract: Contract
    kind: Kind
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
    that verdict out, in the run that made the version, and trains nothing. Raises AttemptSuperseded when a newer one
    owns the training, StepFailed when a step cannot be done however often it is tried, Unavailable when something that
    it needs is away.
    """
    if training.snapshot_digest is None:
        raise TrainingFailed(workload.name, "load its snapshot", "it has none")
    given = dict(training.parameters)
    wanted_name = given.pop(VERSION_NAME, None)
    wish = given.pop(CONTINUE, 0)
    parameters = workload.resolve_parameters(given)
    contract = workload.build_contract(parameters)
    attempt = _Attempt(connections, workload, training, contract, get_kind(contract), parameters, run_id, folder)

    verdict = _find_verdict(attempt)
    if verdict is not None and training.verdict_id is not None:
        try:
            return _conclude(replace(attempt, run_id=training.run_id or run_id), verdict, training.verdict_id)
        except ChampionChanged as error:
            logger.warning("an earlier verdict no longer holds", extra={"reason": error.sentence})

    attempt.record("load snapshot", 0.02, run_id=run_id)
    with connections.engine.connect() as connection:
        columns = load_snapshot(connection, training.snapshot_digest, connections.tracking, folder)
    champion_and_keras = load_champion(connections.registry, workload.name, folder)
    champion = None if champion_and_keras is None else champion_and_keras[0]
    earlier, parameters = choose_earlier(workload, wish, champion_and_keras, given)
    attempt = replace(attempt, parameters=parameters)

    attempt.record("fit", 0.05)
    variant = fit_variants(
        connections.tracking,
        workload,
        parameters,
        columns,
        run_id=run_id,
        earlier=earlier,
        report=lambda step, share: attempt.record(step, 0.05 + 0.6 * share),
    )
    parts, fitted = variant.parts, variant.fitted
    continued = champion.version if earlier is not None and champion is not None else None
    provenance = describe_provenance(training.snapshot_digest, parameters, variant.contract.variant, continued)
    _log_inputs(attempt, provenance)
    contract = variant.contract.model_copy(update={"version_name": _reserve_name(attempt, wanted_name)})
    attempt = replace(attempt, contract=contract)
    seen = describe_seen(parts, workload.split.holdout_share)
    if earlier is not None and champion is not None:
        seen = seen.join(champion.seen)

    attempt.record("evaluate", 0.68)
    evaluation = _evaluate(attempt, parts, fitted, seen)
    attempt.record("export", 0.72)
    saved, onnx_path, parity, cost = _export(attempt, parts, fitted)
    evaluation |= {"parity": asdict(parity), "cost": asdict(cost), "provenance": provenance.to_document()}
    attempt.record("calibrate reference", 0.76)
    reference = build_profile(
        contract,
        parts,
        predict(fitted.model, parts.train.inputs),
        target_rate=workload.drift.target_rate,
        seed=int(parameters["seed"]),
    )
    attempt.record("log version", 0.82)
    files = VersionFiles(
        keras_path=folder / "model.keras",
        onnx_path=onnx_path,
        contract=contract.model_dump(mode="json"),
        reference=reference.model_dump(mode="json"),
        evaluation=evaluation,
    )
    connections.tracking.activate()
    source = log_version(
        run_id, files, input_shape=saved.input_shape, output_shape=saved.output_shape, name=workload.name
    )
    version = _register(attempt, source, evaluation)
    challenger = Candidate(version, contract, saved, seen)
    return _decide(attempt, columns, parts, challenger, champion, (parity, cost))


def _reserve_name(attempt: _Attempt, wanted: object) -> str:
    training = attempt.training
    with attempt.connections.engine.begin() as connection:
        hold_attempt(connection, training.id, training.attempt)
        name = None if wanted is None else str(wanted)
        return reserve_version_name(connection, training.model, training.id, name)


def _log_inputs(attempt: _Attempt, provenance: Provenance) -> None:
    tracking = attempt.connections.tracking
    tracking.log_parameters(attempt.run_id, dict(attempt.parameters))
    tracking.set_tags(attempt.run_id, {CODE_TAG: provenance.code_version})
    tracking.log_document(attempt.run_id, provenance.to_document(), "provenance.json")
    digest = provenance.snapshot_digest
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


def _evaluate(attempt: _Attempt, parts: Parts, fitted: Fitted, seen: Seen) -> dict[str, object]:
    tracking, contract, holdout = attempt.connections.tracking, attempt.contract, parts.holdout
    predictions = predict(fitted.model, holdout.inputs)
    baselines = attempt.kind.predict_baselines(contract, parts.train, holdout)
    seed = int(attempt.parameters["seed"])
    scorecard = build_scorecard(attempt.workload, contract, parts, predictions, baselines, seed=seed)
    tracking.log_metric_history(attempt.run_id, fitted.history)
    tracking.log_metrics(attempt.run_id, scorecard.to_metrics() | {"best_epoch": float(fitted.best_epoch)})
    plots = attempt.folder / "plots"
    plots.mkdir()
    write_plots(plots, contract, fitted.history, holdout, predictions, next(iter(baselines.items())), scorecard)
    tracking.log_artifacts(attempt.run_id, plots, "plots")
    evaluation = {
        **scorecard.to_document(),
        "unit": contract.column(contract.target).unit,
        "parts": {
            "train": parts.train.describe(),
            "validation": parts.validation.describe(),
            "holdout": holdout.describe(),
        },
        **seen.to_document(),
        "best_epoch": fitted.best_epoch,
        TARGET_MEANS: parts.train.targets.mean(axis=0).tolist() if contract.kind == "tabular" else None,
        "snapshot_digest": attempt.training.snapshot_digest,
        SAMPLE_ROWS: parts.holdout.inputs[-_SAMPLE_ROWS:].tolist(),
    }
    tracking.log_document(attempt.run_id, evaluation, "evaluation.json")
    return evaluation


def _export(attempt: _Attempt, parts: Parts, fitted: Fitted) -> tuple[SavedModel, Path | None, Parity, Cost]:
    """What serves the version, its ONNX file, how near it comes to the trained model, and what it costs.

    A model that ONNX cannot express is served from its Keras file, by TensorFlow; parity is then that file's.
    """
    keras_path = attempt.folder / "model.keras"
    fitted.model.save(keras_path)
    onnx_path: Path | None = attempt.folder / "model.onnx"
    try:
        export_onnx(fitted.model, attempt.folder / "model.onnx")
        saved: SavedModel = OnnxModel.load(attempt.folder / "model.onnx")
    except ExportFailed as error:
        # No runtime takes a model of another form, which raises the same error.
        get_row_shapes(fitted.model)
        logger.warning("the version is served by TensorFlow", extra={"reason": error.sentence})
        onnx_path, saved = None, KerasFile(keras_path)
    rows = parts.holdout.inputs[-_PARITY_ROWS:]
    spread = attempt.kind.measure_spread(parts.train.targets, predict(fitted.model, rows))
    parity = measure_parity(fitted.model, saved, rows, spread, align=attempt.kind.align_answers)
    return saved, onnx_path, parity, measure_cost(saved, onnx_path or keras_path, parts.holdout.inputs)


def _register(attempt: _Attempt, source: str, evaluation: Mapping[str, object]) -> int:
    training = attempt.training
    tags = {
        TRAINING_TAG: str(training.id),
        ATTEMPT_TAG: str(training.attempt),
        SNAPSHOT_TAG: str(training.snapshot_digest),
        CAUSE_TAG: training.cause,
        VERSION_NAME_TAG: attempt.contract.version_name,
        **({VARIANT_TAG: attempt.contract.variant} if attempt.contract.variant else {}),
    }
    with attempt.connections.engine.begin() as connection:
        hold_attempt(connection, training.id, training.attempt)
        registered = attempt.connections.registry.register(attempt.workload.name, attempt.run_id, source, tags)
        _delete_leftovers(connection, attempt, registered.version)
        settle_version_name(connection, training.id, registered.version)
        if attempt.contract.kind != "ranking":
            promised = build_evaluation(registered.version, evaluation, attempt.contract)
            if promised is not None:
                store_evaluation(connection, promised)
        record_step(
            connection,
            training.id,
            training.attempt,
            step="gate",
            progress=0.92,
            version=registered.version,
        )
    return registered.version


def _delete_leftovers(connection: Connection, attempt: _Attempt, registered: int) -> None:
    """Delete what else was registered for this training and never came to a verdict.

    By an earlier attempt, or by this one: a request whose answer was lost is sent again by MLflow's client.
    """
    model, training, registry = attempt.workload.name, attempt.training, attempt.connections.registry
    outcomes = load_outcomes(connection, model)
    for found in registry.load_versions(model):
        is_own = found.tags.get(TRAINING_TAG) == str(training.id)
        is_other = is_own and found.version != registered
        if is_other and found.stage == "None" and found.version not in outcomes:
            registry.delete_version(model, found.version)
            logger.warning("version without a verdict deleted", extra={"model": model, "version": found.version})


def _find_verdict(attempt: _Attempt) -> Verdict | None:
    if attempt.training.verdict_id is None:
        return None
    with attempt.connections.engine.connect() as connection:
        return find_verdict(connection, attempt.training.verdict_id)


def _decide(
    attempt: _Attempt,
    columns: Columns,
    parts: Parts,
    challenger: Candidate,
    champion: Candidate | None,
    measured: tuple[Parity, Cost],
) -> Verdict:
    workload, training, connections = attempt.workload, attempt.training, attempt.connections
    while True:
        speaks_against = champion is not None and _speaks_against(attempt, champion.version)
        evidence = gather_evidence(
            workload,
            columns,
            parts,
            challenger,
            champion,
            parity=measured[0],
            cost=measured[1],
            judged_at=datetime.now(UTC),
            speaks_against_champion=speaks_against,
        )
        verdict = judge(workload.name, workload.gate, evidence, seed=int(attempt.parameters["seed"]))
        if verdict.outcome == "promote" and workload.approver is not None:
            verdict = replace(verdict, approver=workload.approver.word)
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
    """Carry the verdict out, unless that was done already, and end the training; raises ChampionChanged.

    What was done once, and rolled back or rejected since, is not done again.
    """
    workload, training, connections = attempt.workload, attempt.training, attempt.connections

    def check(connection: Connection, production: int | None) -> None:
        hold_attempt(connection, training.id, training.attempt)
        if production not in (verdict.champion_version, verdict.version):
            raise ChampionChanged(workload.name, verdict.champion_version, production)

    with connections.engine.connect() as connection:
        is_done = has_finished_transition(connection, verdict_id)
    if verdict.outcome == "promote" and verdict.approver is not None and not is_done:
        ask_for_approval(
            connections.engine, connections.registry, verdict, verdict_id, actor=training.actor, guard=check
        )
    elif verdict.outcome == "promote" and not is_done:
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
