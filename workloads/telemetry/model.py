"""The Keras model of workload `telemetry`."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from core.contract import Contract

_LARGEST_SCORE = 30.0


def build_model(contract: Contract, parameters: Mapping[str, int | float], inputs: NDArray[np.float32]) -> keras.Model:
    """A compiled convolutional network over readings that predicts the change from the last one.

    Takes `(batch, steps, 1)` readings and answers `(batch, 1)`, the next reading, both in the sensor's unit. All
    scaling is in the graph, by the standard deviation of the differences between readings of `inputs`
    `(windows, steps, 1)`, the training part. What the network sees is each reading's distance from the last. A linear
    layer over all of them, an autoregression, stands beside the convolutions; both begin at zero, where the prediction
    is the last reading: persistence is the network's zero. The loss is the mean absolute error.
    """
    deviation = float(np.diff(inputs.astype(np.float64), axis=1).std()) or 1.0

    readings = keras.Input(contract.input_shape, dtype="float32", name="inputs")
    last = readings[:, -1, :]
    distances = ops.clip((readings - readings[:, -1:, :]) / deviation, -_LARGEST_SCORE, _LARGEST_SCORE)
    hidden = distances
    for dilation in (1, 4):
        hidden = layers.Conv1D(
            int(parameters["filters"]),
            int(parameters["kernel_size"]),
            padding="causal",
            dilation_rate=dilation,
            activation="relu",
        )(hidden)
    linear = layers.Dense(1, kernel_initializer="zeros", name="linear")(layers.Flatten()(distances))
    bent = layers.Dense(1, kernel_initializer="zeros", name="score")(hidden[:, -1, :])
    outputs = last + deviation * (linear + bent)

    model = keras.Model(readings, outputs, name=contract.model)
    optimizer = keras.optimizers.Adam(float(parameters["learning_rate"]), clipnorm=1.0)
    model.compile(optimizer=optimizer, loss="mean_absolute_error")
    return model
