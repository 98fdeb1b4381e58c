"""Fitting a workload's Keras model, reproducibly.

Seeds are fixed and TensorFlow's operations deterministic: the same snapshot, parameters and versions of the libraries
give the same weights. Source: Keras, "Reproducibility in Keras models".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from core.contract import Contract
from core.errors import TrainingFailed
from training.kinds import get_kind
from training.parts import Part
from workloads.declaration import Workload

ProgressReport = Callable[[int, int], None]
"""Called after each epoch with its number from 1 and the most there can be."""
EpochWatch = Callable[[int, Callable[[NDArray[np.float32]], NDArray[np.float64]]], None]
"""Called after each epoch with its number from 1 and what predicts as the model then does; what it raises ends the
fit."""


@dataclass(frozen=True)
class Fitted:
    """A model in its best state, and the history per epoch by metric name (`loss`, `val_loss`)."""

    model: keras.Model
    history: Mapping[str, list[float]]
    best_epoch: int


def make_deterministic(seed: int) -> None:
    """Fix every seed of this process and make TensorFlow's operations deterministic."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def fit_model(
    workload: Workload,
    contract: Contract,
    parameters: Mapping[str, int | float],
    train: Part,
    validation: Part,
    *,
    start_from: Path | None = None,
    report: ProgressReport | None = None,
    watch: EpochWatch | None = None,
) -> Fitted:
    """Fit on `train`, stop when the loss on `validation` no longer falls, and restore the best state.

    With `start_from`, the `.keras` file of an earlier version, that model is trained on. Raises TrainingFailed when
    that version takes another input, or when the loss is not finite.
    """
    kind = get_kind(contract)
    if start_from is not None and not kind.can_continue:
        raise TrainingFailed(
            workload.name, "continue an earlier version", f"a {contract.kind} is trained anew from all rows"
        )
    make_deterministic(int(parameters["seed"]))
    model = workload.load_function("model")(contract, parameters, train.inputs)
    if start_from is not None:
        model = _load_to_continue(workload, model, start_from)
    # It shares the layers that are fitted.
    served = kind.finish_model(contract, model, train)
    epochs = int(parameters["max_epochs"])
    stopping = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=int(parameters["patience"]), restore_best_weights=True
    )
    callbacks = [stopping, keras.callbacks.TerminateOnNaN()]
    if report is not None:
        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _logs: report(epoch + 1, epochs)))
    if watch is not None:
        answer = partial(predict, served)
        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _logs: watch(epoch + 1, answer)))
    record = model.fit(
        train.inputs,
        train.targets.astype(np.float32),
        validation_data=(validation.inputs, validation.targets.astype(np.float32)),
        epochs=epochs,
        batch_size=int(parameters["batch_size"]),
        callbacks=callbacks,
        verbose=0,
    )
    history = {name: [float(value) for value in values] for name, values in record.history.items()}
    losses = np.asarray(history.get("val_loss", []), dtype=np.float64)
    if not len(losses) or not np.isfinite(losses).all():
        raise TrainingFailed(workload.name, "fit", "the validation loss is not finite; lower learning_rate")
    return Fitted(served, history, int(losses.argmin()) + 1)


def predict(model: keras.Model, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """The model's outputs for each row: `(rows, …)` -> `(rows, outputs)`."""
    return np.asarray(model.predict(inputs, verbose=0, batch_size=1024), dtype=np.float64)


def load_model(path: Path) -> keras.Model:
    """The model of a `.keras` file, to predict with."""
    return keras.models.load_model(path, compile=False)


def _load_to_continue(workload: Workload, anew: keras.Model, path: Path) -> keras.Model:
    """The earlier model, compiled as one of these parameters is; its scaling stays what its weights were fitted to."""
    earlier = load_model(path)
    shapes = [weight.shape for weight in anew.weights]
    if earlier.input_shape != anew.input_shape or [weight.shape for weight in earlier.weights] != shapes:
        raise TrainingFailed(
            workload.name,
            "continue an earlier version",
            f"it takes {earlier.input_shape} and the parameters ask for {anew.input_shape} with other layers; "
            "train anew or give the earlier parameters",
        )
    optimizer = anew.optimizer.__class__.from_config(anew.optimizer.get_config())
    earlier.compile(optimizer=optimizer, loss=anew.loss)
    return earlier
