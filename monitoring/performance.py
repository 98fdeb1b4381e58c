"""Realised performance judged: against what the version's own evaluation promised, and against doing nothing."""

import uuid
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Connection

from core.evaluations import Evaluation, find_evaluation
from core.findings import Finding, Outcome, load_findings, store_finding
from core.performance import Realised, count_joined, load_realised, measure_realised
from core.policies import DriftPolicy
from core.trainings import request_training
from monitoring import policy
from monitoring.alerting import note_finding

__all__ = [
    "MINIMUM_ROWS",
    "SUBJECT",
    "Judgement",
    "Realised",
    "check_performance",
    "decide_performance",
    "judge_performance",
    "load_realised",
]

SUBJECT = "performance"
MINIMUM_ROWS = 30
"""Outcomes below which nothing is said: intervals of fewer rows, in blocks, are too narrow."""
WINDOWS = (timedelta(days=7), timedelta(days=30), timedelta(days=90))
"""A week, a month, a quarter: the shortest with enough outcomes is judged."""

Judgement = Literal["better", "same", "worse", "unknown"]

_HISTORY = 50
_EVER = "outcomes_ever"
_JUDGEMENT = "judgement"


@dataclass(frozen=True)
class PastJudgement:
    """What an earlier check of the version said; `ever` is how many outcomes it had had by then."""

    found_at: datetime
    outcome: Outcome
    ever: int


def judge_performance(realised: Realised, evaluation: Evaluation | None, minimum_rows: int = MINIMUM_ROWS) -> Judgement:
    """Whether the realised error is another one than the evaluation's: their intervals lie apart.

    Of a series, persistence says how hard the rows were to foresee: what it finds harder by the same share is no fault
    of the version, so the error has to be worse (or better) in units of persistence's error too. The baseline of a
    table is a constant, which the same change of the world makes worse; it excuses nothing.
    """
    if evaluation is None or realised.rows < minimum_rows:
        return "unknown"
    if realised.error is None or realised.lower is None or realised.upper is None:
        return "unknown"
    if evaluation.lower is None or evaluation.upper is None:
        return "unknown"
    share = _compare_shares(realised, evaluation)
    if realised.lower > evaluation.upper and (share is None or share > 1.0):
        return "worse"
    if realised.upper < evaluation.lower and (share is None or share < 1.0):
        return "better"
    return "same"


def _compare_shares(realised: Realised, evaluation: Evaluation) -> float | None:
    """By which factor the error in units of persistence's has grown; None where that is no measure."""
    if evaluation.contract.kind != "sequence" or not realised.baseline_error or not evaluation.baseline_error:
        return None
    if realised.error is None or not evaluation.error:
        return None
    return (realised.error / realised.baseline_error) / (evaluation.error / evaluation.baseline_error)


def decide_performance(
    judgement: Judgement, history: list[PastJudgement], limits: DriftPolicy, now: datetime, *, ever: int
) -> tuple[Outcome, tuple[str, ...]]:
    """What follows from a judgement: worse asks for a training, since its interval is its confirmation.

    Not again within the policy's cooldown, and not before MINIMUM_ROWS more outcomes came: the gate has seen the same.
    """
    if judgement != "worse":
        return "fine", ()
    asked = max((past for past in history if past.outcome == "retrain"), key=lambda past: past.found_at, default=None)
    if asked is not None and now - asked.found_at < timedelta(hours=limits.cooldown_h):
        return "alert", (f"a retraining was asked for at {asked.found_at:%Y-%m-%d %H:%M} UTC, within the cooldown",)
    if asked is not None and ever - asked.ever < MINIMUM_ROWS:
        return "alert", (f"{ever - asked.ever} outcomes came since the last retraining, {MINIMUM_ROWS} are asked for",)
    return "retrain", ()


def check_performance(
    connection: Connection, model: str, version: int, limits: DriftPolicy, now: datetime, *, actor: str = "platform"
) -> Finding | None:
    """Judge the version's outcomes up to `now` and store the finding, with the training that it asks for.

    None, and nothing stored, where the version has no outcome or its evaluation is not kept. All of it is in the
    caller's transaction.
    """
    evaluation = find_evaluation(connection, model, version)
    if evaluation is None:
        return None
    ever = count_joined(connection, model, version)
    if not ever:
        return None
    from_at, realised = _find_window(connection, evaluation, now)
    judgement = judge_performance(realised, evaluation)
    past = load_findings(connection, model, subject=SUBJECT, version=version, limit=_HISTORY)
    history = [PastJudgement(one.found_at, one.outcome, int(str(one.measure[_EVER]))) for one in past]
    outcome, reasons = decide_performance(judgement, history, limits, now, ever=ever)
    finding_id, training_id = uuid.uuid4(), None
    if outcome == "retrain":
        training, is_new = request_training(connection, model, cause="finding", actor=actor, finding_id=finding_id)
        training_id = training.id
        if not is_new:
            reasons = (*reasons, f"training met: training {training.id} is {training.state} already")
    finding = Finding(
        id=finding_id,
        model=model,
        version=version,
        subject=SUBJECT,
        outcome=outcome,
        is_drifted=False,
        reasons=[_word(judgement, realised, evaluation, from_at), *reasons],
        statistic=realised.error,
        threshold=evaluation.upper,
        rows=realised.rows,
        measure={**asdict(realised), _JUDGEMENT: judgement, _EVER: ever},
        report_uri=None,
        training_id=training_id,
        window_from_at=from_at,
        window_to_at=now,
        found_at=now,
    )
    store_finding(connection, finding)
    note_finding(connection, finding, is_judged=judgement != "unknown")
    return finding


def find_realised(connection: Connection, model: str, version: int, now: datetime) -> policy.Realised | None:
    """What outcomes say of the version, as a check's decision takes it; None where they say nothing yet."""
    evaluation = find_evaluation(connection, model, version)
    if evaluation is None or not count_joined(connection, model, version):
        return None
    _, realised = _find_window(connection, evaluation, now)
    judgement = judge_performance(realised, evaluation)
    values = (realised.error, evaluation.error, realised.lower, realised.upper)
    if judgement == "unknown" or any(value is None for value in values):
        return None
    error, expected, low, high = (float(value or 0.0) for value in values)
    return policy.Realised(judgement, realised.metric, realised.rows, error, expected, low, high)


def _find_window(connection: Connection, evaluation: Evaluation, now: datetime) -> tuple[datetime, Realised]:
    """Where the judged window begins, and the realised error in it."""
    for window in WINDOWS[:-1]:
        realised = measure_realised(connection, evaluation, now - window, now)
        if realised.rows >= MINIMUM_ROWS:
            return now - window, realised
    return now - WINDOWS[-1], measure_realised(connection, evaluation, now - WINDOWS[-1], now)


def _word(judgement: Judgement, realised: Realised, evaluation: Evaluation, from_at: datetime) -> str:
    since = f"outcomes since {from_at:%Y-%m-%d}"
    if judgement == "unknown":
        return f"{realised.rows} {since} are too few to judge, {MINIMUM_ROWS} are needed"
    words = {"worse": "worse than", "better": "better than", "same": "not told apart from"}
    baseline = ""
    if realised.baseline_error is not None:
        baseline = f"; {evaluation.baseline_name} {realised.baseline_error:.6g} on the same rows"
    return (
        f"realised {realised.metric} {realised.error:.6g} ({realised.lower:.6g} to {realised.upper:.6g}) on "
        f"{realised.rows} {since}: {words[judgement]} the {evaluation.error:.6g} ({evaluation.lower:.6g} to "
        f"{evaluation.upper:.6g}) of its evaluation{baseline}"
    )
