"""Local inference: a registered version answers from the command line, without the service."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cli.output import JsonOption, console, errors, print_json, print_table
from cli.scoring import check_outputs, score_file
from cli.session import platform_session
from core.codecs import MAX_ROWS, decode_rows, decode_values
from core.connections import Connections
from core.contract import Contract
from core.data_errors import RowsRejected
from core.errors import Fault, ParameterRejected
from core.features import build_windows
from core.model_directory import ModelDirectory
from core.resolution import find_target_version
from core.targets import PRODUCTION, load_targets
from ingestion.reading import read_columns
from serving.runtimes import Runtime, load_runtime
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
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the predictions to this file, .parquet or .csv.")
    ] = None,
    rejected: Annotated[
        Path | None, typer.Option("--rejected", help="With -o: keep bad rows in this file instead of stopping.")
    ] = None,
    version: Annotated[
        str | None,
        typer.Option("--version", help="`Production`, `latest`, a number or a name; by default what serves."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict from a list of numbers, or for every row or window of a file, with the version that serves.

    With -o a CSV or Parquet file of any size is streamed through the model. Nothing of it goes to the prediction log.
    """
    if get_workload(model).kind == "ranking":
        raise ParameterRejected("predict", model, "a ranking is asked for over HTTP, by user")
    if (file is None) == (values is None):
        raise ParameterRejected("predict", model, "give either a file or --values")
    if output is None and rejected is not None:
        raise ParameterRejected("--rejected", str(rejected), "it goes with --output")
    if output is not None:
        if file is None:
            raise ParameterRejected("--output", str(output), "it goes with a file")
        check_outputs(file, output, rejected)
        _score(model, file, output, rejected, version, as_json=as_json)
        return
    numbers = _read_numbers(values or "")
    with platform_session(is_reading=True) as connections, TemporaryDirectory(prefix="millrace-predict-") as folder:
        number, contract, runtime = _load(connections, model, version, Path(folder))
        if file is None:
            answer = runtime.predict(decode_values(contract, numbers))[0]
            _print_one(model, number, [float(value) for value in answer], as_json=as_json)
            return
        rows = _predict_file(contract, runtime, file, connections.settings.max_upload_bytes)
    if as_json:
        print_json({"model": model, "version": number, "predictions": rows})
        return
    unit = contract.column(contract.target).unit
    label = f"{contract.target} ({unit})" if unit else contract.target
    columns = ["row", *(f"predicted {name}" for name in contract.classes or [label])][: 1 + contract.outputs]
    columns += [f"{step} ahead" for step in range(2, contract.outputs + 1)] if contract.kind == "sequence" else []
    print_table(f"{model} version {number}", columns, [[row.row, *row.predictions] for row in rows])


def _score(model: str, file: Path, output: Path, rejected: Path | None, version: str | None, *, as_json: bool) -> None:
    with platform_session(is_reading=True) as connections, TemporaryDirectory(prefix="millrace-predict-") as folder:
        number, contract, onnx = _load(connections, model, version, Path(folder))
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=errors, transient=True) as progress:
            bar = progress.add_task(file.name, total=file.stat().st_size)
            scored = score_file(
                contract,
                onnx,
                number,
                file,
                output,
                rejected=rejected,
                on_progress=lambda read_bytes: progress.update(bar, completed=read_bytes),
            )
    if as_json:
        print_json({"model": model, "version": number, "output": str(output), **asdict(scored)})
        return
    console.print(f"{model} version {number}: {scored.predictions} predictions in {output}", soft_wrap=True)
    if rejected is not None:
        console.print(f"{scored.rejected} rows left out, in {rejected}", soft_wrap=True)


@dataclass(frozen=True)
class FilePrediction:
    """What the model answers for one row of the file, by its number, or for a window, by the time of its last row."""

    row: str
    predictions: list[float]


def _predict_file(contract: Contract, runtime: Runtime, file: Path, max_bytes: int) -> list[FilePrediction]:
    """A prediction for every row of the file, or for every window, the one that ends in its last row too."""
    columns = read_columns(contract, file, max_bytes=max_bytes)
    if contract.kind == "tabular":
        return _predict_rows(contract, runtime, columns)
    entities = columns[contract.key.entity] if contract.key.entity else None
    found: list[FilePrediction] = []
    for entity in [None] if entities is None else sorted(set(entities.tolist())):
        chosen = slice(None) if entities is None else entities == entity
        series = np.stack([columns[name][chosen].astype(np.float64) for name in contract.features], axis=1)
        # A row after the last stands in for its unknown target.
        windows, targets = build_windows(np.concatenate([series, series[-1:]]), contract.steps)
        times = columns[contract.key.time or ""][chosen].astype("datetime64[s]")
        if len(windows):
            outputs = runtime.predict(np.ascontiguousarray(windows, dtype=np.float32))
            names = [f"{time}" if entity is None else f"{entity} {time}" for time in times[targets - 1]]
            found += [FilePrediction(name, row.tolist()) for name, row in zip(names, outputs, strict=True)]
    if not found:
        rule = f"at least {contract.steps} rows are needed for one window"
        rows = str(len(columns[contract.target]))
        raise RowsRejected(contract.model, file.name, [Fault("rows", rows, rule)], 1)
    return found


def _predict_rows(contract: Contract, runtime: Runtime, columns: Mapping[str, NDArray[Any]]) -> list[FilePrediction]:
    cells = {name: columns[name].tolist() for name in contract.features}
    # A column of numbers has NaN for what is absent.
    rows = [
        {name: None if _is_absent(value) else value for name, value in zip(cells, row, strict=True)}
        for row in zip(*cells.values(), strict=True)
    ]
    found: list[FilePrediction] = []
    for first in range(0, len(rows), MAX_ROWS):
        outputs = runtime.predict(decode_rows(contract, rows[first : first + MAX_ROWS]))
        found += [FilePrediction(str(first + place), row.tolist()) for place, row in enumerate(outputs, start=1)]
    return found


def _is_absent(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _print_one(model: str, version: int, predictions: list[float], *, as_json: bool) -> None:
    if as_json:
        prediction = predictions[0] if len(predictions) == 1 else predictions
        print_json({"model": model, "version": version, "prediction": prediction})
    else:
        console.print(" ".join(f"{prediction:.6f}" for prediction in predictions))


def _load(connections: Connections, model: str, version: str | None, folder: Path) -> tuple[int, Contract, Runtime]:
    with connections.engine.connect() as connection:
        target = version or load_targets(connection).get(model, PRODUCTION)
    number = find_target_version(connections, model, target)
    connections.registry.download(model, number, folder)
    directory = ModelDirectory.open(folder)
    return number, Contract.model_validate(directory.contract), load_runtime(directory)


def _read_numbers(text: str) -> list[float]:
    numbers = []
    for place, entry in enumerate(text.replace(",", " ").split()):
        try:
            numbers.append(float(entry))
        except ValueError:
            raise ParameterRejected(f"values[{place}]", entry, "a number is expected") from None
    return numbers
