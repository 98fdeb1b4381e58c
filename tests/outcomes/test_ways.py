"""Outcomes by file and by message."""

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, select

from core.data_errors import OutcomesNotTaken, RowsRejected
from core.errors import DeclarationRejected
from core.tables.data import rejected_rows, sources
from ingestion.messages import Feed
from ingestion.outcomes import OutcomesResult, import_outcomes
from ingestion.rejected import list_replayable
from tests.ingestion.brokers import running_embedded
from tests.ingestion.publishing import TIMEOUT_S, publish, subscribed
from tests.outcomes.predicting import START, build_series, build_table, declare, hours, load_joined, ship
from tests.processes import wait_until
from workloads.catalogue import get_workload
from workloads.declaration import Subscription


def write_file(form: str, rows: list[dict[str, object]]) -> bytes:
    names = list(rows[0])
    content = io.BytesIO()
    if form == "csv":
        return "\n".join(",".join(map(str, line)) for line in [names, *(row.values() for row in rows)]).encode()
    if form == "json":
        return orjson.dumps(rows)
    if form == "xlsx":
        book = openpyxl.Workbook()
        sheet = book.active
        assert sheet is not None
        lines: list[list[Any]] = [names, *([*row.values()] for row in rows)]
        for line in lines:
            sheet.append(line)
        book.save(content)
    else:
        pq.write_table(pa.Table.from_pylist(rows), content)
    return content.getvalue()


def take(engine: Engine, model: str, content: bytes) -> OutcomesResult:
    contract = build_series(model)
    return import_outcomes(engine, contract, io.BytesIO(content), name="outcomes", actor="test", max_bytes=1_000_000)


@pytest.mark.parametrize("form", ["csv", "xlsx", "parquet", "json"])
def test_file_of_each_form_is_taken_without_its_bad_rows(engine: Engine, model: str, tmp_path: Path, form: str) -> None:
    declare(engine, build_series(model), "mae")
    ship(engine, tmp_path, model, np.array([[1.0], [2.0], [3.0]]), keys=hours(3))
    rows: list[dict[str, object]] = [
        {"machine": "m1", "at": (START + timedelta(hours=hour)).isoformat(), "value": value}
        for hour, value in enumerate((10.0, 5000.0, 30.0))
    ]
    result = take(engine, model, write_file(form, rows))
    assert (result.outcomes_new, result.outcomes_joined, result.outcomes_rejected) == (2, 2, 1)
    assert load_joined(engine, model) == [(1.0, 10.0), (3.0, 30.0)]
    again = take(engine, model, write_file(form, rows))
    assert (again.outcomes_new, again.outcomes_unchanged, again.outcomes_rejected) == (0, 2, 1)
    with engine.connect() as connection:
        query = select(rejected_rows.c.column).join(sources, sources.c.id == rejected_rows.c.source_id)
        query = query.where(rejected_rows.c.model == model, sources.c.replayed_at.is_(None))
        assert connection.scalars(query).all() == ["reading"]
        assert list_replayable(connection, model) == []


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"machine,at\nm1,2026-01-05T00:00:00Z\n", "a value is needed"),
        (b"machine,at,reading\n", "at least one row"),
        (b"machine,at,reading\nm1,2026-01-05T00:00:00Z,9999\n", "at most"),
        (b"\x00\x01\x02", "bytes|text|UTF"),
    ],
)
def test_file_without_a_good_row_is_refused_and_kept(engine: Engine, model: str, content: bytes, fault: str) -> None:
    declare(engine, build_series(model), "mae")
    with pytest.raises(RowsRejected, match=fault):
        take(engine, model, content)
    with engine.connect() as connection:
        kept = connection.execute(select(sources.c.state, sources.c.brings).where(sources.c.model == model)).all()
    assert [tuple(row) for row in kept] == [("rejected", "outcomes")]


def test_ranking_takes_no_outcomes(engine: Engine) -> None:
    contract = get_workload("books").build_contract()
    with pytest.raises(OutcomesNotTaken, match="interactions"):
        import_outcomes(engine, contract, io.BytesIO(b""), name="outcomes", actor="test", max_bytes=10)


def test_messages_bring_outcomes_beside_observations(engine: Engine, model: str, tmp_path: Path) -> None:
    contract = build_series(model)
    declare(engine, contract, "mae")
    (by_id, _) = ship(engine, tmp_path, model, np.array([[1.0], [2.0]]), keys=hours(2))
    feeds = [
        Feed(contract, Subscription(f"{model}/{{machine}}")),
        Feed(contract, Subscription(f"{model}/outcomes/{{machine}}", brings="outcomes")),
        Feed(contract, Subscription(f"outcomes/{model}/answers", brings="outcomes")),
    ]
    for feed in feeds:
        feed.subscription.check(contract)
    later = (START + timedelta(hours=1)).isoformat()
    with running_embedded(tmp_path) as broker, subscribed(engine, broker.describe(model), feeds) as (taking, said):
        wait_until(lambda: bool(said), TIMEOUT_S)
        publish(
            broker.describe(model),
            [
                (f"outcomes/{model}/answers", orjson.dumps({"prediction_id": str(by_id), "reading": 4.0})),
                (f"{model}/outcomes/m1", orjson.dumps({"at": later, "reading": 7.0})),
                (f"{model}/outcomes/m1", b"{}"),
                (f"{model}/m2", orjson.dumps({"at": later, "reading": 8.0})),
            ],
        )
        wait_until(lambda: taking.taken.messages == 4, TIMEOUT_S)
    assert (taking.taken.rows_new, taking.taken.rows_rejected) == (3, 1)
    assert load_joined(engine, model) == [(1.0, 4.0), (2.0, 7.0)]


def test_subscription_to_outcomes_names_known_columns_alone() -> None:
    contract = build_table("cars")
    Subscription("cars/{car}", "value", ("failed",), brings="outcomes").check(contract)
    with pytest.raises(DeclarationRejected, match="colour"):
        Subscription("cars/{car}/{colour}", brings="outcomes").check(contract)
