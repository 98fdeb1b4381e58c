"""ONNX Runtime on small graphs, written by hand, whose results numpy knows."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from core.errors import ModelDirectoryRejected
from core.inference import OnnxModel

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def describe(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def write_model(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: NDArray[np.float32] | None = None,
) -> Path:
    initializers = [] if weights is None else [onnx.numpy_helper.from_array(weights, "weights")]
    graph = onnx.helper.make_graph(nodes, "test", inputs, outputs, initializers)
    onnx.save_model(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), str(path)
    )
    return path


@pytest.fixture
def weights() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)


@pytest.fixture
def linear(tmp_path: Path, weights: NDArray[np.float32]) -> Path:
    nodes = [onnx.helper.make_node("MatMul", ["inputs", "weights"], ["outputs"])]
    inputs, outputs = describe("inputs", FLOAT, ["batch", 3]), describe("outputs", FLOAT, ["batch", 2])
    return write_model(tmp_path / "linear.onnx", nodes, [inputs], [outputs], weights)


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_model_predicts_any_batch(linear: Path, weights: NDArray[np.float32], batch: int) -> None:
    rows = np.random.default_rng(2).normal(size=(batch, 3)).astype(np.float32)
    outputs = OnnxModel.load(linear).predict(rows)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, rows.astype(float) @ weights.astype(float), rtol=1e-5, atol=1e-6)


def test_model_tells_its_shapes_without_the_batch(linear: Path) -> None:
    model = OnnxModel.load(linear)
    assert model.input_shape == (3,)
    assert model.output_shape == (2,)


def count_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_model_starts_no_threads(linear: Path) -> None:
    before = count_threads()
    models = [OnnxModel.load(linear) for _ in range(5)]
    models[0].predict(np.zeros((1, 3), np.float32))
    assert count_threads() == before


def test_model_refuses_a_missing_and_a_damaged_file(tmp_path: Path, linear: Path) -> None:
    with pytest.raises(ModelDirectoryRejected, match=r"absent\.onnx"):
        OnnxModel.load(tmp_path / "absent.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(linear.read_bytes()[:40])
    with pytest.raises(ModelDirectoryRejected, match=r"damaged\.onnx"):
        OnnxModel.load(damaged)
    damaged.write_bytes(b"")
    with pytest.raises(ModelDirectoryRejected, match=r"damaged\.onnx"):
        OnnxModel.load(damaged)


def test_model_refuses_an_operation_it_does_not_know(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Nonsense", ["inputs"], ["outputs"])]
    sides = describe("inputs", FLOAT, ["batch", 3]), describe("outputs", FLOAT, ["batch", 3])
    path = write_model(tmp_path / "odd.onnx", nodes, [sides[0]], [sides[1]])
    with pytest.raises(ModelDirectoryRejected, match="Nonsense"):
        OnnxModel.load(path)


@pytest.mark.parametrize(
    ("kind", "shape", "fault"),
    [
        (INT64, ["batch", 3], "int64"),
        (FLOAT, [1, 3], "only the batch"),
        (FLOAT, ["batch", "steps"], "only the batch"),
        (FLOAT, [], "only the batch"),
    ],
)
def test_model_refuses_another_input_than_rows_of_float32(
    tmp_path: Path, kind: int, shape: list[int | str], fault: str
) -> None:
    nodes = [onnx.helper.make_node("Identity", ["inputs"], ["outputs"])]
    sides = describe("inputs", kind, shape), describe("outputs", kind, shape)
    path = write_model(tmp_path / "other.onnx", nodes, [sides[0]], [sides[1]])
    with pytest.raises(ModelDirectoryRejected, match=fault):
        OnnxModel.load(path)


def test_model_refuses_a_second_input(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Add", ["inputs", "more"], ["outputs"])]
    inputs = [describe(name, FLOAT, ["batch", 3]) for name in ("inputs", "more")]
    path = write_model(tmp_path / "two.onnx", nodes, inputs, [describe("outputs", FLOAT, ["batch", 3])])
    with pytest.raises(ModelDirectoryRejected, match="2 inputs"):
        OnnxModel.load(path)
