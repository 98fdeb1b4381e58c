"""Export and parity, on small models of every kind that the workloads use."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from numpy.typing import NDArray

from core.errors import ExportFailed, ParameterRejected, ParityFailed
from core.inference import OnnxModel
from training.export import export_onnx, measure_parity

STEPS, FEATURES, ROWS = 12, 3, 600
TARGET_STD = 1.0

Rows = NDArray[np.float32]


def draw_rows(*shape: int) -> Rows:
    """Rows far from zero mean and unit spread, as raw units are."""
    return np.random.default_rng(3).normal(100.0, 20.0, (ROWS, *shape)).astype(np.float32)


def draw_codes() -> Rows:
    return np.random.default_rng(3).integers(0, 9, (ROWS, 4)).astype(np.float32)


def build_normalization(rows: Rows) -> layers.Normalization:
    normalization = layers.Normalization()
    normalization.adapt(rows)
    return normalization


def build_stacked_lstm() -> tuple[keras.Model, Rows]:
    rows = draw_rows(STEPS, FEATURES)
    inputs = keras.Input((STEPS, FEATURES))
    hidden = layers.LSTM(8, return_sequences=True)(build_normalization(rows)(inputs))
    change = layers.Dense(1)(layers.LSTM(6)(hidden))
    # As `prices` does: the change from the last close, in raw units.
    return keras.Model(inputs, layers.Add()([inputs[:, -1, :1], layers.Rescaling(20.0)(change)])), rows


def build_bidirectional_lstm() -> tuple[keras.Model, Rows]:
    rows = draw_rows(STEPS, FEATURES)
    stack = [build_normalization(rows), layers.Bidirectional(layers.LSTM(6)), layers.Dense(2)]
    return keras.Sequential([keras.Input((STEPS, FEATURES)), *stack]), rows


def build_convolution() -> tuple[keras.Model, Rows]:
    rows = draw_rows(STEPS, FEATURES)
    model = keras.Sequential(
        [
            keras.Input((STEPS, FEATURES)),
            build_normalization(rows),
            layers.Conv1D(8, 3, padding="causal", activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1),
        ]
    )
    # Moving statistics other than their initial 0 and 1, so that a lost batch normalization shows.
    model.compile(loss="mse")
    model.train_on_batch(rows[:64], np.ones((64, 1), np.float32))
    return model, rows


def build_embedding() -> tuple[keras.Model, Rows]:
    inputs = keras.Input((4,))
    codes = keras.ops.cast(inputs, "int32")
    scores = layers.Dense(1)(layers.Flatten()(layers.Embedding(9, 5)(codes)))
    return keras.Model(inputs, scores), draw_codes()


def build_dense() -> tuple[keras.Model, Rows]:
    rows = draw_rows(5)
    stack = [build_normalization(rows), layers.Dense(8, activation="relu"), layers.Dense(1, activation="sigmoid")]
    return keras.Sequential([keras.Input((5,)), *stack]), rows


BUILDERS = [build_stacked_lstm, build_bidirectional_lstm, build_convolution, build_embedding, build_dense]


@pytest.fixture(scope="module")
def dense() -> tuple[keras.Model, Rows]:
    keras.utils.set_random_seed(5)
    return build_dense()


def export_and_load(model: keras.Model, folder: Path) -> OnnxModel:
    export_onnx(model, folder / "model.onnx")
    return OnnxModel.load(folder / "model.onnx")


@pytest.mark.parametrize("build", BUILDERS)
def test_export_computes_what_keras_computes(build: Callable[[], tuple[keras.Model, Rows]], tmp_path: Path) -> None:
    keras.utils.set_random_seed(5)
    model, rows = build()
    onnx_model = export_and_load(model, tmp_path)
    parity = measure_parity(model, onnx_model, rows, TARGET_STD)
    assert parity.difference <= parity.allowed
    assert parity.batch_sizes == (1, 7, 64, 512)
    np.testing.assert_allclose(
        onnx_model.predict(rows), model.predict(rows, verbose=0), rtol=1e-5, atol=1e-5 * TARGET_STD
    )
    assert onnx_model.input_shape == model.input_shape[1:]
    assert onnx_model.output_shape == model.output_shape[1:]


@pytest.mark.parametrize("build", BUILDERS)
def test_export_has_one_named_input_and_keeps_weights_inside(
    build: Callable[[], tuple[keras.Model, Rows]], tmp_path: Path
) -> None:
    export_onnx(build()[0], tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [value.name for value in graph.input] == ["inputs"]
    assert [value.name for value in graph.output] == ["outputs"]
    for value in (graph.input[0], graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize(("build", "count"), [(build_stacked_lstm, 2), (build_bidirectional_lstm, 1)])
def test_export_keeps_lstm_layers_as_lstm_nodes(
    build: Callable[[], tuple[keras.Model, Rows]], count: int, tmp_path: Path
) -> None:
    export_onnx(build()[0], tmp_path / "model.onnx")
    operations = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operations.count("LSTM") == count
    assert "Loop" not in operations


def test_export_refuses_an_operation_that_onnx_lacks(tmp_path: Path) -> None:
    import tensorflow as tf

    class IncompleteBeta(layers.Layer):  # type: ignore[misc]  # Keras carries no types.
        def call(self, inputs: object) -> object:
            share = tf.sigmoid(inputs)
            return tf.math.betainc(share + 1.0, share + 1.0, share)

    model = keras.Sequential([keras.Input((5,)), IncompleteBeta(), layers.Dense(1)])
    with pytest.raises(ExportFailed, match="Betainc"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_export_refuses_two_inputs_a_free_length_and_integers(tmp_path: Path) -> None:
    first, second = keras.Input((2,)), keras.Input((2,))
    two_inputs = keras.Model([first, second], layers.Add()([first, second]))
    free_length = keras.Sequential([keras.Input((None, 2)), layers.LSTM(2)])
    codes = keras.Sequential([keras.Input((2,), dtype="int32"), layers.Embedding(3, 2)])
    for model, fault in ((two_inputs, "2 input"), (free_length, "only the batch may vary"), (codes, "int32")):
        with pytest.raises(ExportFailed, match=fault):
            export_onnx(model, tmp_path / "model.onnx")


def test_parity_fails_for_a_file_with_other_weights(dense: tuple[keras.Model, Rows], tmp_path: Path) -> None:
    model, rows = dense
    export_onnx(model, tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    largest = max(proto.graph.initializer, key=lambda tensor: onnx.numpy_helper.to_array(tensor).size)
    weights = onnx.numpy_helper.to_array(largest) * np.float32(1.001)
    largest.CopyFrom(onnx.numpy_helper.from_array(weights, largest.name))
    onnx.save_model(proto, tmp_path / "tampered.onnx")
    with pytest.raises(ParityFailed):
        measure_parity(model, OnnxModel.load(tmp_path / "tampered.onnx"), rows, TARGET_STD)


def test_parity_allows_by_the_spread_of_the_target(tmp_path: Path) -> None:
    """An output shifted by 1e-3 is too far from a target of spread 1, and near enough to one of spread 1,000."""
    rows = draw_rows(5)
    model, shifted = (
        keras.Sequential([keras.Input((5,)), layers.Dense(1, kernel_initializer="zeros", bias_initializer=bias)])
        for bias in (keras.initializers.Constant(0.0), keras.initializers.Constant(1e-3))
    )
    onnx_model = export_and_load(shifted, tmp_path)
    parity = measure_parity(model, onnx_model, rows, target_std=1000.0)
    assert (parity.difference, parity.allowed) == pytest.approx((1e-3, 1e-2), rel=1e-6)
    with pytest.raises(ParityFailed, match=r"0\.001 where 1e-05"):
        measure_parity(model, onnx_model, rows, target_std=1.0)


@pytest.mark.parametrize("bias", [float("nan"), float("inf")])
def test_parity_fails_for_an_output_that_is_not_finite(bias: float, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1, bias_initializer=keras.initializers.Constant(bias))])
    onnx_model = export_and_load(model, tmp_path)
    with pytest.raises(ParityFailed):
        measure_parity(model, onnx_model, draw_rows(5), TARGET_STD)


def test_parity_fails_where_only_some_batch_sizes_differ(tmp_path: Path) -> None:
    """An ONNX model that adds the batch's mean equals Keras on a constant batch alone: the single row."""
    rows = draw_rows(5)
    model = keras.Sequential([keras.Input((5,)), layers.Lambda(lambda x: x[:, :1])])
    inputs = keras.Input((5,))
    first = inputs[:, :1]
    centred = keras.Model(inputs, first + (first - keras.ops.mean(first, axis=0, keepdims=True)))
    onnx_model = export_and_load(centred, tmp_path)
    measure_parity(model, onnx_model, rows[:1], TARGET_STD)
    with pytest.raises(ParityFailed):
        measure_parity(model, onnx_model, rows, TARGET_STD)


def test_parity_needs_rows_and_a_finite_spread(dense: tuple[keras.Model, Rows], tmp_path: Path) -> None:
    model, rows = dense
    onnx_model = export_and_load(model, tmp_path)
    assert measure_parity(model, onnx_model, rows[:3], TARGET_STD).batch_sizes == (1, 3)
    with pytest.raises(ParameterRejected, match="at least one row"):
        measure_parity(model, onnx_model, rows[:0], TARGET_STD)
    for target_std in (float("inf"), float("nan"), -1.0):
        with pytest.raises(ParameterRejected, match="finite"):
            measure_parity(model, onnx_model, rows, target_std)
