"""Small ONNX models and whole model directories around them, without Keras."""

import json
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from core.contract import Column, Contract, Key, Monitored, Route
from core.model_directory import VersionFiles, write_files
from core.reference import Reference, build_reference

Answers = Literal["mean", "double", "nan", "nan_above", "damaged", "wrong_shape", "slow"]
STEPS = 4


def build_contract(model: str = "prices", steps: int = STEPS) -> Contract:
    """A price series of `steps` closes."""
    return Contract(
        model=model,
        description="the next close",
        kind="sequence",
        columns=(
            Column(name="Date", dtype="time"),
            Column(name="Close", dtype="float", unit="USD", minimum=1e-6, maximum=1e9),
        ),
        key=Key(time="Date"),
        target="Close",
        features=("Close",),
        steps=steps,
        monitored=(Monitored(name="last_log_return", column="Close", transform="last_log_return"),),
        routes=(
            Route(
                path="/predict" if model == "prices" else f"/{model}/predict",
                codec="values",
                answer={
                    "ok": True,
                    "prediction": "$prediction",
                    "checkpoint_path": "$model_uri",
                    "sequence_length": "$steps",
                    "symbol": "BTC-USD",
                },
            ),
        ),
    )


def build_test_reference() -> Reference:
    """The profile of 500 normal log returns."""
    values = np.random.default_rng(3).normal(0.0, 0.02, (500, 1))
    return build_reference(values, ["last_log_return"], [""], window_sizes=(50,))


def write_version(folder: Path, contract: Contract, answers: Answers, *, has_onnx: bool = True) -> None:
    """Write the model directory of a version whose model answers with

    `mean`: the window's mean; `double`: twice that; `nan`: NaN, always; `nan_above`: the mean, and NaN from a mean
    of 1e6 on; `slow`: the mean, after tenths of a second; `wrong_shape`: the mean of longer windows; `damaged`:
    `mean`, with a byte of the model flipped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps = contract.steps + 1 if answers == "wrong_shape" else contract.steps
    with tempfile.TemporaryDirectory() as temporary:
        onnx_path, keras_path = Path(temporary) / "model.onnx", Path(temporary) / "model.keras"
        onnx_path.write_bytes(_build_model(steps, len(contract.features), answers).SerializeToString())
        keras_path.write_bytes(b"not loaded by serving")
        files = VersionFiles(
            keras_path=keras_path,
            onnx_path=onnx_path if has_onnx else None,
            contract=contract.model_dump(mode="json"),
            reference=json.loads(build_test_reference().to_json()),
            evaluation={},
        )
        write_files(folder, files)
    if answers == "damaged":
        path = folder / "model.onnx"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(bytes(content))


def _build_model(steps: int, features: int, answers: Answers) -> onnx.ModelProto:
    nodes = [helper.make_node("ReduceMean", ["inputs", "axes"], ["mean"], keepdims=0)]
    constants = [numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")]
    match answers:
        case "double":
            constants.append(numpy_helper.from_array(np.array([2.0], dtype=np.float32), "factor"))
            nodes.append(helper.make_node("Mul", ["mean", "factor"], ["outputs"]))
        case "nan":
            constants.append(numpy_helper.from_array(np.array([np.nan], dtype=np.float32), "factor"))
            nodes.append(helper.make_node("Mul", ["mean", "factor"], ["outputs"]))
        case "nan_above":
            constants.append(numpy_helper.from_array(np.array([1e6], dtype=np.float32), "limit"))
            constants.append(numpy_helper.from_array(np.array([np.nan], dtype=np.float32), "nan"))
            nodes.append(helper.make_node("GreaterOrEqual", ["mean", "limit"], ["is_above"]))
            nodes.append(helper.make_node("Where", ["is_above", "nan", "mean"], ["outputs"]))
        case "slow":
            # A product of large matrices that depends on the input, and counts for nothing.
            constants.append(numpy_helper.from_array(np.array([2000, 2000], dtype=np.int64), "size"))
            constants.append(numpy_helper.from_array(np.array([0.0], dtype=np.float32), "nothing"))
            nodes.append(helper.make_node("ReduceMean", ["mean"], ["scalar"], keepdims=0))
            nodes.append(helper.make_node("Expand", ["scalar", "size"], ["matrix"]))
            nodes.append(helper.make_node("MatMul", ["matrix", "matrix"], ["product"]))
            nodes.append(helper.make_node("ReduceMean", ["product"], ["total"], keepdims=0))
            nodes.append(helper.make_node("Mul", ["total", "nothing"], ["zero"]))
            nodes.append(helper.make_node("Add", ["mean", "zero"], ["outputs"]))
        case _:
            nodes.append(helper.make_node("Identity", ["mean"], ["outputs"]))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", steps, features])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["batch", features])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model
