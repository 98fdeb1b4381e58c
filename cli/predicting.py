"""Local inference: a registered version answers from the command line, without the service."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from cli.output import JsonOption, console, print_json, print_table
from cli.session import platform_session
from core.codecs import decode_values
from core.connections import Connections
from core.contract import Contract
from core.errors import Fault, ParameterRejected, RowsRejected
from core.features import build_windows
from core.inference import OnnxModel
from core.model_directory import ModelDirectory
from core.resolution import find_target_version
from core.targets import PRODUCTION, load_targets
from ingestion.reading import read_columns
from workloads.catalogue import get_workload


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(predict)


def predict(
    model: Annotated[str, typer.Argument(help="The model, as in `prices`.")],
    file: Annotated[
        Path | None, typer.Argument(help="A CSV file with the workload's columns.", exists=True, dir_okay=False)
    ] = None,
    *,
    values: Annotated[
        str | None, typer.Option("--values", help="One window as numbers with commas between, oldest first.")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="`Production`, `latest` or a number; by default what serves.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict from a list of numbers, or for every window of a file, with the version that serves."""
    get_workload(model)
    if (file is None) == (values is None):
        raise ParameterRejected("predict", model, "give either a file or --values")
    numbers = _read_numbers(values or "")
    with platform_session() as connections, TemporaryDirectory(prefix="millrace-predict-") as folder:
        number, contract, onnx = _load(connections, model, version, Path(folder))
        if file is None:
            inputs = decode_values(contract, numbers)
            _print_one(model, number, float(onnx.predict(inputs)[0, 0]), as_json=as_json)
            return
        rows = _predict_file(contract, onnx, file, connections.settings.max_upload_bytes)
    if as_json:
        print_json({"model": model, "version": number, "predictions": rows})
        return
    unit = contract.column(contract.target).unit
    columns = ["after", f"predicted next {contract.target} ({unit})"]
    print_table(f"{model} version {number}", columns, [[row.after, row.prediction] for row in rows])


@dataclass(frozen=True)
class FilePrediction:
    """What a window's next value is predicted to be; `after` is the time of its last row."""

    after: str
    prediction: float


def _predict_file(contract: Contract, onnx: OnnxModel, file: Path, max_bytes: int) -> list[FilePrediction]:
    """A prediction for every window of the file, the one that ends in its last row too."""
    series = read_columns(contract, file, max_bytes=max_bytes)
    inputs = np.stack([series[name].astype(np.float64) for name in contract.features], axis=1)
    # A row after the last stands in for its unknown target.
    windows, targets = build_windows(np.concatenate([inputs, inputs[-1:]]), contract.steps)
    if not len(windows):
        rule = f"at least {contract.steps} rows are needed for one window"
        raise RowsRejected(contract.model, file.name, [Fault("rows", str(len(inputs)), rule)], 1)
    times = series[contract.key.time or ""]
    predictions = onnx.predict(np.ascontiguousarray(windows, dtype=np.float32))[:, 0]
    return [
        FilePrediction(str(times[target - 1].astype("datetime64[s]")), float(prediction))
        for target, prediction in zip(targets, predictions, strict=True)
    ]


def _print_one(model: str, version: int, prediction: float, *, as_json: bool) -> None:
    if as_json:
        print_json({"model": model, "version": version, "prediction": prediction})
    else:
        console.print(f"{prediction:.6f}")


def _load(connections: Connections, model: str, version: str | None, folder: Path) -> tuple[int, Contract, OnnxModel]:
    with connections.engine.connect() as connection:
        target = version or load_targets(connection).get(model, PRODUCTION)
    number = find_target_version(connections, model, target)
    connections.registry.download(model, number, folder)
    directory = ModelDirectory.open(folder)
    return number, Contract.model_validate(directory.contract), OnnxModel.load(directory.onnx_path)


def _read_numbers(text: str) -> list[float]:
    numbers = []
    for place, entry in enumerate(text.replace(",", " ").split()):
        try:
            numbers.append(float(entry))
        except ValueError:
            raise ParameterRejected(f"values[{place}]", entry, "a number is expected") from None
    return numbers
