"""From a trained Keras model to ONNX, and the proof that both compute the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.util import deprecation

from core.errors import ExportFailed, ParameterRejected, ParityFailed
from core.inference import OnnxModel
from core.model_directory import ModelDirectory

FloatArray = NDArray[np.float64]

INPUT_NAME = "inputs"
OUTPUT_NAME = "outputs"
OPSET = 18

RELATIVE_TOLERANCE = 1e-5
# In standard deviations of the target.
ABSOLUTE_TOLERANCE = 1e-5
# One row is what the service computes most, 512 what batch scoring does; 7 fills no vector register evenly.
BATCH_SIZES = (1, 7, 64, 512)
BATCHES_PER_SIZE = 16


@dataclass(frozen=True)
class Parity:
    """How near ONNX Runtime comes to Keras: the difference at the value nearest its limit, and that limit."""

    difference: float
    allowed: float
    batch_sizes: tuple[int, ...]


def export_onnx(model: keras.Model, path: Path) -> None:
    """Write `model` as one ONNX file with an input `inputs` `(batch, ...)` and an output `outputs` `(batch, ...)`.

    Every weight, those of normalization layers too, becomes a constant of the graph, and an LSTM layer becomes an
    LSTM node. Raises `ExportFailed` where the model has not one float32 input of fixed shape and one output, or uses
    an operation that ONNX lacks.
    """
    input_shape, output_shape = get_row_shapes(model)

    @tf.function(input_signature=[tf.TensorSpec((None, *input_shape), tf.float32, name=INPUT_NAME)])  # type: ignore[untyped-decorator]  # TensorFlow carries no types.
    def predict(inputs: tf.Tensor) -> tf.Tensor:
        return model(inputs, training=False)

    # Loops stay whole (`lower_control_flow`): only so does tf2onnx recognise an LSTM in them.
    frozen = convert_variables_to_constants_v2(predict.get_concrete_function(), lower_control_flow=False)
    input_tensor, output_tensor = frozen.inputs[0].name, frozen.outputs[0].name
    # tf2onnx calls two functions that TensorFlow logs as deprecated.
    with deprecation.silence():
        proto, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(),
            name=model.name,
            input_names=[input_tensor],
            output_names=[output_tensor],
            tensors_to_rename={input_tensor: INPUT_NAME, output_tensor: OUTPUT_NAME},
            opset=OPSET,
        )
    # tf2onnx gives the batch a numbered name, and the output no shape where it could not infer one.
    for value, shape in ((proto.graph.input[0], input_shape), (proto.graph.output[0], output_shape)):
        value.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["batch", *shape]))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        # An operation that tf2onnx does not know passes through it and is found only here.
        raise ExportFailed(model.name, str(error).strip()) from error
    onnx.save_model(proto, str(path))


class KerasFile:
    """A saved Keras model as it comes back from its file: what computes a version that cannot be exported."""

    def __init__(self, path: Path) -> None:
        self._model = keras.models.load_model(path, compile=False)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input row, without the batch."""
        return tuple(self._model.input_shape[1:])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one output row, without the batch: `(outputs,)`."""
        return tuple(self._model.output_shape[1:])

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict rows `(batch, *input_shape)`, giving `(batch, *output_shape)`, both in raw units."""
        return np.asarray(self._model.predict(inputs, verbose=0, batch_size=1024), dtype=np.float32)


SavedModel = OnnxModel | KerasFile
"""What a version's file computes with."""


def load_saved(directory: ModelDirectory) -> SavedModel:
    """The model of a checked directory; raises ModelDirectoryRejected."""
    onnx_path = directory.find_onnx()
    return KerasFile(directory.keras_path) if onnx_path is None else OnnxModel.load(onnx_path)


def measure_parity(
    model: keras.Model,
    saved: SavedModel,
    inputs: NDArray[np.float32],
    target_std: float,
    *,
    align: Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]] | None = None,
) -> Parity:
    """Compare both models on single rows and batches drawn evenly from `inputs`, `(rows, ...)` in raw units.

    A value of `saved`, the export, may differ from that of Keras by 1e-5 of its size plus 1e-5 of `target_std`, the
    target's standard deviation (of the scores, for ranking). `align` says what of both answers is compared. Raises
    `ParityFailed` beyond that, and for anything not finite; `ParameterRejected` for no rows or a `target_std` that is
    not finite.
    """
    if len(inputs) == 0:
        raise ParameterRejected("inputs", inputs.shape, "parity needs at least one row")
    if not np.isfinite(target_std) or target_std < 0:
        raise ParameterRejected("target_std", target_std, "it is a finite number, zero or more")
    batch_sizes = tuple(sorted({min(size, len(inputs)) for size in BATCH_SIZES}))
    worst = (0.0, np.inf)
    for batch in _draw_batches(inputs, batch_sizes):
        expected = np.asarray(model.predict_on_batch(batch), dtype=np.float64)
        actual = saved.predict(batch).astype(np.float64)
        if align is not None:
            expected, actual = align(expected, actual)
        difference, allowed = _compare(expected, actual, target_std)
        # Written so that a NaN fails.
        if not difference <= allowed:
            raise ParityFailed(difference, allowed)
        worst = max(worst, (difference, allowed), key=lambda found: found[0] - found[1])
    return Parity(difference=worst[0], allowed=worst[1], batch_sizes=batch_sizes)


def get_row_shapes(model: keras.Model) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of one input and one output row; raises `ExportFailed` for a model that no runtime takes."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ExportFailed(
            model.name,
            f"it has {len(model.inputs)} input(s) and {len(model.outputs)} output(s), one of each is allowed",
        )
    shapes = []
    for side, tensor in (("input", model.inputs[0]), ("output", model.outputs[0])):
        if tensor.dtype != "float32":
            raise ExportFailed(model.name, f"its {side} is {tensor.dtype}, float32 is allowed")
        batch, *row = tensor.shape
        if batch is not None or None in row:
            raise ExportFailed(model.name, f"its {side} has the shape {tensor.shape}, only the batch may vary")
        shapes.append(tuple(row))
    return shapes[0], shapes[1]


def _draw_batches(inputs: NDArray[np.float32], sizes: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    for size in sizes:
        starts = np.linspace(0, len(inputs) - size, BATCHES_PER_SIZE).astype(int)
        for start in sorted(set(starts.tolist())):
            yield inputs[start : start + size]


def _compare(expected: NDArray[np.float64], actual: NDArray[np.float64], target_std: float) -> tuple[float, float]:
    """The difference at the value that exceeds its limit most or comes nearest to it, and that limit; NaN for what
    cannot be compared."""
    if expected.shape != actual.shape or not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return float("nan"), ABSOLUTE_TOLERANCE * target_std
    difference = np.abs(expected - actual)
    allowed = RELATIVE_TOLERANCE * np.abs(expected) + ABSOLUTE_TOLERANCE * target_std
    worst = np.unravel_index(np.argmax(difference - allowed), difference.shape)
    return float(difference[worst]), float(allowed[worst])
