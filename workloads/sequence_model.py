"""The Keras model that sequence workloads start from: one that reads any contract of their kind."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from core.contract import Contract
from core.errors import DeclarationRejected

_LARGEST_SCORE = 10.0


def build_model(contract: Contract, parameters: Mapping[str, int | float], inputs: NDArray[np.float32]) -> keras.Model:
    """A compiled LSTM that predicts how far the target moves from its last value.

    Takes `(batch, steps, features)` in raw units and answers `(batch, horizon)` in the target's unit. Means and
    deviations are those of `inputs` `(windows, steps, features)`, the training part. The last layer begins at zero,
    where the prediction is the last value: persistence. The loss is the mean absolute error. Raises
    DeclarationRejected where the target is none of the features.
    """
    if contract.target not in contract.features:
        raise DeclarationRejected(contract.model, f"this model needs the target {contract.target!r} among the features")
    place = contract.features.index(contract.target)
    values = inputs.astype(np.float64)
    variance = values.var(axis=(0, 1))
    deviation = float(np.diff(values[:, :, place], axis=1).std()) or 1.0

    windows = keras.Input(contract.input_shape, dtype="float32", name="inputs")
    hidden = layers.Normalization(
        mean=values.mean(axis=(0, 1)), variance=np.where(variance > 0, variance, 1.0), name="scale"
    )(windows)
    hidden = ops.clip(hidden, -_LARGEST_SCORE, _LARGEST_SCORE)
    depth = int(parameters["num_layers"])
    for level in range(depth):
        hidden = layers.LSTM(int(parameters["hidden_size"]), return_sequences=level < depth - 1)(hidden)
        hidden = layers.Dropout(float(parameters["dropout"]))(hidden)
    score = layers.Dense(contract.outputs, kernel_initializer="zeros", name="score")(hidden)
    outputs = windows[:, -1, place : place + 1] + deviation * score

    model = keras.Model(windows, outputs, name=contract.model)
    model.compile(optimizer=keras.optimizers.Adam(float(parameters["learning_rate"]), clipnorm=1.0), loss="mae")
    return model
