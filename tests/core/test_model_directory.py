"""A version's directory by itself, then logged to a real MLflow server and loaded through each flavour."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import keras
import mlflow
import numpy as np
import pytest
from keras import layers
from numpy.typing import NDArray

from core.errors import ModelDirectoryRejected
from core.inference import OnnxModel
from core.model_directory import MANIFEST_FILE, VERSION_FILES, ModelDirectory, VersionFiles, log_version, write_files
from training.export import export_onnx

CONTRACT = {"workload": "prices", "columns": [{"name": "close", "unit": "USD"}]}
EVALUATION = {"mae": 1.5}
REPOSITORY = Path(__file__).parents[2]
SERVER_START_S = 90

# Keras reads its variables through TensorFlow, whose `__array__` lacks NumPy 2's keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="session")
def version_files(tmp_path_factory: pytest.TempPathFactory) -> VersionFiles:
    folder = tmp_path_factory.mktemp("version")
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((6, 2)), layers.LSTM(4), layers.Dense(1)])
    model.save(folder / "trained.keras")
    export_onnx(model, folder / "exported.onnx")
    reference = {"edges": {"close": np.array([0.0, 1.5, 3.0])}, "counts": {"close": np.array([4, 6])}}
    return VersionFiles(folder / "trained.keras", folder / "exported.onnx", CONTRACT, reference, EVALUATION)


@pytest.fixture
def directory(version_files: VersionFiles, tmp_path: Path) -> Path:
    root = tmp_path / "model"
    root.mkdir()
    write_files(root, version_files)
    return root


# --- by itself ---------------------------------------------------------------------------------------------------


def test_directory_gives_back_what_was_written(directory: Path, version_files: VersionFiles) -> None:
    opened = ModelDirectory.open(directory)
    assert opened.contract == CONTRACT
    assert opened.reference == {"edges": {"close": [0.0, 1.5, 3.0]}, "counts": {"close": [4, 6]}}
    assert opened.evaluation == EVALUATION
    assert opened.find_onnx() == directory.resolve() / "model.onnx"
    assert opened.keras_path.read_bytes() == version_files.keras_path.read_bytes()


@pytest.mark.parametrize("name", VERSION_FILES)
def test_directory_with_one_changed_byte_is_refused(directory: Path, name: str) -> None:
    content = bytearray((directory / name).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / name).write_bytes(content)
    with pytest.raises(ModelDirectoryRejected, match=f"{name} is not what its checksum says"):
        ModelDirectory.open(directory)


@pytest.mark.parametrize("name", VERSION_FILES)
def test_directory_with_a_truncated_file_is_refused(directory: Path, name: str) -> None:
    (directory / name).write_bytes((directory / name).read_bytes()[:-1])
    with pytest.raises(ModelDirectoryRejected, match=rf"{name} has \d+ bytes"):
        ModelDirectory.open(directory)


@pytest.mark.parametrize("name", [*VERSION_FILES, MANIFEST_FILE])
def test_directory_without_one_of_its_files_is_refused(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(ModelDirectoryRejected, match=f"{name} is missing"):
        ModelDirectory.open(directory)


def test_directory_with_a_link_out_of_it_is_refused(directory: Path, tmp_path: Path) -> None:
    (directory / "model.onnx").rename(tmp_path / "outside.onnx")
    (directory / "model.onnx").symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(ModelDirectoryRejected, match=r"model\.onnx leads out of the directory"):
        ModelDirectory.open(directory)


def change_manifest(directory: Path, change: Callable[[dict[str, object]], object]) -> None:
    manifest = json.loads((directory / MANIFEST_FILE).read_text())
    change(manifest["files"])
    (directory / MANIFEST_FILE).write_text(json.dumps(manifest))


def test_manifest_that_names_a_path_outside_is_refused(directory: Path) -> None:
    change_manifest(directory, lambda files: files.update({"../outside": files["model.onnx"]}))
    with pytest.raises(ModelDirectoryRejected, match=r"'\.\./outside', which is not a file of a model version"):
        ModelDirectory.open(directory)


def test_manifest_that_leaves_a_file_out_is_refused(directory: Path) -> None:
    change_manifest(directory, lambda files: files.pop("contract.json"))
    with pytest.raises(ModelDirectoryRejected, match=r"does not list contract\.json"):
        ModelDirectory.open(directory)


@pytest.mark.parametrize("entry", [None, {}, {"sha256": 1, "size_bytes": 1}, {"sha256": "0", "size_bytes": "1"}])
def test_manifest_with_an_entry_of_another_form_is_refused(directory: Path, entry: object) -> None:
    change_manifest(directory, lambda files: files.update({"model.onnx": entry}))
    with pytest.raises(ModelDirectoryRejected, match=r"no checksum and size of model\.onnx"):
        ModelDirectory.open(directory)


@pytest.mark.parametrize(("text", "fault"), [("{", "not JSON"), ("[]", "not a JSON object"), ("{}", "no object")])
def test_manifest_that_is_no_manifest_is_refused(directory: Path, text: str, fault: str) -> None:
    (directory / MANIFEST_FILE).write_text(text)
    with pytest.raises(ModelDirectoryRejected, match=fault):
        ModelDirectory.open(directory)


def test_reading_a_directory_imports_no_mlflow(directory: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from core.model_directory import ModelDirectory; "
        "from core.inference import OnnxModel; OnnxModel.load(ModelDirectory.open(Path(sys.argv[1])).find_onnx()); "
        "print({name.split('.')[0] for name in sys.modules} & {'mlflow', 'pandas', 'tensorflow', 'keras', 'onnx'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


# --- in MLflow ---------------------------------------------------------------------------------------------------


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=2):  # noqa: S310 -- a literal http address
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"{url} does not answer: {log.read_text()[-3000:]}")


def run_server(
    arguments: list[str], health: str, folder: Path, environment: dict[str, str]
) -> Generator[None, None, None]:
    """Run `python -m mlflow …` in a process group of its own until the generator is resumed."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until_healthy(health, process, log)
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    folder = tmp_path_factory.mktemp("tracking")
    port = find_free_port()
    address = f"http://127.0.0.1:{port}"
    arguments = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--serve-artifacts"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    server = run_server(
        [*arguments, *stores], f"{address}/health", folder, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    )
    next(server)
    mlflow.set_tracking_uri(address)
    mlflow.set_registry_uri(address)
    yield address
    server.close()


