"""From the journal to the database: every row once, counted once."""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from sqlalchemy import Engine, select

from core.database import create_database_engine
from core.reference import QualityRate, build_reference
from core.tables.predictions import feature_sums
from serving.counting import HOUR_US, Hour, add_counts
from serving.journal import Journal, JournalFolder, Segment
from serving.prediction_ids import draw_ids
from serving.records import Entry, encode_entry, now_us
from serving.shipping import Shipper, store_entries
from tests.serving.onnx_models import build_test_reference
from tests.serving.reading import (
    load_feature_counts,
    load_ids,
    load_quality_counts,
    load_request_counts,
    load_request_outcomes,
)

REFERENCE = build_test_reference()
DAY_US = 24 * 3600 * 10**6


def build_entry(monitored: list[float], at_us: int | None = None) -> Entry:
    rows = len(monitored)
    return Entry(
        at_us=at_us or now_us(),
        model="prices",
        version=1,
        request_id="r",
        ids=draw_ids(rows),
        inputs=np.ones((rows, 4), dtype=np.float32),
        monitored=np.array(monitored).reshape(rows, 1),
        outputs=np.ones((rows, 1), dtype=np.float32),
    )


def build_refusal(*refused: tuple[str, str]) -> Entry:
    return Entry(now_us(), "prices", 1, "r", draw_ids(1), reason="no", refused=refused)


def build_failure() -> Entry:
    return Entry(now_us(), "prices", 1, "r", draw_ids(1), reason="not finite", is_failure=True)


def count_bins(values: list[float]) -> Counter[int]:
    """The oracle: edges belong to the bin below them."""
    edges = REFERENCE.features[0].edges
    return Counter(int(np.sum(np.array(edges) < np.float32(value))) for value in values)


def load_segments(journal: Journal) -> list[Segment]:
    return JournalFolder(journal.folder, is_left=False).load_segments()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal", 2**20)
    journal.keep_reference("prices", 1, REFERENCE)
    yield journal
    journal.close()


@pytest.fixture
def shipper(journal: Journal, own_database_url: str) -> Iterator[Shipper]:
    own_engine = create_database_engine(own_database_url, pool_size=1)
    yield Shipper(own_engine, journal.folder.parent)
    own_engine.dispose()


def test_rows_and_counts_agree_with_what_was_journalled(journal: Journal, shipper: Shipper, own_engine: Engine) -> None:
    values = np.random.default_rng(5).normal(0, 0.03, 300).tolist()
    entries = [build_entry(values[:200]), *(build_entry([value]) for value in values[200:])]
    for entry in entries:
        journal.append(entry)
    journal.append(build_refusal())
    assert shipper.ship_once() == 301
    assert sorted(load_ids(own_engine)) == sorted(str(row_id) for entry in entries for row_id in entry.ids)
    assert load_request_counts(own_engine) == (300, 1)
    assert load_feature_counts(own_engine) == count_bins(values)
    assert shipper.ship_once() == 0


def test_batch_offered_again_after_a_crash_is_counted_once(
    journal: Journal, shipper: Shipper, own_engine: Engine
) -> None:
    journal.append(build_entry([0.01, 0.02]))
    assert shipper.ship_once() == 2
    (segment,) = load_segments(journal)
    # The crash: the transaction was committed, the offset was not yet moved. Then more was recorded.
    segment.path.with_suffix(".shipped").unlink()
    journal.append(build_entry([0.03]))
    assert shipper.ship_once() == 1
    assert len(load_ids(own_engine)) == 3
    assert load_request_counts(own_engine) == (3, 0)
    assert load_feature_counts(own_engine) == count_bins([0.01, 0.02, 0.03])


def test_answers_and_failures_are_requests_and_counted_once_however_often_they_are_offered(
    journal: Journal, shipper: Shipper, own_engine: Engine
) -> None:
    for entry in (build_entry([0.01, 0.02]), build_entry([0.03]), build_failure(), build_failure(), build_refusal()):
        journal.append(entry)
    assert shipper.ship_once() == 6
    (segment,) = load_segments(journal)
    segment.path.with_suffix(".shipped").unlink()
    journal.append(build_failure())
    assert shipper.ship_once() == 1
    assert load_request_counts(own_engine) == (3, 1)
    assert load_request_outcomes(own_engine) == (2, 3)


def test_refusals_are_counted_once_by_column_and_kind(journal: Journal, shipper: Shipper, own_engine: Engine) -> None:
    for refused in ((("Close", "bounds"),), (("Close", "bounds"), ("Close", "type")), ()):
        journal.append(build_refusal(*refused))
    assert shipper.ship_once() == 3
    (segment,) = load_segments(journal)
    # Committed, and the offset not yet moved.
    segment.path.with_suffix(".shipped").unlink()
    assert shipper.ship_once() == 0
    assert load_request_counts(own_engine) == (0, 3)
    assert load_quality_counts(own_engine) == {("Close", "bounds"): 2, ("Close", "type"): 1}


