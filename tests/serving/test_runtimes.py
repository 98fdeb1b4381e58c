"""What every runtime does, on the same trained model: ONNX Runtime on its export, TensorFlow on its Keras file."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from core.errors import ExportFailed, ModelDirectoryRejected
from core.model_directory import ModelDirectory, VersionFiles, write_files
from serving.loading import load_version
from serving.runtimes import Runtime, load_runtime
from tests.serving.onnx_models import build_contract, build_test_reference
from training.export import KerasFile, export_onnx, get_row_shapes, load_saved, measure_parity

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

STEPS = 4
Name = Literal["onnx", "tensorflow"]
Write = Callable[[Name], Path]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(5)
    inputs = keras.Input((STEPS, 1), dtype="float32")
    hidden = keras.layers.LSTM(6)(keras.layers.Rescaling(0.01)(inputs))
    return keras.Model(inputs, keras.layers.Dense(1)(hidden), name="prices")


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    return np.random.default_rng(6).uniform(10.0, 200.0, (100, STEPS, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def write(model: keras.Model, rows: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes the version of one runtime."""
    folder = tmp_path_factory.mktemp("model")
    model.save(folder / "model.keras")
    export_onnx(model, folder / "model.onnx")

    def write(name: Name) -> Path:
        root = tmp_path_factory.mktemp(name)
        files = VersionFiles(
            keras_path=folder / "model.keras",
            onnx_path=folder / "model.onnx" if name == "onnx" else None,
            contract=build_contract().model_dump(mode="json"),
            reference=build_test_reference().model_dump(mode="json"),
            evaluation={"sample_rows": rows[:3].tolist()},
        )
        write_files(root, files)
        return root

    return write


@pytest.fixture(scope="module", params=["onnx", "tensorflow"])
def version(request: pytest.FixtureRequest, write: Write) -> Path:
    return write(request.param)


@pytest.fixture(scope="module")
def runtime(version: Path) -> Runtime:
    return load_runtime(ModelDirectory.open(version))


def test_runtime_tells_the_shape_of_a_row(runtime: Runtime) -> None:
    assert runtime.input_shape == (STEPS, 1)


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_runtime_computes_what_keras_computes(
    runtime: Runtime, model: keras.Model, rows: NDArray[np.float32], batch: int
) -> None:
    outputs = runtime.predict(rows[:batch])
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, model.predict(rows[:batch], verbose=0), rtol=1e-5, atol=1e-5)


def test_row_is_answered_alike_alone_and_among_others(runtime: Runtime, rows: NDArray[np.float32]) -> None:
    together = runtime.predict(rows)
    alone = np.concatenate([runtime.predict(rows[i : i + 1]) for i in range(10)])
    np.testing.assert_allclose(alone, together[:10], rtol=1e-5, atol=1e-6)


def test_threads_get_their_own_answers(runtime: Runtime, rows: NDArray[np.float32]) -> None:
    expected = runtime.predict(rows)
    found = np.zeros_like(expected)

    def predict(start: int) -> None:
        for i in range(start, len(rows), 4):
            found[i] = runtime.predict(rows[i : i + 1])[0]

    threads = [threading.Thread(target=predict, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_version_is_loaded_and_warmed_with_rows_of_its_hold_out(version: Path) -> None:
    loaded = load_version(version, "prices", 3)
    assert loaded.row_ms > 0
    assert loaded.version == 3


def test_version_whose_model_is_none_is_refused(version: Path, tmp_path: Path) -> None:
    keras_path, onnx_path = tmp_path / "model.keras", tmp_path / "model.onnx"
    keras_path.write_bytes(b"no zip")
    onnx_path.write_bytes(b"no protobuf")
    has_onnx = ModelDirectory.open(version).find_onnx() is not None
    root = tmp_path / "version"
    root.mkdir()
    write_files(root, VersionFiles(keras_path, onnx_path if has_onnx else None, {}, {}, {}))
    with pytest.raises(ModelDirectoryRejected, match="does not load it"):
        load_runtime(ModelDirectory.open(root))


def test_lost_onnx_file_is_not_taken_for_a_version_that_has_none(write: Write) -> None:
    root = write("onnx")
    (root / "model.onnx").unlink()
    with pytest.raises(ModelDirectoryRejected, match=r"model\.onnx is missing"):
        ModelDirectory.open(root)


def test_model_that_onnx_cannot_express_is_saved_scored_and_served_by_tensorflow(tmp_path: Path) -> None:
    inputs = keras.Input((STEPS, 1), dtype="float32")
    share = keras.ops.sigmoid(keras.layers.Flatten()(inputs) / 100.0) * 0.9
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.ops.erfinv(share)), name="prices")
    with pytest.raises(ExportFailed, match="Erfinv"):
        export_onnx(model, tmp_path / "model.onnx")
    assert get_row_shapes(model) == ((STEPS, 1), (1,))
    model.save(tmp_path / "model.keras")
    rows = np.random.default_rng(8).uniform(1.0, 50.0, (40, STEPS, 1)).astype(np.float32)
    parity = measure_parity(model, KerasFile(tmp_path / "model.keras"), rows, 1.0)
    assert parity.difference <= parity.allowed
    root = tmp_path / "version"
    root.mkdir()
    contract = build_contract().model_dump(mode="json")
    reference = build_test_reference().model_dump(mode="json")
    write_files(root, VersionFiles(tmp_path / "model.keras", None, contract, reference, {}))
    directory = ModelDirectory.open(root)
    expected = model.predict(rows, verbose=0)
    np.testing.assert_allclose(load_version(root, "prices", 1).runtime.predict(rows), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(load_saved(directory).predict(rows), expected, rtol=1e-5, atol=1e-6)
