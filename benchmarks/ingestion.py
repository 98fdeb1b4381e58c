"""How fast rows come in: a CSV file of 8 numeric columns, and MQTT messages, to validated, stored rows.

`python -m benchmarks.ingestion [--rows N] [--messages N] [--folder F]`. Each half has an embedded database of its own,
in a folder that is removed at the end.

The file's import runs in a process of its own, whose peak memory is the figure. The peer is psycopg's COPY of the same
file, unchecked, into a table of the same columns and key. The same file again, whose rows are stored already, takes the
longer way through a temporary table and is shown for comparison. `benchmarks.messages` says how messages are measured;
they need a Mosquitto.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
from psycopg.sql import SQL, Identifier
from pyarrow import csv as arrow_csv

from benchmarks.messages import MESSAGES, measure_messages
from core.contract import Column, Contract, Key, build_contract
from core.database import build_libpq_url, create_database_engine, create_partitions, migrate_database
from core.embedded_database import running_database
from ingestion.importing import import_file
from ingestion.store import build_table_name, prepare_table

MODEL = "bench"
COLUMNS = tuple(f"x{at}" for at in range(8))
ROWS = 1_000_000
_FIRST_AT = datetime(2024, 1, 1, tzinfo=UTC)
_WRITE_ROWS = 500_000
_READ_BYTES = 1 << 20
_MAX_BYTES = 1 << 40


@dataclass(frozen=True)
class CsvFigures:
    """Rows per second of the import and of its peer, and the peak memory of the importing process in MB."""

    rows_per_s: float
    peak_mb: float
    peer_rows_per_s: float
    again_rows_per_s: float


def main() -> None:
    """Measure, and print the figures with the headline's line last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--import", nargs=2, dest="importing", metavar=("URL", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.importing is not None:
        _import(*given.importing)
        return
    rows = measure_csv(given.folder, given.rows)
    print(f"{given.rows} rows of {len(COLUMNS)} numbers, once in order and once more where they are stored already")
    print(f"csv_again_rows_per_s={rows.again_rows_per_s:.0f}")
    print(f"peer_copy_rows_per_s={rows.peer_rows_per_s:.0f}")
    messages = measure_messages(given.messages)
    print(f"{given.messages} messages that waited in a Mosquitto, and a part of them published again")
    print(
        f"csv_rows_per_s={rows.rows_per_s:.0f} csv_peak_mb={rows.peak_mb:.0f} "
        f"mqtt_msgs_per_s={messages.per_s:.0f} lost={messages.lost} duplicates={messages.duplicates}"
    )


def measure_csv(parent: Path, rows: int) -> CsvFigures:
    """Import one file of that many rows, and copy it as the peer does."""
    # The database's own user has to reach the folder where this runs as root.
    folder = Path(tempfile.mkdtemp(prefix="millrace-bench-", dir=parent))
    folder.chmod(0o755)
    try:
        path = folder / "rows.csv"
        write_rows(path, rows)
        with running_database(folder) as url:
            migrate_database(url)
            first_s, peak_mb = _run_import(url, path)
            again_s, _ = _run_import(url, path)
            peer_s = _copy(url, path, rows)
        return CsvFigures(rows / first_s, peak_mb, rows / peer_s, rows / again_s)
    finally:
        shutil.rmtree(folder)


def build_bench_contract() -> Contract:
    """A reading a second of 8 bounded numbers, without a gap."""
    numbers = (Column(name=name, dtype="float", minimum=-1e6, maximum=1e6) for name in COLUMNS)
    return build_contract(
        MODEL,
        description="readings",
        kind="sequence",
        columns=(Column(name="at", dtype="time"), *numbers),
        key=Key(time="at"),
        target=COLUMNS[0],
        features=COLUMNS[:1],
        steps=2,
        step_s=1.0,
        gaps="refuse",
    )


def write_rows(path: Path, rows: int, seed: int = 7) -> None:
    """A CSV of that many rows, normal numbers with four decimals."""
    generator = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(f"at,{','.join(COLUMNS)}\n".encode())
        for first in range(0, rows, _WRITE_ROWS):
            count = min(_WRITE_ROWS, rows - first)
            times = np.datetime64(_FIRST_AT.replace(tzinfo=None), "s") + np.arange(first, first + count)
            numbers = {name: np.round(generator.normal(20.0, 5.0, count), 4) for name in COLUMNS}
            table = pa.table({"at": times, **numbers})
            arrow_csv.write_csv(table, file, arrow_csv.WriteOptions(include_header=False))


def _run_import(url: str, path: Path) -> tuple[float, float]:
    """Seconds of one import in a process of its own, and that process's peak memory in MB."""
    command = [sys.executable, "-m", "benchmarks.ingestion", "--import", url, str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak_mb = (float(word) for word in done.stdout.split())
    return seconds, peak_mb


def _import(url: str, path: str) -> None:
    engine = create_database_engine(url)
    began = time.perf_counter()
    import_file(engine, build_bench_contract(), Path(path), name="rows.csv", actor="benchmark", max_bytes=_MAX_BYTES)
    seconds = time.perf_counter() - began
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _copy(url: str, path: Path, rows: int) -> float:
    """Seconds of a plain COPY of the file into a fresh table of the same columns, key and partitions."""
    contract = build_bench_contract().model_copy(update={"model": "peer"})
    engine = create_database_engine(url)
    table = build_table_name(contract.model)
    with engine.begin() as connection:
        prepare_table(connection, contract)
        connection.exec_driver_sql(f"ALTER TABLE {table} ALTER source_id DROP NOT NULL")
        last_at = _FIRST_AT + timedelta(seconds=rows)
        create_partitions(connection, table, _FIRST_AT, last_at, "month")
    engine.dispose()
    began = time.perf_counter()
    names = SQL(", ").join(map(Identifier, ("at", *COLUMNS)))
    statement = SQL("COPY {} ({}) FROM STDIN (FORMAT csv, HEADER)").format(Identifier(table), names)
    with (
        path.open("rb") as file,
        psycopg.connect(build_libpq_url(url)) as raw,
        raw.cursor() as cursor,
        cursor.copy(statement) as copy,
    ):
        while piece := file.read(_READ_BYTES):
            copy.write(piece)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
