"""What the serving process loads."""

import json
import subprocess
import sys

HEAVY = (
    "tensorflow",
    "keras",
    "pandas",
    "pyarrow",
    "evidently",
    "optuna",
    "onnx",
    "sklearn",
    "matplotlib",
    "workloads",
)


def load_modules(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {name.partition(".")[0] for name in json.loads(output.splitlines()[-1])}


def test_serving_loads_no_heavy_engine_and_the_registry_only_after_the_start() -> None:
    at_start = load_modules("import serving.server")
    assert at_start.isdisjoint({*HEAVY, "mlflow"})
    assert "onnxruntime" in at_start
