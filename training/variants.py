"""Variants: every set of features that a workload declares is fitted, compared on the validation part, and one goes on.

Where there are several each is a child run in MLflow, with its errors on the validation part and on the hold-out; the
hold-out's are for the record and choose nothing.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.contract import Contract
from core.errors import TrainingFailed
from core.tracking import Tracking
from training.fit import Fitted, fit_model, predict
from training.kinds import get_kind
from training.parts import Columns, Parts
from workloads.declaration import Workload

logger = logging.getLogger(__name__)

VariantReport = Callable[[str, float], None]
"""Called with a step in words and the share of the fitting that is done, 0 to 1."""


@dataclass(frozen=True)
class FittedVariant:
    """One variant: its contract with what was learnt, its parts, its model, and its errors on the validation part."""

    contract: Contract
    parts: Parts
    fitted: Fitted
    errors: Mapping[str, float]


@dataclass(frozen=True)
class Earlier:
    """The version whose weights are trained on: its contract, and the path of its Keras file."""

    contract: Contract
    keras_path: Path


def fit_variants(
    tracking: Tracking,
    workload: Workload,
    parameters: Mapping[str, int | float],
    columns: Columns,
    *,
    run_id: str,
    earlier: Earlier | None,
    report: VariantReport,
) -> FittedVariant:
    """Fit every variant and return the one with the smallest of the gate's metric on the validation part.

    With `earlier` its variant alone is trained on, with its vocabularies. Raises SnapshotRejected where there are too
    few rows, TrainingFailed.
    """
    names = [earlier.contract.variant] if earlier else [*workload.variants] or [""]
    fitted: list[FittedVariant] = []
    for number, name in enumerate(names):
        start = number / len(names)

        def show(epoch: int, most: int, name: str = name, start: float = start) -> None:
            step = f"fit {name}".rstrip()
            report(f"{step}, epoch {epoch} of at most {most}", start + epoch / most / len(names))

        variant = fit_variant(workload, parameters, columns, name, earlier, show)
        if len(names) > 1:
            _log_variant(tracking, workload, parameters, run_id, variant)
        fitted.append(variant)
    metric = workload.gate.metric
    chosen = min(fitted, key=lambda one: one.errors[metric])
    logger.info("variant chosen", extra={"variant": chosen.contract.variant, metric: chosen.errors[metric]})
    return chosen


def fit_variant(
    workload: Workload,
    parameters: Mapping[str, int | float],
    columns: Columns,
    name: str,
    earlier: Earlier | None,
    report: Callable[[int, int], None],
) -> FittedVariant:
    """Fit the variant of that name alone; `report` is called after each epoch."""
    declared = workload.build_contract(parameters, name)
    kind = get_kind(declared)
    contract = kind.learn_contract(declared, columns, workload.split)
    if earlier is not None:
        difference = find_difference(declared, earlier.contract)
        if difference is not None:
            raise TrainingFailed(declared.model, "continue an earlier version", difference)
        # Its weights belong to its codes and its scale.
        contract = contract.model_copy(
            update={
                field: getattr(earlier.contract, field) for field in ("vocabularies", "target_mean", "target_deviation")
            }
        )
    parts = kind.split_columns(contract, columns, workload.split)
    fitted = fit_model(
        workload,
        contract,
        parameters,
        parts.train,
        parts.validation,
        start_from=None if earlier is None else earlier.keras_path,
        report=report,
    )
    predictions = predict(fitted.model, parts.validation.inputs)
    return FittedVariant(contract, parts, fitted, kind.measure(contract, parts.validation.targets, predictions))


def find_difference(declared: Contract, earlier: Contract) -> str | None:
    """In words, why the earlier version's weights cannot be trained on; None if they can.

    Weights belong to the features and outputs in their order, which the shapes alone do not show.
    """
    for name in ("features", "task", "classes"):
        was, now = getattr(earlier, name), getattr(declared, name)
        if was != now:
            return f"its {name} were {was} and are {now} now; train anew"
    return None


def _log_variant(
    tracking: Tracking,
    workload: Workload,
    parameters: Mapping[str, int | float],
    run_id: str,
    variant: FittedVariant,
) -> None:
    contract, holdout = variant.contract, variant.parts.holdout
    predictions = predict(variant.fitted.model, holdout.inputs)
    measured = get_kind(contract).measure(contract, holdout.targets, predictions)
    errors = {f"validation_{name}": value for name, value in variant.errors.items()}
    errors |= {f"holdout_{name}": value for name, value in measured.items()}
    tags = {"mlflow.parentRunId": run_id, "millrace.variant": contract.variant}
    child = tracking.start_run(workload.name, None, tags)
    tracking.log_parameters(child, {**parameters, "features": ", ".join(contract.features)})
    tracking.log_metric_history(child, variant.fitted.history)
    tracking.log_metrics(child, errors)
    tracking.finish_run(child, "FINISHED")
    tracking.log_metrics(run_id, {f"{contract.variant}_{name}": value for name, value in errors.items()})
