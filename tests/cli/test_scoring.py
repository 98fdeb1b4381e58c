"""Batch scoring of files: predictions against numpy, bad rows, order, gaps, and what is left behind by a failure."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from cli.scoring import Scored, check_outputs, score_file
from core.contract import Column, Contract, Key
from core.data_errors import RowsRejected
from core.errors import ParameterRejected
from core.inference import OnnxModel
from core.serving_errors import AnswerNotFinite
from tests.serving.onnx_models import write_version
from tests.serving.tables import build_table, multiply, write_table_version

STEPS = 3
STEP = timedelta(hours=1)
START = datetime(2024, 1, 1, tzinfo=UTC)


def build_series(*, entity: str | None = "machine", is_regular: bool = True) -> Contract:
    """Hourly rows of `heat` (from 0 to 100) and `load` of each machine, in windows of three."""
    return Contract(
        model="heats",
        description="heats",
        kind="sequence",
        columns=(
            Column(name="at", dtype="time"),
            Column(name="machine", dtype="text"),
            Column(name="heat", dtype="float", minimum=0.0, maximum=100.0, aliases=("Temperature",)),
            Column(name="load", dtype="integer"),
        ),
        key=Key(entity=entity, time="at"),
        target="heat",
        features=("heat", "load"),
        steps=STEPS,
        step_s=STEP.total_seconds() if is_regular else None,
    )


@pytest.fixture(scope="module")
def mean(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Answers a window with the mean of each feature; NaN from a mean of 1e6 on."""
    folder = tmp_path_factory.mktemp("mean")
    write_version(folder, build_series().model_copy(update={"monitored": ()}), "nan_above")
    return OnnxModel.load(folder / "model.onnx")


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    folder = tmp_path_factory.mktemp("product") / "version"
    write_table_version(folder)
    return OnnxModel.load(folder / "model.onnx")


