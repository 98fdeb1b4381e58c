"""What computes a version: one interface for every runtime."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.inference import OnnxModel
from core.model_directory import ModelDirectory
from serving.tensorflow_runtime import TensorflowModel


class Runtime(Protocol):
    """A loaded model; safe to call from several threads."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row of the input, without the batch."""
        ...

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output of one row, without the batch."""
        ...

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict rows `(batch, *input_shape)` in raw units, giving `(batch, outputs)` in the target's unit."""
        ...


def load_runtime(directory: ModelDirectory) -> Runtime:
    """The runtime of a checked model directory: ONNX Runtime, or TensorFlow for a version that has no ONNX.

    Raises ModelDirectoryRejected, and RuntimeMissing where TensorFlow is needed and not installed.
    """
    onnx_path = directory.find_onnx()
    return TensorflowModel.load(directory.keras_path) if onnx_path is None else OnnxModel.load(onnx_path)
