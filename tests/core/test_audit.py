"""The audit log in the database: append-only, whatever is asked of it."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import ProgrammingError

from core.audit import (
    EVERYTHING,
    LONGEST_TEXT,
    AuditEntry,
    build_move,
    build_outcome,
    find_mover,
    iterate_entries,
    load_entries,
    now,
    store_entries,
)
from core.tables.audit import audit_log
from web.audit_writer import MAX_REFUSALS, OTHERS, AuditWriter


def build_entry(number: object = 0, **fields: object) -> AuditEntry:
    entry = {"happened_at": now(), "process": "control", "action": f"POST /{number}", "outcome": "done"} | fields
    return AuditEntry(**entry)  # type: ignore[arg-type]


def count_entries(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.coalesce(func.sum(audit_log.c.times), 0))) or 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'nobody'",
        "UPDATE audit_log SET actor = 'nobody' WHERE id = -1",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "SET session_replication_role = replica; DELETE FROM audit_log",
        "INSERT INTO audit_log (id, happened_at, process, action, outcome, times)"
        " SELECT id, happened_at, process, 'other', outcome, times FROM audit_log"
        " ON CONFLICT (id) DO UPDATE SET action = 'other'",
        "MERGE INTO audit_log USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    ],
)
def test_database_refuses_to_change_what_is_entered(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        store_entries(connection, [build_entry()])
    with pytest.raises(ProgrammingError, match="audit_log is append-only"), engine.begin() as connection:
        connection.execute(text(statement))
    with engine.connect() as connection:
        (entry,) = load_entries(connection, EVERYTHING, 10)
    assert entry.action == "POST /0"


def test_hostile_text_is_entered_as_it_can_be(engine: Engine) -> None:
    with engine.begin() as connection:
        store_entries(connection, [build_entry(actor="a\x00b\ud800", target="x" * 10_000)])
        (entry,) = load_entries(connection, EVERYTHING, 10)
    assert entry.actor == "a\ufffdb?"
    assert entry.target is not None and len(entry.target) == LONGEST_TEXT


def test_every_entry_is_exported_once_in_order(engine: Engine) -> None:
    with engine.begin() as connection:
        store_entries(connection, [build_entry(number) for number in range(2_500)])
    found = list(iterate_entries(engine, EVERYTHING))
    assert [entry.action for entry in found] == [f"POST /{number}" for number in range(2_500)]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "done"), (307, "done"), (401, "refused"), (403, "refused"), (429, "refused"), (404, "failed"),
     (503, "failed"), (0, "failed")],
)  # fmt: skip
def test_outcome_is_what_the_status_means(status: int, outcome: str) -> None:
    assert build_outcome(status) == outcome


def test_mover_is_who_moved_last_since_the_last_transition(engine: Engine, model: str) -> None:
    noon = datetime(2026, 5, 4, 12, tzinfo=UTC)
    moved: dict[str, object] = {"model": model, "target": build_move(3, "production")}
    with engine.begin() as connection:
        store_entries(connection, [build_entry(actor="ada", happened_at=noon, **moved)])
        store_entries(connection, [build_entry(actor="eve", happened_at=noon, outcome="refused", **moved)])
        assert find_mover(connection, model, 3, "Production", None) == "ada"
        assert find_mover(connection, model, 3, "Production", noon - timedelta(seconds=1)) == "ada"
        assert find_mover(connection, model, 3, "Production", noon) is None
        assert find_mover(connection, model, 4, "Production", None) is None
        assert find_mover(connection, model, 3, "Archived", None) is None


# --- beside the requests -------------------------------------------------------------------------------------------


def test_flood_of_different_refusals_is_bounded_and_counted_whole(engine: Engine) -> None:
    writer = AuditWriter(engine)
    for number in range(5_000):
        writer.count(build_entry(number, outcome="refused", status=401))
    assert writer.write()
    with engine.connect() as connection:
        found = load_entries(connection, EVERYTHING, 10_000)
    assert len(found) == MAX_REFUSALS + 1
    assert sum(entry.times for entry in found) == 5_000
    assert found[0].action == OTHERS


def test_entries_wait_for_the_database_and_are_stored_once(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    writer = AuditWriter(engine)
    kept, refused = build_entry(1, actor="ada"), build_entry(2, outcome="refused", status=403)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit_log RENAME TO away"))
    writer.keep(kept)
    for _ in range(3):
        writer.count(refused)
        assert not writer.write()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO audit_log"))
    assert "POST /1" in caplog.text
    writer.start()
    writer.stop()
    with engine.connect() as connection:
        found = load_entries(connection, EVERYTHING, 10)
    assert [(entry.action, entry.times) for entry in found] == [("POST /2", 3), ("POST /1", 1)]
    assert count_entries(engine) == 4


def test_what_ends_with_the_process_is_in_its_log(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    writer = AuditWriter(engine)
    writer.count(build_entry(3, outcome="refused", status=429))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit_log RENAME TO away"))
    writer.start()
    writer.stop()
    assert "an audit entry ends here, unstored" in caplog.text
    assert "POST /3" in caplog.text
