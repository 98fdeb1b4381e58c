"""Batch scoring against bare ONNX Runtime on the same arrays: an LSTM(32) over windows of 24 steps of 4 features.

A file of one series is streamed as `millrace predict -o` does it, reading, checks, windows and writing included. Bare
ONNX Runtime is given the same windows, which are all in memory before the clock starts, in calls of the size that
suits it best of three. Both run the model on one thread. The last line has the best round of each, which other load
on the machine disturbed least.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.lib.stride_tricks import sliding_window_view

from cli.scoring import infer, score_file
from core.contract import Column, Contract, Key
from core.inference import OnnxModel

STEPS, FEATURES, UNITS = 24, 4, 32
STEP_S = 60.0
SIZES = (128, 512, 2048)


def build_contract() -> Contract:
    """A regular series of four bounded numbers."""
    names = [f"sensor_{at}" for at in range(FEATURES)]
    return Contract(
        model="batch",
        description="batch",
        kind="sequence",
        columns=(
            Column(name="at", dtype="time"),
            *(Column(name=name, dtype="float", minimum=-1e6, maximum=1e6) for name in names),
        ),
        key=Key(time="at"),
        target=names[0],
        features=tuple(names),
        steps=STEPS,
        step_s=STEP_S,
    )


def export_model(path: Path) -> None:
    """Write the LSTM as ONNX; TensorFlow is imported here alone, in a process of its own."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    from training.export import export_onnx

    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), keras.layers.LSTM(UNITS), keras.layers.Dense(1)])
    export_onnx(model, path)


def write_series(folder: Path, rows: int) -> tuple[np.ndarray, dict[str, Path]]:
    """The series as an array `(rows, features)`, as Parquet and as CSV."""
    values = np.random.default_rng(7).normal(50.0, 10.0, (rows, FEATURES)).astype(np.float32)
    start = np.datetime64("2020-01-01T00:00:00", "us")
    times = start + np.arange(rows) * np.timedelta64(int(STEP_S * 1e6), "us")
    columns = {"at": pa.array(times, pa.timestamp("us", "UTC"))}
    columns |= {f"sensor_{at}": pa.array(values[:, at]) for at in range(FEATURES)}
    table = pa.table(columns)
    paths = {"parquet": folder / "series.parquet", "csv": folder / "series.csv"}
    pq.write_table(table, paths["parquet"])
    pa_csv.write_csv(table, paths["csv"])
    return values, paths


def main() -> None:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        export_model(options.export)
        return
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as temporary:
        folder = Path(temporary)
        path = folder / "model.onnx"
        subprocess.run([sys.executable, "-m", "benchmarks.batch", "--export", str(path)], check=True)
        onnx, contract = OnnxModel.load(path), build_contract()
        values, paths = write_series(folder, options.rows)
        before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        score_file(
            contract, onnx, 1, paths["parquet"], folder / "out.parquet", rejected=None, on_progress=lambda _: None
        )
        grown_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
        windows = np.ascontiguousarray(np.moveaxis(sliding_window_view(values, STEPS, axis=0), -1, 1))
        rates: dict[str, list[float]] = {"parquet": [], "csv": [], "bare": []}
        for _ in range(options.rounds):
            bare = []
            for size in SIZES:
                began = time.perf_counter()
                for at in range(0, len(windows), size):
                    onnx.predict(windows[at : at + size])
                bare.append(len(windows) / (time.perf_counter() - began))
            print(f"bare, rows a call {SIZES}: {[round(rate) for rate in bare]}")
            rates["bare"].append(max(bare))
            for kind, path in paths.items():
                began = time.perf_counter()
                scored = score_file(
                    contract, onnx, 1, path, folder / f"out.{kind}", rejected=None, on_progress=lambda _: None
                )
                rates[kind].append(scored.predictions / (time.perf_counter() - began))
        written = pq.read_table(folder / "out.parquet")["prediction"].to_numpy()
        np.testing.assert_allclose(written, infer(onnx, windows)[:, 0], rtol=1e-6)
    batch, bare_rate, csv = (max(rates[name]) for name in ("parquet", "bare", "csv"))
    print(f"csv_rows_per_s={csv:.0f} csv_share={csv / bare_rate:.2f} grown_mb={grown_mb:.0f}")
    print(f"batch_rows_per_s={batch:.0f} bare_rows_per_s={bare_rate:.0f} share={batch / bare_rate:.2f}")


if __name__ == "__main__":
    main()