@dataclass(frozen=True)
class Logged:
    uri: str
    run_id: str
    experiment_id: str
    took_s: float


@pytest.fixture(scope="session")
def logged(tracking: str, version_files: VersionFiles) -> Logged:
    client = mlflow.MlflowClient()
    experiment_id = client.create_experiment("prices")
    run_id = client.create_run(experiment_id).info.run_id
    client.log_param(run_id, "units", 4)
    started = time.monotonic()
    uri = log_version(run_id, version_files, input_shape=(6, 2), output_shape=(1,), name="prices")
    return Logged(uri, run_id, experiment_id, time.monotonic() - started)


@pytest.fixture(scope="session")
def downloaded(logged: Logged) -> Path:
    return Path(mlflow.artifacts.download_artifacts(logged.uri))


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    return np.random.default_rng(2).normal(size=(5, 6, 2)).astype(np.float32)


def test_log_version_guesses_no_requirements(logged: Logged, downloaded: Path) -> None:
    assert logged.took_s < 10
    assert (downloaded / "requirements.txt").read_text().split() == [
        f"{package}=={version(package)}"
        for package in ("tensorflow-cpu", "keras", "mlflow", "numpy", "onnx", "onnxruntime")
    ]


def test_log_version_links_the_model_to_its_run_and_registers_nothing(logged: Logged) -> None:
    client = mlflow.MlflowClient()
    model = client.get_logged_model(logged.uri.removeprefix("models:/"))
    assert (model.source_run_id, model.experiment_id) == (logged.run_id, logged.experiment_id)
    assert (model.name, model.status, model.params) == ("prices", "READY", {"units": "4"})
    run = client.get_run(logged.run_id)
    assert run.outputs is not None
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert run.info.status == "RUNNING"
    assert client.search_registered_models() == []