def _score(
    contract: Contract, onnx: OnnxModel, source: Path, output: Path, rejected: Path | None = None
) -> tuple[Scored, pa.Table]:
    seen: list[int] = []
    scored = score_file(contract, onnx, 3, source, output, rejected=rejected, on_progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == source.stat().st_size
    read = pq.read_table if output.suffix == ".parquet" else pa_csv.read_csv
    return scored, read(output)


def _write(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pa_csv.write_csv(table, path)
    return path


def _build_rows(hours: list[int], machines: list[str], heats: Sequence[float | None], loads: list[int]) -> pa.Table:
    at = pa.array([START + hour * STEP for hour in hours], pa.timestamp("us", "UTC"))
    return pa.table({"note": ["x"] * len(hours), "load": loads, "at": at, "Temperature": heats, "machine": machines})


def _build_two_machines(rows: int) -> pa.Table:
    """Two machines that take turns, with an hour between the rows of each."""
    rng = np.random.default_rng(5)
    heats = [float(heat) for heat in rng.uniform(0.0, 100.0, rows).round(3)]
    return _build_rows(
        [at // 2 for at in range(rows)], ["ab"[at % 2] for at in range(rows)], heats, rng.integers(0, 9, rows).tolist()
    )


def _mean_windows(table: pa.Table, machine: str) -> NDArray[np.float64]:
    """The mean of the two features over each window of the machine's rows, `(windows, features)`."""
    own = table.filter(pa.compute.equal(table["machine"], machine))
    values = np.stack([own["Temperature"].to_numpy(), own["load"].to_numpy()], axis=1)
    return np.stack([values[at : at + STEPS].mean(axis=0) for at in range(len(values) - STEPS + 1)])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("output_kind", ["csv", "parquet"])
def test_every_window_of_each_entity_is_predicted_across_pieces(
    mean: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, output_kind: str
) -> None:
    monkeypatch.setattr("ingestion.parquet_files.BATCH_ROWS", 7)
    monkeypatch.setattr("ingestion.csv_files.CHUNK_BYTES", 1 << 10)
    table = _build_two_machines(200)
    source = _write(tmp_path / f"in.{kind}", table)
    scored, written = _score(build_series(), mean, source, tmp_path / f"out.{output_kind}")
    assert scored == Scored(predictions=196, rejected=0)
    first = 2 if kind == "csv" else 1
    assert written["row"].to_pylist() == list(range(first + 4, first + 200))
    for machine in "ab":
        own = written.filter(pa.compute.equal(written["machine"], machine))
        predicted = np.stack([own["prediction_0"].to_numpy(), own["prediction_1"].to_numpy()], axis=1)
        np.testing.assert_allclose(predicted, _mean_windows(table, machine), rtol=1e-5)
    if output_kind == "parquet":
        assert written["at"].to_pylist() == table["at"].to_pylist()[4:]


def test_no_window_spans_a_missing_step(mean: OnnxModel, tmp_path: Path) -> None:
    hours = [0, 1, 2, 3, 5, 6, 7]
    table = _build_rows(hours, ["a"] * 7, [float(hour) for hour in hours], [0] * 7)
    _, written = _score(build_series(), mean, _write(tmp_path / "in.parquet", table), tmp_path / "out.parquet")
    assert written["row"].to_pylist() == [3, 4, 7]
    assert written["prediction_0"].to_pylist() == [1.0, 2.0, 6.0]


@pytest.mark.parametrize("is_regular", [True, False])
def test_no_window_spans_a_row_that_was_left_out(
    mean: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_regular: bool
) -> None:
    heats = [1.0, 2.0, 3.0, None, 5.0, 6.0, 7.0, 101.0, 9.0, 10.0, 11.0]
    table = _build_rows(list(range(11)), ["a"] * 11, heats, [0] * 11)
    contract = build_series(entity=None, is_regular=is_regular)
    source = _write(tmp_path / "in.parquet", table)
    for rows in (1, 4, 8, 100):
        monkeypatch.setattr("ingestion.parquet_files.BATCH_ROWS", rows)
        rejected = tmp_path / "bad.csv"
        scored, written = _score(contract, mean, source, tmp_path / "out.parquet", rejected)
        assert scored == Scored(predictions=3, rejected=2)
        assert written["row"].to_pylist() == [3, 7, 11]
        bad = pa_csv.read_csv(rejected)
        assert bad["row"].to_pylist() == [4, 8]
        assert bad["column"].to_pylist() == ["heat", "heat"]
        assert "needed" in bad["rule"].to_pylist()[0] and "at most 100" in bad["rule"].to_pylist()[1]


def test_row_out_of_order_is_left_out(mean: OnnxModel, tmp_path: Path) -> None:
    table = _build_rows([0, 1, 1, 2, 0, 3], ["a"] * 6, [0.0, 1.0, 50.0, 2.0, 50.0, 3.0], [0] * 6)
    source = _write(tmp_path / "in.parquet", table)
    _, written = _score(build_series(), mean, source, tmp_path / "out.parquet", tmp_path / "bad.parquet")
    assert written["prediction_0"].to_pylist() == [1.0, 2.0]
    bad = pq.read_table(tmp_path / "bad.parquet")
    assert bad["row"].to_pylist() == [3, 5]
    assert "sort the file" in bad["rule"].to_pylist()[0]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_table_gives_one_prediction_a_row_with_columns_by_name(product: OnnxModel, tmp_path: Path, kind: str) -> None:
    rows = np.array([[3.0, 4.0], [0.5, -2.0], [7.0, 10.0]])
    table = pa.table({"height": rows[:, 1], "area": pa.nulls(3), "width": rows[:, 0]})
    source = _write(tmp_path / f"in.{kind}", table)
    scored, written = _score(build_table(), product, source, tmp_path / "out.parquet")
    assert scored.predictions == 3
    predicted = np.stack([written["prediction_0"].to_numpy(), written["prediction_1"].to_numpy()], axis=1)
    np.testing.assert_allclose(predicted, multiply(rows.astype(np.float32)))


def test_bad_rows_of_a_csv_are_kept_beside_with_their_reasons(product: OnnxModel, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("width,height\n3,4\n-1,2\n=wide,2\n1,\n2,11\n1e39,1\n1,2,3\n1,1\n")
    scored, written = _score(build_table(), product, source, tmp_path / "out.csv", tmp_path / "bad.csv")
    assert (scored, written["row"].to_pylist()) == (Scored(predictions=2, rejected=6), [2, 9])
    bad = pa_csv.read_csv(tmp_path / "bad.csv")
    assert bad["row"].to_pylist() == [3, 4, 5, 6, 7, 8]
    assert bad["value"].to_pylist()[:3] == ["-1", "'=wide", ""]


def test_bad_row_stops_the_scoring_and_leaves_no_file_where_none_was_asked_for(
    product: OnnxModel, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.parquet"
    source.write_text("width,height\n3,4\n3,11\n")
    output.write_bytes(b"from before")
    with pytest.raises(RowsRejected, match="line 3, column height"):
        _score(build_table(), product, source, output)
    assert output.read_bytes() == b"from before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.parquet"]


def test_answer_that_is_not_finite_stops_the_scoring(mean: OnnxModel, tmp_path: Path) -> None:
    table = _build_rows([0, 1, 2], ["a"] * 3, [1.0] * 3, [10**7] * 3)
    with pytest.raises(AnswerNotFinite):
        _score(build_series(), mean, _write(tmp_path / "in.parquet", table), tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("in.csv", b"width\n1\n", "height"),
        ("in.csv", b"", "an empty file"),
        ("in.csv", b"\xff\xfe\x00", "in.csv"),
        ("in.parquet", b"PAR1 and no more", "in.parquet"),
    ],
)
def test_file_that_cannot_be_read_is_refused(
    product: OnnxModel, tmp_path: Path, name: str, content: bytes, named: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RowsRejected, match=named):
        _score(build_table(), product, tmp_path / name, tmp_path / "out.csv", tmp_path / "bad.csv")


def test_parquet_text_that_is_no_number_is_refused(product: OnnxModel, tmp_path: Path) -> None:
    source = _write(tmp_path / "in.parquet", pa.table({"width": ["a"], "height": [1.0]}))
    with pytest.raises(RowsRejected, match="line 1, column width: 'a' is not allowed"):
        _score(build_table(), product, source, tmp_path / "out.csv")


def test_names_of_outputs_are_checked_first(tmp_path: Path) -> None:
    for output, rejected in (
        ("out.xlsx", None),
        ("out.csv", "out.csv"),
        ("out.csv", "bad.txt"),
        ("no/out.csv", None),
        ("in.csv", None),
    ):
        with pytest.raises(ParameterRejected):
            check_outputs(tmp_path / "in.csv", tmp_path / output, None if rejected is None else tmp_path / rejected)
