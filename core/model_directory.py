"""A model version: the one MLflow model directory that holds all that is known of it.

    MLmodel  conda.yaml  python_env.yaml  requirements.txt      MLflow's own
    data/model.keras                                            flavours `keras` and `python_function`
    model.onnx                                                  flavour `onnx`, and what the service runs; a version
                                                                that cannot be exported has none, says so in its
                                                                manifest, and is run by TensorFlow
    contract.json  reference.json  evaluation.json              what other processes must know of the version
    manifest.json                                               what runs it; size and SHA-256 of each file of ours

Reading needs no MLflow, so that the service can do without its import; writing loads it inside the functions that do.
This module is itself the flavour that `mlflow.models.Model.log` is given.
"""

import hashlib
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import orjson

from core.errors import ModelDirectoryRejected, show_value

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

# MLflow's Keras flavour looks for `model.keras` in the folder that its entry in MLmodel names.
KERAS_FOLDER = "data"
KERAS_FILE = f"{KERAS_FOLDER}/model.keras"
ONNX_FILE = "model.onnx"
CONTRACT_FILE = "contract.json"
REFERENCE_FILE = "reference.json"
EVALUATION_FILE = "evaluation.json"
VERSION_FILES = (KERAS_FILE, ONNX_FILE, CONTRACT_FILE, REFERENCE_FILE, EVALUATION_FILE)
MANIFEST_FILE = "manifest.json"
SAMPLE_ROWS = "sample_rows"
"""Member of `evaluation.json`: some rows of the hold-out, `(rows, …)`, which the service warms a version with."""

RUNTIME = "runtime"
ONNX_RUNTIME, TENSORFLOW_RUNTIME = "onnx", "tensorflow"

JsonObject = Mapping[str, object]


@dataclass(frozen=True)
class VersionFiles:
    """What a version is made of, before it is logged; numpy arrays are allowed in the JSON objects.

    `onnx_path` is None for a model that cannot be exported.
    """

    keras_path: Path
    onnx_path: Path | None
    contract: JsonObject
    reference: JsonObject
    evaluation: JsonObject


# --- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelDirectory:
    """A version's directory, every file of which is what its manifest says."""

    path: Path
    contract: JsonObject
    reference: JsonObject
    evaluation: JsonObject
    has_onnx: bool

    @classmethod
    def open(cls, path: Path) -> Self:
        """Check the directory against its manifest and read its JSON files.

        Raises `ModelDirectoryRejected` naming the file that is missing, differs, or lies outside the directory.
        """
        root = path.resolve()
        entries = _load_manifest(root)
        for name, entry in entries.items():
            _check_file(root, name, entry)
        return cls(
            path=root,
            contract=_load_json(root, CONTRACT_FILE),
            reference=_load_json(root, REFERENCE_FILE),
            evaluation=_load_json(root, EVALUATION_FILE),
            has_onnx=ONNX_FILE in entries,
        )

    @staticmethod
    def load_reference(path: Path) -> JsonObject:
        """The reference in `path`, of which only this file and the manifest have to be there.

        Raises `ModelDirectoryRejected`.
        """
        root = path.resolve()
        _check_file(root, REFERENCE_FILE, _load_manifest(root)[REFERENCE_FILE])
        return _load_json(root, REFERENCE_FILE)

    def find_onnx(self) -> Path | None:
        """The ONNX file; None for a version that says that it has none."""
        return self.path / ONNX_FILE if self.has_onnx else None

    @property
    def keras_path(self) -> Path:
        return self.path / KERAS_FILE


def _list_files(*, has_onnx: bool) -> list[str]:
    return [name for name in VERSION_FILES if has_onnx or name != ONNX_FILE]


@dataclass(frozen=True)
class _ManifestEntry:
    sha256: str
    size_bytes: int


def _load_manifest(root: Path) -> dict[str, _ManifestEntry]:
    manifest = _load_json(root, MANIFEST_FILE)
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        raise ModelDirectoryRejected(str(root), f"{MANIFEST_FILE} has no object 'files'")
    # A file that was lost must not look like one that was never there: the manifest has to say so.
    runtime = manifest.get(RUNTIME)
    if runtime not in (ONNX_RUNTIME, TENSORFLOW_RUNTIME):
        raise ModelDirectoryRejected(str(root), f"{MANIFEST_FILE} names the runtime {show_value(runtime)}")
    for name in _list_files(has_onnx=runtime == ONNX_RUNTIME):
        if name not in listed:
            raise ModelDirectoryRejected(str(root), f"{MANIFEST_FILE} does not list {name}")
    entries = {}
    for name, entry in listed.items():
        # Nothing but a version's own files may be named, and so no path that leads out of the directory.
        if name not in VERSION_FILES:
            raise ModelDirectoryRejected(
                str(root), f"{MANIFEST_FILE} lists {show_value(name)}, which is not a file of a model version"
            )
        match entry:
            case {"sha256": str(sha256), "size_bytes": int(size_bytes)}:
                entries[name] = _ManifestEntry(sha256, size_bytes)
            case _:
                raise ModelDirectoryRejected(str(root), f"{MANIFEST_FILE} gives no checksum and size of {name}")
    return entries


