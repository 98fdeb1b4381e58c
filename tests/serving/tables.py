"""A tabular model of two features, without Keras, as ONNX and as MLflow's python_function."""

import json
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from core.contract import Column, Contract, Key, Monitored, Route
from core.model_directory import VersionFiles, write_files
from core.reference import build_reference

WEIGHTS = np.array([[2.0, 0.5], [3.0, -1.0]], dtype=np.float32)
"""`(features, outputs)`: the model answers a row of width and height with two numbers."""


def build_table() -> Contract:
    """Rows of `width` (at least 0) and `height` (at most 10)."""
    return Contract(
        model="areas",
        description="areas",
        kind="tabular",
        columns=(
            Column(name="area", dtype="float"),
            Column(name="height", dtype="float", unit="m", maximum=10.0),
            Column(name="width", dtype="float", minimum=0.0),
        ),
        key=Key(),
        target="area",
        features=("width", "height"),
        monitored=(Monitored(name="height", column="height", transform="value"),),
        routes=(Route(path="/areas/predict", codec="rows", answer={"area": "$prediction", "method": "product"}),),
    )


def write_table_version(folder: Path) -> None:
    """Write the model directory of a version that multiplies its rows with WEIGHTS."""
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["inputs", "weights"], ["outputs"])],
        "test",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    reference = build_reference(
        np.random.default_rng(3).normal(0.0, 1.0, (500, 1)), ["height"], ["m"], window_sizes=(50,)
    )
    with tempfile.TemporaryDirectory() as temporary:
        onnx_path, keras_path = Path(temporary) / "model.onnx", Path(temporary) / "model.keras"
        onnx_path.write_bytes(model.SerializeToString())
        keras_path.write_bytes(b"not loaded by serving")
        files = VersionFiles(
            keras_path=keras_path,
            onnx_path=onnx_path,
            contract=build_table().model_dump(mode="json"),
            reference=json.loads(reference.to_json()),
            evaluation={},
        )
        write_files(folder, files)


def multiply(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the model is to answer, computed by numpy."""
    answers: NDArray[np.float32] = rows.astype(np.float32) @ WEIGHTS
    return answers
