"""Checks from the real database: one of ten million predictions, and a round over a thousand models.

Counts are made by the folding that ships the journal (`serving.counting`), from generated values; the predictions
themselves are left out, since no check reads them. The models of a round are copies of a few.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sqlalchemy import Connection, text

from core.bins import measure_ks
from core.connections import Connections, open_connections
from core.database import migrate_database
from core.embedded_database import running_database
from core.policies import DriftPolicy
from core.reference import Reference, build_reference
from core.settings import load_settings
from core.tables.monitoring import version_references
from monitoring.checking import judge_version
from monitoring.rounds import check_versions
from monitoring.windows import load_window
from serving.counting import HOUR_US, Hour, add_counts

COLUMNS, WINDOW_H = 10, 168
REFERENCE_ROWS = 10_000
MODELS, ROWS_AN_HOUR, TEMPLATES = 1_000, 6, 5
REPEATS = 5
NAMES = [f"column {number}" for number in range(1, COLUMNS + 1)]
COUNTS = ("feature_counts", "feature_sums", "request_counts")


@contextmanager
def bench_database() -> Iterator[Connections]:
    """Connections to an embedded database of its own, in a folder that goes at the end; MLflow is not needed."""
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as name:
        home = Path(name)
        home.chmod(0o755)
        os.environ["MILLRACE_HOME"] = str(home)
        with running_database(home) as url:
            migrate_database(url)
            with open_connections(load_settings(), url) as connections:
                yield connections


def build_bench_reference(generator: np.random.Generator) -> Reference:
    """The reference of ten skewed columns."""
    training = generator.gamma(3.0, size=(REFERENCE_ROWS, COLUMNS))
    return build_reference(training, NAMES, [""] * COLUMNS)


def fill_counts(
    connection: Connection, model: str, reference: Reference, values: NDArray[np.floating], hours: int = WINDOW_H
) -> None:
    """Count the values `(rows, columns)` as served evenly over the last whole hours."""
    now = int(datetime.now(UTC).timestamp() * 1e6) // HOUR_US
    for back, piece in enumerate(np.array_split(values, hours), 1):
        hour = Hour(predictions=len(piece), watched=[piece], inputs=[piece])
        add_counts(connection, {(model, 1, now - back): hour}, lambda _model, _version: reference)


def store_reference(connection: Connection, model: str, reference: Reference) -> None:
    """Keep the reference as a first check does that read it from the version's files."""
    connection.execute(
        version_references.insert().values(model=model, version=1, document=reference.model_dump(mode="json"))
    )


def measure_large_check(connections: Connections, rows: int) -> tuple[float, float]:
    """Seconds that a check of `rows` predictions in 10 columns takes from the database, its finding stored, and the
    error of its Kolmogorov-Smirnov distance."""
    generator = np.random.default_rng(1)
    reference = build_bench_reference(generator)
    column = generator.gamma(3.1, size=rows).astype(np.float32)
    with connections.engine.begin() as connection:
        store_reference(connection, "large", reference)
        fill_counts(connection, "large", reference, np.broadcast_to(column[:, None], (rows, COLUMNS)))
    with connections.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    seconds = []
    policy = DriftPolicy(window_h=WINDOW_H + 1)
    for _ in range(REPEATS):
        start = time.perf_counter()
        finding = judge_version(connections, "large", 1, policy, actor="benchmark", is_report_queued=False)
        seconds.append(time.perf_counter() - start)
        if finding.rows != rows:
            raise SystemExit(f"the check saw {finding.rows} of {rows} predictions")
    now = datetime.now(UTC)
    with connections.engine.connect() as connection:
        window = load_window(connection, "large", 1, reference, now - timedelta(hours=policy.window_h), now)
    training = np.random.default_rng(1).gamma(3.0, size=(REFERENCE_ROWS, COLUMNS))[:, 0]
    exact = float(stats.ks_2samp(training.astype(np.float32), column).statistic)
    found = measure_ks(reference.features[0].count_array, window.counts[NAMES[0]])
    print(f"{rows:,} predictions x {COLUMNS}: checks took {', '.join(f'{one:.3f}' for one in seconds)} s", flush=True)
    return float(np.median(seconds)), abs(found - exact)


def measure_round(connections: Connections, models: int) -> float:
    """Seconds that one round over `models` models takes, each with a week of counts."""
    generator = np.random.default_rng(2)
    names = [f"model_{number}" for number in range(models)]
    templates = min(TEMPLATES, models)
    with connections.engine.begin() as connection:
        for name in names[:templates]:
            reference = build_bench_reference(generator)
            store_reference(connection, name, reference)
            served = generator.gamma(3.0, size=(ROWS_AN_HOUR * WINDOW_H, COLUMNS))
            fill_counts(connection, name, reference, served)
        for table in (*COUNTS, "version_references"):
            columns = [column.name for column in version_references.metadata.tables[table].columns][1:]
            listed = ", ".join(f'"{column}"' for column in columns)
            copied = (
                f"INSERT INTO {table} (model, {listed}) SELECT 'model_' || number, {listed} FROM {table}"  # noqa: S608  both are ours
                " JOIN generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS number"
                " ON model = 'model_' || (number % CAST(:first AS integer))"
            )
            connection.execute(text(copied), {"first": templates, "last": models - 1})
    with connections.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
        counted = connection.execute(
            text("SELECT count(*) FROM feature_counts WHERE model LIKE 'model_%'")
        ).scalar_one()
    policies = {name: DriftPolicy() for name in names}
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    found = check_versions(connections, dict.fromkeys(names, 1), policies, key="round 1")
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    outcomes = {outcome: list(found.outcomes.values()).count(outcome) for outcome in set(found.outcomes.values())}
    if found.failed or len(found.outcomes) != models:
        raise SystemExit(f"{len(found.failed)} checks failed, {len(found.outcomes)} of {models} were made")
    print(
        f"{models} models, {counted:,} rows of counts: {seconds:.1f} s, of which {cpu_s:.1f} s in this process, "
        f"{outcomes}",
        flush=True,
    )
    start = time.perf_counter()
    check_versions(connections, dict.fromkeys(names, 1), policies, key="round 1")
    print(f"the same round again, as after a kill at its end: {time.perf_counter() - start:.1f} s", flush=True)
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=MODELS)
    options = parser.parse_args(arguments)
    with bench_database() as connections:
        seconds = measure_round(connections, options.models)
    print(f"models={options.models} round_s={seconds:.1f}")


if __name__ == "__main__":
    main()