def _check_file(root: Path, name: str, entry: _ManifestEntry) -> None:
    file = _find_file(root, name)
    size_bytes = file.stat().st_size
    if size_bytes != entry.size_bytes:
        raise ModelDirectoryRejected(
            str(root), f"{name} has {size_bytes} bytes where its manifest says {entry.size_bytes}"
        )
    if _compute_sha256(file) != entry.sha256:
        raise ModelDirectoryRejected(str(root), f"the content of {name} is not what its checksum says")


def _load_json(root: Path, name: str) -> JsonObject:
    try:
        document: object = orjson.loads(_find_file(root, name).read_bytes())
    except orjson.JSONDecodeError as error:
        raise ModelDirectoryRejected(str(root), f"{name} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ModelDirectoryRejected(str(root), f"{name} is not a JSON object")
    return document


def _find_file(root: Path, name: str) -> Path:
    file = (root / name).resolve()
    if not file.is_relative_to(root):
        raise ModelDirectoryRejected(str(root), f"{name} leads out of the directory")
    if not file.is_file():
        raise ModelDirectoryRejected(str(root), f"{name} is missing")
    return file


def _compute_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- writing -----------------------------------------------------------------------------------------------------


def write_files(root: Path, files: VersionFiles) -> None:
    """Write a version's own files and their manifest into the existing folder `root`; MLflow's are not among them."""
    (root / KERAS_FOLDER).mkdir()
    shutil.copyfile(files.keras_path, root / KERAS_FILE)
    if files.onnx_path is not None:
        shutil.copyfile(files.onnx_path, root / ONNX_FILE)
    _dump_json(root / CONTRACT_FILE, files.contract)
    _dump_json(root / REFERENCE_FILE, files.reference)
    _dump_json(root / EVALUATION_FILE, files.evaluation)
    entries = {
        name: {"sha256": _compute_sha256(root / name), "size_bytes": (root / name).stat().st_size}
        for name in _list_files(has_onnx=files.onnx_path is not None)
    }
    runtime = TENSORFLOW_RUNTIME if files.onnx_path is None else ONNX_RUNTIME
    _dump_json(root / MANIFEST_FILE, {RUNTIME: runtime, "files": entries})


def log_version(
    run_id: str, files: VersionFiles, *, input_shape: Sequence[int], output_shape: Sequence[int], name: str
) -> str:
    """Log a version to the run and return the URI to register, `models:/m-…`.

    `input_shape` and `output_shape` are those of one row, without the batch; `name` is what MLflow's pages show. The
    tracking server is the one MLflow is set to. Registers nothing.
    """
    from mlflow import MlflowClient
    from mlflow.models import Model

    client = MlflowClient()
    run = client.get_run(run_id)
    # Left to `Model.log`, the logged model would join the active experiment, which need not be the run's.
    logged = client.create_logged_model(
        run.info.experiment_id, name=name, source_run_id=run_id, params=dict(run.data.params)
    )
    uri: str = Model.log(
        artifact_path=None,
        flavor=sys.modules[__name__],
        run_id=run_id,
        model_id=logged.model_id,
        files=files,
        input_shape=input_shape,
        output_shape=output_shape,
    ).model_uri
    return uri


def save_model(
    path: str, mlflow_model: "Model", *, files: VersionFiles, input_shape: Sequence[int], output_shape: Sequence[int]
) -> None:
    """Write the whole model directory at `path`, which does not exist yet. The call that `Model.log` makes."""
    with warnings.catch_warnings():
        # MLflow's own classes for chat agents raise this while its module loads.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType", category=UserWarning)
        import mlflow.pyfunc
    from mlflow.models.model import MLMODEL_FILE_NAME

    root = Path(path)
    requirements = _list_requirements()
    mlflow_model.signature = _build_signature(input_shape, output_shape)
    mlflow.pyfunc.save_model(
        path,
        loader_module="mlflow.keras",
        mlflow_model=mlflow_model,
        # Given, because MLflow's own guess loads the model in another process: 19 s for a list that is known.
        pip_requirements=[f"{package}=={installed}" for package, installed in requirements.items()],
    )
    write_files(root, files)
    mlflow_model.add_flavor(
        "keras",
        data=KERAS_FOLDER,
        keras_version=requirements["keras"],
        keras_backend="tensorflow",
        save_exported_model=False,
    )
    if files.onnx_path is not None:
        options = {"intra_op_num_threads": 1, "inter_op_num_threads": 1, "execution_mode": "sequential"}
        mlflow_model.add_flavor(
            "onnx",
            data=ONNX_FILE,
            onnx_version=requirements["onnx"],
            providers=["CPUExecutionProvider"],
            onnx_session_options=options,
        )
    mlflow_model.model_size_bytes = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    mlflow_model.save(str(root / MLMODEL_FILE_NAME))


def _build_signature(input_shape: Sequence[int], output_shape: Sequence[int]) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    inputs, outputs = (
        Schema([TensorSpec(np.dtype(np.float32), (-1, *shape))]) for shape in (input_shape, output_shape)
    )
    return ModelSignature(inputs=inputs, outputs=outputs)


def _list_requirements() -> dict[str, str]:
    """The installed versions of what loading any of the flavours needs, by package."""
    try:
        tensorflow = {"tensorflow-cpu": version("tensorflow-cpu")}
    except PackageNotFoundError:
        tensorflow = {"tensorflow": version("tensorflow")}
    return tensorflow | {package: version(package) for package in ("keras", "mlflow", "numpy", "onnx", "onnxruntime")}


def _dump_json(file: Path, document: JsonObject) -> None:
    file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
