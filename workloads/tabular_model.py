"""The Keras model that tabular workloads start from: one that reads any contract of their kind."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from core.contract import Contract

MOST_ONE_HOT = 32
"""A column with more categories than this is embedded."""

_LARGEST_SCORE = 10.0


def build_model(contract: Contract, parameters: Mapping[str, int | float], inputs: NDArray[np.float32]) -> keras.Model:
    """A compiled network of dense layers beside a linear one, which it adds up.

    Takes `(batch, features)`: numbers in raw units, NaN where the contract imputes them, and codes of categories.
    Answers `(batch, outputs)`: the target in its unit, the probability of the second of two classes, or one
    probability a class. Means, medians and deviations are those of `inputs` `(rows, features)`, the training part.
    The loss is the squared error, or the logarithmic loss.
    """
    rows = keras.Input(contract.input_shape, dtype="float32", name="inputs")
    encoded = _encode(contract, rows, inputs)
    hidden = encoded
    for _ in range(int(parameters["num_layers"])):
        hidden = layers.Dense(int(parameters["hidden_size"]), activation="relu")(hidden)
        hidden = layers.Dropout(float(parameters["dropout"]))(hidden)
    score = layers.Dense(contract.outputs, name="deep")(hidden) + layers.Dense(contract.outputs, name="wide")(encoded)
    if contract.task == "regression":
        outputs, loss = score * (contract.target_deviation or 1.0) + (contract.target_mean or 0.0), "mse"
    elif contract.task == "binary":
        outputs, loss = ops.sigmoid(score), "binary_crossentropy"
    else:
        outputs, loss = ops.softmax(score), "categorical_crossentropy"
    model = keras.Model(rows, outputs, name=contract.model)
    optimizer = keras.optimizers.Adam(float(parameters["learning_rate"]), clipnorm=_find_clip(contract))
    model.compile(optimizer=optimizer, loss=loss)
    return model


def _find_clip(contract: Contract) -> float:
    """The largest norm of a gradient, in the loss's unit: that of the squared error is the target's squared."""
    return max(contract.target_deviation or 1.0, 1e-6) ** 2


def _encode(contract: Contract, rows: keras.KerasTensor, inputs: NDArray[np.float32]) -> keras.KerasTensor:
    """`(batch, features)` raw -> `(batch, encoded)`: numbers of mean 0 and deviation 1, categories as vectors."""
    is_text = [contract.column(name).dtype == "text" for name in contract.features]
    encoded = [
        _encode_category(rows[:, place], len(contract.vocabularies[name]))
        for place, name in enumerate(contract.features)
        if is_text[place]
    ]
    numbers = [place for place, text in enumerate(is_text) if not text]
    if numbers:
        encoded.append(_encode_numbers(contract, ops.take(rows, numbers, axis=1), inputs[:, numbers], numbers))
    return encoded[0] if len(encoded) == 1 else layers.Concatenate()(encoded)


def _encode_category(codes: keras.KerasTensor, size: int) -> keras.KerasTensor:
    """Code 0, what is absent or unknown, becomes the zero vector; what is no code at all does too."""
    codes = ops.cast(ops.where((codes >= 0) & (codes <= size), codes, 0.0), "int32")
    if size <= MOST_ONE_HOT:
        return ops.one_hot(codes, size + 1)[:, 1:] if size else ops.one_hot(codes, 1) * 0.0
    width = min(16, round(size**0.5))
    return layers.Embedding(size + 1, width, embeddings_initializer="zeros")(codes)


def _encode_numbers(
    contract: Contract, numbers: keras.KerasTensor, inputs: NDArray[np.float32], places: list[int]
) -> keras.KerasTensor:
    values = inputs.astype(np.float64)
    columns = [contract.column(contract.features[place]) for place in places]
    fills = np.array([_find_fill(column.imputation, values[:, i]) for i, column in enumerate(columns)])
    if any(column.imputation for column in columns):
        numbers = ops.where(ops.isnan(numbers), ops.convert_to_tensor(fills, dtype="float32"), numbers)
    filled = np.where(np.isnan(values), fills, values)
    variance = filled.var(axis=0)
    scaled = layers.Normalization(
        mean=filled.mean(axis=0), variance=np.where(variance > 0, variance, 1.0), name="scale"
    )(numbers)
    return ops.clip(scaled, -_LARGEST_SCORE, _LARGEST_SCORE)


def _find_fill(imputation: str | None, values: NDArray[np.float64]) -> float:
    if np.isnan(values).all():
        return 0.0
    return float(np.nanmedian(values) if imputation == "median" else np.nanmean(values))