def test_a_journal_of_before_refusals_were_told_apart_is_shipped(
    journal: Journal, shipper: Shipper, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = orjson.dumps
    with monkeypatch.context() as patch:
        patch.setattr(orjson, "dumps", lambda d: written({k: v for k, v in d.items() if k != "refused"}))
        journal.append(build_refusal(("Close", "bounds")))
    assert shipper.ship_once() == 1
    assert (load_request_counts(own_engine), load_quality_counts(own_engine)) == ((0, 1), {})


def test_absent_values_unknown_categories_and_sums_are_counted_with_the_values(own_engine: Engine) -> None:
    training = np.random.default_rng(1).normal(1e6, 2.0, (200, 1))
    rates = [
        QualityRate(column="age", kind="imputed", position=0, faulty=0, rows=200),
        QualityRate(column="kind", kind="unknown", position=1, faulty=0, rows=200),
    ]
    reference = build_reference(training, ["load"], [""], quality=rates, window_sizes=(50,))
    served = np.array([[1e6 + 1.0], [1e6 + 4.0], [np.nan]])
    inputs = np.array([[1.0, 0.0], [np.nan, 2.0], [np.nan, 1.0]], dtype=np.float32)
    entry = Entry(now_us(), "m", 1, "r", draw_ids(3), inputs, served, np.ones((3, 1), dtype=np.float32))
    hour = Hour()
    hour.add(entry, None)
    hour.add(entry, [1])
    with own_engine.begin() as connection:
        add_counts(connection, {("m", 1, entry.at_us // HOUR_US): hour}, lambda *_: reference)
        add_counts(connection, {("m", 1, entry.at_us // HOUR_US): hour}, lambda *_: reference)
    assert load_request_counts(own_engine) == (8, 0)
    assert load_quality_counts(own_engine) == {("age", "imputed"): 6, ("kind", "unknown"): 2}
    with own_engine.connect() as connection:
        values, total, squares = connection.execute(
            select(feature_sums.c["values"], feature_sums.c["sum"], feature_sums.c["squares"])
        ).one()
    feature = reference.features[0]
    kept = np.array([1e6 + 1.0, 1e6 + 4.0, 1e6 + 4.0] * 2)
    assert values == 6
    assert feature.mean + feature.sd * total / values == pytest.approx(kept.mean(), rel=1e-9)
    assert feature.sd**2 * (squares / values - (total / values) ** 2) == pytest.approx(kept.var(), rel=1e-6)


def test_answers_of_different_lengths_are_shipped_together(
    journal: Journal, shipper: Shipper, own_engine: Engine
) -> None:
    entries = [build_entry([0.01]) for _ in range(3)]
    for entry, items in zip(entries, (20, 10, 20), strict=True):
        # As of rankings, whose callers say how many items they ask for.
        entry.outputs = np.ones((1, items), dtype=np.float32)
        journal.append(entry)
    assert shipper.ship_once() == 3
    assert load_request_counts(own_engine) == (3, 0)


def test_crash_within_the_transaction_leaves_nothing_of_it(journal: Journal, own_engine: Engine) -> None:
    entry = build_entry([0.01])
    with own_engine.connect() as connection:
        assert store_entries(connection, [entry], journal.folder) == 1
        connection.rollback()
    assert load_ids(own_engine) == []
    with own_engine.begin() as connection:
        assert store_entries(connection, [entry], journal.folder) == 1
    assert load_request_counts(own_engine) == (1, 0)


def test_two_shippers_of_the_same_entries_count_them_once(journal: Journal, own_engine: Engine) -> None:
    entries = [build_entry([0.001 * i]) for i in range(200)]
    new: list[int] = []

    def ship() -> None:
        for start in range(0, 200, 20):
            with own_engine.begin() as connection:
                new.append(store_entries(connection, entries[start : start + 20], journal.folder))

    threads = [threading.Thread(target=ship) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(new) == 200
    assert load_request_counts(own_engine) == (200, 0)
    assert load_feature_counts(own_engine).total() == 200


def test_entries_of_several_months_find_their_partitions(
    journal: Journal, shipper: Shipper, own_engine: Engine
) -> None:
    for days in (0, 40, 400):
        journal.append(build_entry([0.0], now_us() - days * DAY_US))
    assert shipper.ship_once() == 3
    assert len(load_ids(own_engine)) == 3


def test_what_a_dead_process_left_is_shipped_with_its_torn_tail_dropped(
    journal: Journal, shipper: Shipper, own_engine: Engine
) -> None:
    dead = Journal(journal.folder.parent, 2**20)
    dead.keep_reference("prices", 1, REFERENCE)
    dead.append(build_entry([0.01]))
    (segment,) = load_segments(dead)
    with segment.path.open("ab") as file:
        file.write(encode_entry(build_entry([0.02]))[:-3])
    dead.close()
    assert shipper.ship_once() == 1
    assert load_feature_counts(own_engine) == count_bins([0.01])
    assert not dead.folder.exists()


def test_damaged_rest_of_a_dead_processs_segment_is_set_aside(
    journal: Journal, shipper: Shipper, own_engine: Engine
) -> None:
    dead = Journal(journal.folder.parent, 2**20)
    for value in (0.01, 0.02, 0.03):
        dead.append(build_entry([value]))
    (segment,) = load_segments(dead)
    content = bytearray(segment.path.read_bytes())
    content[len(content) // 2] ^= 1
    segment.path.write_bytes(bytes(content))
    # While the process lives, the rest may be a record that it is taking back.
    assert shipper.ship_once() == 1
    assert not list(dead.folder.glob("*.damaged"))
    dead.close()
    assert shipper.ship_once() == 0
    assert segment.path.with_name(segment.path.name + ".damaged").read_bytes() == bytes(content)
    assert not segment.path.exists()
    assert len(load_ids(own_engine)) == 1


def test_segments_are_removed_when_they_are_shipped(tmp_path: Path, own_database_url: str, own_engine: Engine) -> None:
    small = Journal(tmp_path / "small", 8_000)
    own_engine = create_database_engine(own_database_url, pool_size=1)
    shipper = Shipper(own_engine, tmp_path / "small")
    for _ in range(20):
        for _ in range(10):
            small.append(build_entry([0.0]))
        shipper.ship_once()
        small.measure()
    assert len(load_ids(own_engine)) == 200
    assert len(load_segments(small)) == 1
    assert small.used_bytes < 8_000
    own_engine.dispose()
    small.close()
    assert not small.folder.exists()
