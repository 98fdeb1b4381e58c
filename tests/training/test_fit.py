"""Fitting: reproducible, stopped in time, in its best state, and never silently broken."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import TrainingFailed
from tests.training.series import draw_parts
from training.fit import Fitted, fit_model, predict
from training.parts import Part
from workloads.prices.workload import WORKLOAD

# Keras's TensorFlow variables do not know NumPy 2's `copy` keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SMALL = WORKLOAD.resolve_parameters(
    {"sequence_length": 8, "hidden_size": 4, "max_epochs": 3, "learning_rate": 0.01, "batch_size": 32}
)
REPOSITORY = Path(__file__).parent.parent.parent

_PROGRAM = """
import hashlib
from tests.training.series import draw_parts
from tests.training.test_fit import SMALL
from training.fit import fit_model
from workloads.prices.workload import WORKLOAD

parts = draw_parts(WORKLOAD, SMALL)
fitted = fit_model(WORKLOAD, WORKLOAD.build_contract(SMALL), SMALL, parts.train, parts.validation)
print(hashlib.sha256(b"".join(weight.tobytes() for weight in fitted.model.get_weights())).hexdigest())
"""


def fit(train: Part, validation: Part, start_from: Path | None = None, **changed: float) -> Fitted:
    parameters = {**SMALL, **changed}
    return fit_model(
        WORKLOAD, WORKLOAD.build_contract(parameters), parameters, train, validation, start_from=start_from
    )


def measure_loss(fitted: Fitted, part: Part) -> float:
    """The mean absolute percentage error, as the workload's model is fitted to."""
    return float(100 * np.mean(np.abs(predict(fitted.model, part.inputs) - part.targets) / part.targets))


def test_same_seed_gives_the_same_bits_in_another_process() -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", _PROGRAM], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    digests = [child.communicate(timeout=300)[0].strip() for child in children]
    assert len(digests[0]) == 64
    assert digests[0] == digests[1]


def test_another_seed_gives_other_weights() -> None:
    parts = draw_parts(WORKLOAD, SMALL)
    one, other = (fit(parts.train, parts.validation, max_epochs=1, seed=seed) for seed in (1, 2))
    assert not np.array_equal(one.model.get_weights()[0], other.model.get_weights()[0])


@pytest.mark.parametrize("patience", [2, 100])
def test_model_comes_back_in_its_best_state_and_stops_when_it_gets_no_better(patience: int) -> None:
    parts = draw_parts(WORKLOAD, SMALL)
    reports: list[tuple[int, int]] = []
    parameters = {**SMALL, "max_epochs": 12, "patience": patience, "learning_rate": 0.05}
    fitted = fit_model(
        WORKLOAD,
        WORKLOAD.build_contract(parameters),
        parameters,
        parts.train,
        parts.validation,
        report=lambda epoch, most: reports.append((epoch, most)),
    )
    losses = fitted.history["val_loss"]
    best = losses.index(min(losses)) + 1
    assert fitted.best_epoch == best
    assert best < len(losses)
    assert len(losses) == min(12, best + patience)
    assert measure_loss(fitted, parts.validation) == pytest.approx(min(losses), rel=1e-4)
    assert reports == [(epoch, 12) for epoch in range(1, len(losses) + 1)]


@pytest.mark.parametrize("poisoned", ["train", "validation"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_fails_the_training(poisoned: str, value: float) -> None:
    parts = draw_parts(WORKLOAD, SMALL)
    part = getattr(parts, poisoned)
    targets = part.targets.copy()
    targets[3] = value
    broken = replace(parts, **{poisoned: replace(part, targets=targets)})
    with pytest.raises(TrainingFailed, match="the validation loss is not finite; lower learning_rate"):
        fit(broken.train, broken.validation)


def test_fit_continues_the_weights_of_an_earlier_version(tmp_path: Path) -> None:
    parts = draw_parts(WORKLOAD, SMALL)
    earlier = fit(parts.train, parts.validation, max_epochs=4)
    earlier.model.save(tmp_path / "earlier.keras")
    # Steps too small to change a prediction.
    continued = fit(parts.train, parts.validation, tmp_path / "earlier.keras", max_epochs=1, learning_rate=1e-9)
    assert continued.history["val_loss"][0] == pytest.approx(measure_loss(earlier, parts.validation), rel=1e-5)
    anew = fit(parts.train, parts.validation, max_epochs=1, learning_rate=1e-9)
    assert anew.history["val_loss"][0] != pytest.approx(measure_loss(earlier, parts.validation), rel=1e-5)


@pytest.mark.parametrize("changed", [{"sequence_length": 9}, {"hidden_size": 5}, {"num_layers": 2}])
def test_fit_refuses_to_continue_a_version_of_another_shape(changed: dict[str, int], tmp_path: Path) -> None:
    parts = draw_parts(WORKLOAD, SMALL)
    fit(parts.train, parts.validation, max_epochs=1).model.save(tmp_path / "earlier.keras")
    others = draw_parts(WORKLOAD, {**SMALL, **changed})
    with pytest.raises(TrainingFailed, match=r"continue an earlier version: it takes \(None, 8, 1\) and .*train anew"):
        fit(others.train, others.validation, tmp_path / "earlier.keras", **changed)
