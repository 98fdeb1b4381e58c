"""Batch scoring: a file of any size through a version's ONNX model, streamed to a file of predictions."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.contract import Contract
from core.data_errors import RowsRejected
from core.errors import ParameterRejected
from core.serving_errors import AnswerNotFinite
from core.spreadsheets import neutralise
from ingestion.fault_log import KEPT_FAULTS
from ingestion.faults import RowFault
from ingestion.scoring_rows import ScoringRows, get_key_columns, read_scoring_rows
from ingestion.scoring_windows import ScoringInputs, WindowBuilder
from ingestion.validation import ARROW_TYPES
from serving.runtimes import Runtime

ROW = "row"
PREDICTION = "prediction"

# As many rows as keep the arrays of one call in the processor's cache.
_ROWS_A_CALL = 128
_REJECTED = pa.schema([(ROW, pa.int64()), ("column", pa.string()), ("value", pa.string()), ("rule", pa.string())])
_SUFFIXES = (".parquet", ".csv")


@dataclass(frozen=True)
class Scored:
    """How many predictions were written, and how many rows were left out."""

    predictions: int
    rejected: int


def check_outputs(source: Path, output: Path, rejected: Path | None) -> None:
    """Raise ParameterRejected unless each is a file of its own that can be written as Parquet or CSV."""
    for option, path in (("--output", output), ("--rejected", rejected)):
        if path is not None and path.suffix.lower() not in _SUFFIXES:
            raise ParameterRejected(option, str(path), f"the file's name has to end in {' or '.join(_SUFFIXES)}")
        if path is not None and not path.parent.is_dir():
            raise ParameterRejected(option, str(path), "its folder has to be there")
        if path is not None and path.resolve() == source.resolve():
            raise ParameterRejected(option, str(path), "it has to be another file than the one that is read")
    if rejected is not None and rejected.resolve() == output.resolve():
        raise ParameterRejected("--rejected", str(rejected), "it has to be another file than --output")


def score_file(
    contract: Contract,
    runtime: Runtime,
    version: int,
    source: Path,
    output: Path,
    *,
    rejected: Path | None,
    on_progress: Callable[[int], None],
) -> Scored:
    """Write a prediction for every row of `source`, or for a series for every window, and keep what was left out.

    Bad rows are written to `rejected` with column, value and rule; without it the first of them ends the scoring.
    The files are there only when all is done. Raises RowsRejected, AnswerNotFinite.
    """
    builder = WindowBuilder(contract) if contract.kind == "sequence" else None
    predictions = rejections = 0
    with ExitStack() as stack:
        written = stack.enter_context(_TableFile(output, _build_schema(contract, runtime.output_shape[0])))
        beside = None if rejected is None else stack.enter_context(_TableFile(rejected, _REJECTED))
        for piece in read_scoring_rows(contract, source, on_progress):
            inputs = _build_inputs(piece, builder)
            faults = [*piece.faults, *inputs.faults]
            if faults and beside is None:
                shown = [fault.to_fault() for fault in faults[:KEPT_FAULTS]]
                raise RowsRejected(contract.model, source.name, shown, len(faults))
            if faults and beside is not None:
                beside.write(_build_rejected(faults))
                rejections += len({fault.line for fault in faults})
            if len(inputs.rows):
                outputs = infer(runtime, inputs.inputs)
                if not np.isfinite(outputs).all():
                    raise AnswerNotFinite(contract.model, version)
                written.write(_build_predictions(contract, written.schema, piece, inputs, outputs))
                predictions += len(outputs)
    return Scored(predictions, rejections)


def infer(runtime: Runtime, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs `(n, outputs)` of `inputs (n, *input_shape)`, computed some rows at a time."""
    outputs = np.empty((len(inputs), *runtime.output_shape), dtype=np.float32)
    for start in range(0, len(inputs), _ROWS_A_CALL):
        outputs[start : start + _ROWS_A_CALL] = runtime.predict(inputs[start : start + _ROWS_A_CALL])
    return outputs


def _build_inputs(piece: ScoringRows, builder: WindowBuilder | None) -> ScoringInputs:
    if builder is not None:
        return builder.build(piece)
    return ScoringInputs(piece.values, np.arange(len(piece.lines)), ())


def _build_schema(contract: Contract, outputs: int) -> pa.Schema:
    keys = [(column.name, ARROW_TYPES[column.dtype]) for column in get_key_columns(contract)]
    names = [PREDICTION] if outputs == 1 else [f"{PREDICTION}_{at}" for at in range(outputs)]
    return pa.schema([(ROW, pa.int64()), *keys, *((name, pa.float32()) for name in names)])


def _build_predictions(
    contract: Contract,
    schema: pa.Schema,
    piece: ScoringRows,
    inputs: ScoringInputs,
    outputs: NDArray[np.float32],
) -> pa.Table:
    columns: list[pa.Array] = [pa.array(piece.lines[inputs.rows])]
    places = pa.array(inputs.rows)
    for column in get_key_columns(contract):
        wanted = ARROW_TYPES[column.dtype]
        given = piece.keys.get(column.name)
        columns.append(pa.nulls(len(inputs.rows), wanted) if given is None else given.cast(wanted).take(places))
    columns += [pa.array(np.ascontiguousarray(outputs[:, at])) for at in range(outputs.shape[1])]
    return pa.Table.from_arrays(columns, schema=schema)


def _build_rejected(faults: Sequence[RowFault]) -> pa.Table:
    rows = [{ROW: f.line, "column": f.column, "value": f.value, "rule": f.rule} for f in faults]
    return pa.Table.from_pylist(rows, schema=_REJECTED)


def _neutralise_text(table: pa.Table) -> pa.Table:
    """The table with no text that a spreadsheet takes for a formula."""
    for at, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            cells = [None if cell is None else neutralise(cell) for cell in table.column(at).to_pylist()]
            table = table.set_column(at, field, pa.array(cells, field.type))
    return table


class _TableFile:
    """A Parquet or CSV file, by its name, that is there only when it was written to its end."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self.schema = schema
        self._is_csv = path.suffix.lower() != ".parquet"
        self._writer = (pa_csv.CSVWriter if self._is_csv else pq.ParquetWriter)(self._partial, schema)

    def __enter__(self) -> Self:
        return self

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(_neutralise_text(table) if self._is_csv else table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)