def test_logged_version_has_three_flavours_and_a_signature_with_a_free_batch(downloaded: Path) -> None:
    model = mlflow.models.Model.load(str(downloaded))
    assert set(model.flavors) == {"keras", "python_function", "onnx"}
    assert [(spec.shape, spec.type) for spec in model.signature.inputs] == [((-1, 6, 2), np.dtype(np.float32))]
    assert [(spec.shape, spec.type) for spec in model.signature.outputs] == [((-1, 1), np.dtype(np.float32))]


def test_logged_version_opens_after_download(downloaded: Path) -> None:
    assert ModelDirectory.open(downloaded).contract == CONTRACT


def test_every_flavour_gives_equal_predictions(logged: Logged, downloaded: Path, rows: NDArray[np.float32]) -> None:
    served = OnnxModel.load(downloaded / "model.onnx").predict(rows)
    by_keras = mlflow.keras.load_model(logged.uri).predict(rows, verbose=0)
    by_pyfunc = mlflow.pyfunc.load_model(logged.uri).predict(rows)
    np.testing.assert_allclose(by_keras, served, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_pyfunc, served, rtol=1e-5, atol=1e-6)
    onnx_model = mlflow.onnx.load_model(logged.uri)
    assert onnx_model.SerializeToString() == (downloaded / "model.onnx").read_bytes()


def test_logged_version_holds_no_pickle(downloaded: Path) -> None:
    names = {file.relative_to(downloaded).as_posix() for file in downloaded.rglob("*") if file.is_file()}
    own_files = {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"}
    # MLflow adds the last one to what it downloads of a registered version.
    assert names - {"registered_model_meta"} == {*VERSION_FILES, MANIFEST_FILE, *own_files}
    text = "".join((downloaded / name).read_text() for name in own_files)
    assert "pickle" not in text
    for file in downloaded.rglob("*"):
        # Protocol 2 and later begin with this byte; a .keras file is a zip, ONNX a protobuf, the rest is text.
        assert file.is_dir() or file.read_bytes()[:1] != b"\x80"


def test_version_registered_by_its_uri_loads_from_production(
    logged: Logged, downloaded: Path, rows: NDArray[np.float32]
) -> None:
    client = mlflow.MlflowClient()
    client.create_registered_model("prices")
    model_id = logged.uri.removeprefix("models:/")
    registered = client.create_model_version("prices", logged.uri, run_id=logged.run_id, model_id=model_id)
    assert (registered.run_id, registered.source) == (logged.run_id, logged.uri)
    # By this tag the pages of the run and of the logged model link the registered version.
    links = json.loads(client.get_logged_model(model_id).tags["mlflow.modelVersions"])
    assert links == [{"name": "prices", "version": int(registered.version)}]
    with pytest.warns(FutureWarning, match="stages"):
        client.transition_model_version_stage("prices", registered.version, "Production")
    loaded = mlflow.keras.load_model("models:/prices/Production")
    served = OnnxModel.load(downloaded / "model.onnx").predict(rows)
    np.testing.assert_allclose(loaded.predict(rows, verbose=0), served, rtol=1e-5, atol=1e-6)
    fetched = Path(mlflow.artifacts.download_artifacts("models:/prices/Production"))
    assert ModelDirectory.open(fetched).contract == CONTRACT
    client.delete_registered_model("prices")


def test_logged_version_is_answered_by_mlflow_models_serve(
    tracking: str, logged: Logged, downloaded: Path, rows: NDArray[np.float32], tmp_path: Path
) -> None:
    port = find_free_port()
    address = f"http://127.0.0.1:{port}"
    arguments = ["models", "serve", "-m", logged.uri, "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    # `mlflow models serve` looks uvicorn up on the path, where an activated environment has it.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = run_server(arguments, f"{address}/ping", tmp_path, {"MLFLOW_TRACKING_URI": tracking, "PATH": path})
    next(server)
    body = json.dumps({"inputs": rows.tolist()}).encode()
    request = Request(f"{address}/invocations", body, {"Content-Type": "application/json"})  # noqa: S310
    with urlopen(request, timeout=60) as response:  # noqa: S310 -- a literal http address
        predictions = json.load(response)["predictions"]
    server.close()
    served = OnnxModel.load(downloaded / "model.onnx").predict(rows)
    np.testing.assert_allclose(predictions, served, rtol=1e-5, atol=1e-6)
