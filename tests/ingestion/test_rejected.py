"""Rejected rows: listed, exported without a formula in them, replayed under a mended contract."""

import csv
import io
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, func, select

from core.contract import Column, Contract
from core.data_errors import RowsRejected, SourceNotFound
from core.tables.data import source_pieces, sources
from ingestion.rejected import export_rejected, list_replayable, load_rejected, replay
from ingestion.store import load_observations
from tests.ingestion.series import build_series_contract, build_table_contract, count_rows, import_bytes, write_days

BAD = write_days(0, [1.0, 0.1, 3.0, 0.2, 5.0])


def _reject(engine: Engine, contract: Contract, content: bytes, name: str = "bad.csv") -> UUID:
    with pytest.raises(RowsRejected):
        import_bytes(engine, contract, content, name=name)
    with engine.connect() as connection:
        return list_replayable(connection, contract.model)[-1]


def _widen(contract: Contract) -> Contract:
    """The contract after its author found that closes may be as low as 0.1."""
    columns = tuple(
        column.model_copy(update={"minimum": 0.1}) if column.name == "Close" else column for column in contract.columns
    )
    return contract.model_copy(update={"columns": columns})


def test_rejected_rows_are_listed_newest_first_and_page_by_page(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    source_id = _reject(engine, contract, BAD)
    _reject(engine, contract, b"", name="empty.csv")

    with engine.connect() as connection:
        rows = load_rejected(connection, model, 10)
        pages = [load_rejected(connection, model, 2), load_rejected(connection, model, 2, rows[1].id)]
    assert [(row.source, row.line, row.column, row.value) for row in rows] == [
        ("empty.csv", 1, "", "an empty file"),
        ("bad.csv", 5, "Close", "0.2"),
        ("bad.csv", 3, "Close", "0.1"),
    ]
    assert (rows[2].source_id, rows[2].form, rows[2].rule) == (source_id, "csv", "at least 0.5 USD is allowed")
    assert [row for page in pages for row in page] == rows


def test_replay_after_a_fix_imports_the_kept_bytes_and_marks_the_rejection(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    source_id = _reject(engine, contract, BAD)

    result = replay(engine, _widen(contract), source_id, actor="ann")

    with engine.connect() as connection:
        assert load_observations(connection, contract)["Close"].tolist() == [1.0, 0.1, 3.0, 0.2, 5.0]
        assert load_rejected(connection, model, 10) == []
        found = connection.execute(select(sources).where(sources.c.id == result.source_id)).one()
        old = connection.execute(select(sources).where(sources.c.id == source_id)).one()
        pieces = select(func.count()).select_from(source_pieces.join(sources)).where(sources.c.model == model)
        assert connection.scalar(pieces) == 1
    assert (found.name, found.actor, found.state, found.rows_new) == ("bad.csv", "ann", "imported", 5)
    assert (old.state, old.replayed_at is not None) == ("rejected", True)
    with pytest.raises(SourceNotFound):
        replay(engine, _widen(contract), source_id, actor="ann")


def test_replay_that_is_refused_again_shows_what_is_wrong_now(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    source_id = _reject(engine, contract, BAD + b"2021-01-06,x\n")

    with pytest.raises(RowsRejected, match="1 fault"):
        replay(engine, _widen(contract), source_id, actor="ann")

    with engine.connect() as connection:
        rows = load_rejected(connection, model, 10)
        replayable = list_replayable(connection, model)
    assert [(row.line, row.value) for row in rows] == [(7, "x")]
    assert (len(replayable), source_id in replayable) == (1, False)
    assert count_rows(engine, model) == 0


def test_same_file_again_takes_the_place_of_its_rejection(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    earlier = [_reject(engine, contract, BAD), _reject(engine, contract, BAD, name="copy.csv")]

    with engine.connect() as connection:
        rows = load_rejected(connection, model, 10)
        replayable = list_replayable(connection, model)
    assert [(row.source, row.line) for row in rows] == [("copy.csv", 5), ("copy.csv", 3)]
    assert replayable == earlier[1:]

    import_bytes(engine, _widen(contract), BAD)

    with engine.connect() as connection:
        assert load_rejected(connection, model, 10) == []
        assert list_replayable(connection, model) == []


def test_only_a_rejected_source_of_the_model_is_replayed(engine: Engine, model: str) -> None:
    contract = build_series_contract(model)
    imported = import_bytes(engine, contract, write_days(0, [1.0] * 5)).source_id
    foreign = _reject(engine, build_series_contract(f"{model}_x"), BAD)

    for source_id in (imported, foreign, uuid4()):
        with pytest.raises(SourceNotFound):
            replay(engine, contract, source_id, actor="ann")


HOSTILE = ("=1+1", "+cmd", "-2+3", "@SUM(A1)", "\ttab", '=HYPERLINK("http://x","y")', "\uff1d1", "-", "-1e", "+")
HARMLESS = ("-3.5", "+7", "-.5e-3", "1=1", "a-b", "", "x@y")


def test_export_neutralises_formulas_and_keeps_numbers(engine: Engine, model: str) -> None:
    columns = (Column(name="id", dtype="integer"), Column(name="size", dtype="text", allowed=("L",)))
    contract = build_table_contract(model, *columns, id_column="id")
    cells = [*HOSTILE, *HARMLESS]
    text = io.StringIO()
    csv.writer(text).writerows([["id", "size"], *enumerate(cells)])
    _reject(engine, contract, text.getvalue().encode(), name="=cmd.csv")

    file = io.StringIO(newline="")
    with engine.connect() as connection:
        count = export_rejected(connection, model, file)

    file.seek(0)
    rows = list(csv.DictReader(file))
    assert count == len(cells) == len(rows)
    assert [row["line"] for row in rows] == [str(at + 2) for at in range(len(cells))]
    trimmed = [cell.strip() for cell in HOSTILE]
    expected = [f"'{cell}" if cell != "tab" else cell for cell in trimmed]
    assert [row["value"] for row in rows] == [*expected, *HARMLESS]
    assert {row["source"] for row in rows} == {"'=cmd.csv"}
