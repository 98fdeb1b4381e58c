"""The servers that ours is measured beside, on the same model, one worker each.

MLServer lives in an environment of its own under `.bench`, made where it is missing. The echo and `mlflow models serve`
run from the project's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.platform import FEATURES, FOLDER, STEPS, find_free_port, started, wait_for

MLSERVER = ("mlserver>=1.7,<2", "onnxruntime>=1.22")

_RUNTIME = """
import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        outputs = self._session.run(None, {"inputs": inputs})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("outputs", outputs)])
"""


def build_echo() -> object:
    """A plain FastAPI route that answers with the body it was sent."""
    from fastapi import FastAPI, Request

    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, int]:
        return {"size": len(await request.body())}

    return app


@contextmanager
def running_echo() -> Iterator[str]:
    """The echo under uvicorn with uvloop and httptools; yields its address."""
    port = find_free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.peers:build_echo", "--port", str(port)]
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    with started([*command, *options], dict(os.environ), FOLDER / "echo.log") as popen:
        wait_for(f"http://127.0.0.1:{port}/openapi.json", popen)
        yield f"http://127.0.0.1:{port}/echo"


@contextmanager
def running_mlflow(model_uri: str, tracking_address: str) -> Iterator[str]:
    """`mlflow models serve` with one worker; yields the address that predicts."""
    port = find_free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model_uri, "--env-manager", "local"]
    options = ["-h", "127.0.0.1", "-p", str(port), "-w", "1"]
    # It looks uvicorn up on the path, where an activated environment has it.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_address, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with started([*command, *options], environment, FOLDER / "mlflow.log") as popen:
        wait_for(f"http://127.0.0.1:{port}/ping", popen)
        yield f"http://127.0.0.1:{port}/invocations"


def build_mlflow_body(rows: NDArray[np.float64]) -> bytes:
    return json.dumps({"inputs": rows.tolist()}).encode()


@contextmanager
def running_mlserver(onnx_path: Path) -> Iterator[str | None]:
    """MLServer with the model in ONNX Runtime, in its main process; yields the v2 address, None if it is not there."""
    python = _ensure_mlserver()
    if python is None:
        yield None
        return
    folder = FOLDER / "mlserver-model"
    folder.mkdir(exist_ok=True)
    port = find_free_port()
    (folder / "onnx_runtime.py").write_text(_RUNTIME)
    (folder / "settings.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "http_port": port,
                "grpc_port": find_free_port(),
                "metrics_port": find_free_port(),
                "parallel_workers": 0,
                "debug": False,
            }
        )
    )
    settings = {"name": "bench", "implementation": "onnx_runtime.Onnx", "parameters": {"uri": str(onnx_path)}}
    (folder / "model-settings.json").write_text(json.dumps(settings))
    command = [str(python.parent / "mlserver"), "start", str(folder)]
    with started(command, os.environ | {"PYTHONPATH": str(folder)}, FOLDER / "mlserver.log") as popen:
        wait_for(f"http://127.0.0.1:{port}/v2/models/bench/ready", popen)
        yield f"http://127.0.0.1:{port}/v2/models/bench/infer"


def build_mlserver_body(rows: NDArray[np.float64]) -> bytes:
    data = rows.reshape(-1).tolist()
    tensor = {"name": "inputs", "shape": [len(rows), STEPS, FEATURES], "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


def _ensure_mlserver() -> Path | None:
    """The Python of MLServer's environment; None, with a word on why, where it does not install."""
    python = FOLDER / "mlserver" / "bin" / "python"
    if not (python.parent / "mlserver").exists():
        print("installing MLServer into an environment of its own", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER / "mlserver")], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *MLSERVER]
        if subprocess.run(install, check=False).returncode != 0:
            print("MLServer does not install here: it is left out", flush=True)
            return None
    return python
