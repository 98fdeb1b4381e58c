"""Serving installed from its own lock alone, as its image has it: the process starts there and needs no more."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import find_free_port
from tests.packaging.locks import ROOT, image_lock
from tests.serving.onnx_models import build_contract, write_version

ENGINES = (
    "tensorflow",
    "keras",
    "pandas",
    "evidently",
    "optuna",
    "pyarrow",
    "scipy",
    "sklearn",
    "matplotlib",
    "tf2onnx",
)
START_TIMEOUT_S = 60.0


@pytest.fixture(scope="session")
def serving_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Python of an environment made from the serving lock."""
    folder = tmp_path_factory.mktemp("serving") / "environment"
    python = str(folder / "bin" / "python")
    lock = str(image_lock("serving"))
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [sys.executable, "-m", "uv", "pip", "sync", "--quiet", "--python", python, "--require-hashes", lock]
    if subprocess.run(install, check=False).returncode != 0:
        # Where only pip knows how to reach the package index.
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", lock], check=True
        )
    yield python
    shutil.rmtree(folder)


def test_serving_process_loads_without_the_engines_of_training_and_monitoring(serving_python: str) -> None:
    program = f"""
import importlib.util, json, sys
import serving.server, serving.registry_client, core.registry
print(json.dumps({{
    "loaded": [name for name in {ENGINES!r} if name in sys.modules],
    "installed": [name for name in {ENGINES!r} if importlib.util.find_spec(name)],
    "serving": serving.server.__file__,
}}))
"""
    done = subprocess.run([serving_python, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)

    assert found["loaded"] == []
    assert found["installed"] == []
    assert Path(found["serving"]).is_relative_to(ROOT)


def test_version_without_onnx_is_refused_by_naming_the_extra_that_runs_it(serving_python: str, tmp_path: Path) -> None:
    write_version(tmp_path / "version", build_contract(), "mean", has_onnx=False)
    program = f"""
from pathlib import Path
from core.serving_errors import RuntimeMissing
from serving.loading import load_version
try:
    load_version(Path({str(tmp_path / "version")!r}), "prices", 1)
except RuntimeMissing as error:
    print(error.sentence)
"""
    done = subprocess.run([serving_python, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    assert "millrace[serving-tensorflow]" in done.stdout


def test_serving_command_runs_in_its_own_environment(
    serving_python: str, migrated_database_url: str, tmp_path: Path
) -> None:
    environment = {
        "PATH": os.defpath,
        "DATABASE_URL": migrated_database_url,
        "MILLRACE_HOME": str(tmp_path / "home"),
        "MILLRACE_SERVING_PORT": str(find_free_port()),
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{find_free_port()}",
    }
    log_path = tmp_path / "serving.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [serving_python, "-m", "cli.main", "serve"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        is_well = _becomes_well(process, [serving_python, "deploy/health.py", "serving"], environment)
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)

    assert is_well, log_path.read_text(encoding="utf-8")[-4000:]


def _becomes_well(process: "subprocess.Popen[bytes]", check: list[str], environment: dict[str, str]) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        done = subprocess.run(check, cwd=ROOT, env=environment, check=False, stderr=subprocess.DEVNULL)
        if done.returncode == 0:
            return True
        time.sleep(0.2)
    return False
