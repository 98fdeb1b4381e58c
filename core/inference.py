"""A model as ONNX Runtime computes it. The one module that knows onnxruntime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from core.errors import ModelDirectoryRejected

# What ONNX Runtime raises for a file that is away, damaged, or asks for what this build does not compute.
LOAD_ERRORS = (
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NoSuchFile,
    runtime_errors.NotImplemented,
    runtime_errors.RuntimeException,
)


class OnnxModel:
    """One loaded ONNX model with one float32 input and one float32 output; safe to call from several threads."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
    ) -> None:
        self._session = session
        self._input_name: str = session.get_inputs()[0].name
        self._output_names: list[str] = [session.get_outputs()[0].name]
        # Without these, each run makes its own.
        self._run_options = onnxruntime.RunOptions()
        self._input_shape = input_shape
        self._output_shape = output_shape

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load the model file at `path`, to run on one thread.

        Raises `ModelDirectoryRejected` where the file cannot be loaded or its model has not one float32 input and one
        float32 output of shapes that are fixed but for the batch.
        """
        options = onnxruntime.SessionOptions()
        # One row takes some 0.03 ms: handing it to a pool of threads costs more than it saves.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except LOAD_ERRORS as error:
            raise ModelDirectoryRejected(str(path), f"ONNX Runtime does not load it: {error}") from error
        input_shape = _single_row_shape(path, "input", session.get_inputs())
        output_shape = _single_row_shape(path, "output", session.get_outputs())
        return cls(session, input_shape, output_shape)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input row, without the batch: `(steps, features)` or `(features,)`."""
        return self._input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one output row, without the batch: `(outputs,)`."""
        return self._output_shape

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict rows `(batch, *input_shape)`, giving `(batch, *output_shape)`, both in raw units."""
        feed = {self._input_name: inputs}
        outputs: list[NDArray[np.float32]] = self._session.run(self._output_names, feed, self._run_options)
        return outputs[0]


def _single_row_shape(path: Path, side: str, tensors: Sequence[onnxruntime.NodeArg]) -> tuple[int, ...]:
    if len(tensors) != 1:
        raise ModelDirectoryRejected(str(path), f"the model has {len(tensors)} {side}s where one is allowed")
    tensor = tensors[0]
    if tensor.type != "tensor(float)":
        raise ModelDirectoryRejected(str(path), f"its {side} is a {tensor.type} where float32 is allowed")
    batch, *row = tensor.shape or [0]
    if isinstance(batch, int) or not all(isinstance(size, int) for size in row):
        raise ModelDirectoryRejected(
            str(path), f"its {side} has the shape {tensor.shape} where only the batch, which comes first, may vary"
        )
    return tuple(row)
