"""What computes a version that could not be exported to ONNX: TensorFlow, loaded when the first of them is."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from core.errors import ModelDirectoryRejected
from core.serving_errors import RuntimeMissing

if TYPE_CHECKING:
    import tensorflow as tf


class TensorflowModel:
    """One loaded Keras model as a traced function; safe to call from several threads."""

    def __init__(
        self,
        function: "tf.types.experimental.PolymorphicFunction",
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
    ) -> None:
        self._function = function
        self._input_shape = input_shape
        self._output_shape = output_shape

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load the `.keras` file at `path`.

        Raises RuntimeMissing where TensorFlow is not installed, and ModelDirectoryRejected where the file cannot be
        loaded or its model has not one input of a shape that is fixed but for the batch.
        """
        if importlib.util.find_spec("tensorflow") is None or importlib.util.find_spec("keras") is None:
            raise RuntimeMissing
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import keras
        import tensorflow as tf

        try:
            # Nothing but layers of Keras: a file that carries code of its own is refused.
            model = keras.models.load_model(path, compile=False, safe_mode=True)
        except (ValueError, TypeError, OSError, KeyError) as error:
            raise ModelDirectoryRejected(str(path), f"Keras does not load it: {error}") from error
        shape = model.input_shape
        if not isinstance(shape, tuple) or shape[0] is not None or not all(isinstance(size, int) for size in shape[1:]):
            raise ModelDirectoryRejected(
                str(path), f"its input has the shape {shape} where only the batch, which comes first, may vary"
            )

        # Traced once for any batch: a call of the model itself takes fifty times as long.
        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)])  # type: ignore[untyped-decorator]  # no types
        def compute(inputs: tf.Tensor) -> tf.Tensor:
            return model(inputs, training=False)

        return cls(compute, tuple(shape[1:]), tuple(model.output_shape[1:]))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input row, without the batch: `(steps, features)` or `(features,)`."""
        return self._input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one output row, without the batch: `(outputs,)`."""
        return self._output_shape

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict rows `(batch, *input_shape)`, giving `(batch, outputs)`, both in raw units."""
        return np.asarray(self._function(inputs).numpy(), dtype=np.float32)
