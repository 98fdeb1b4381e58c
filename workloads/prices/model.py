"""The Keras model of workload `prices`."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from core.contract import Contract

_LARGEST_SCORE = 8.0


def build_model(contract: Contract, parameters: Mapping[str, int | float], inputs: NDArray[np.float32]) -> keras.Model:
    """A compiled LSTM over closes that predicts the change from the last one.

    Takes `(batch, steps, 1)` closes and answers `(batch, 1)`, the next close, both in the price's unit. All scaling is
    in the graph, with mean and standard deviation of the log returns of `inputs` `(windows, steps, 1)`, the training
    part. The last layer begins at zero, where the prediction is the last close: persistence is the network's zero.
    The loss is the mean absolute percentage error, since prices of different years differ by orders of magnitude.
    """
    returns = np.diff(np.log(inputs.astype(np.float64)), axis=1)
    deviation = float(returns.std()) or 1.0

    closes = keras.Input(contract.input_shape, dtype="float32", name="inputs")
    last = closes[:, -1, :]
    change = ops.log(closes[:, 1:, :] / closes[:, :-1, :])
    hidden = layers.Normalization(mean=float(returns.mean()), variance=deviation**2, name="scale")(change)
    hidden = ops.clip(hidden, -_LARGEST_SCORE, _LARGEST_SCORE)
    depth = int(parameters["num_layers"])
    for level in range(depth):
        hidden = layers.LSTM(int(parameters["hidden_size"]), return_sequences=level < depth - 1)(hidden)
        hidden = layers.Dropout(float(parameters["dropout"]))(hidden)
    score = layers.Dense(1, kernel_initializer="zeros", name="score")(hidden)
    outputs = last * ops.exp(deviation * score)

    model = keras.Model(closes, outputs, name=contract.model)
    optimizer = keras.optimizers.Adam(float(parameters["learning_rate"]), clipnorm=1.0)
    model.compile(optimizer=optimizer, loss="mean_absolute_percentage_error")
    return model
