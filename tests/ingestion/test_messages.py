"""What a message means: topics, payloads, times of arrival, and what is wrong with a declaration."""

from datetime import UTC, datetime
from uuid import uuid4

import orjson
import pytest
from sqlalchemy import Engine

from core.errors import DeclarationRejected
from ingestion.batches import Batch, replay_rejected, store_batch
from ingestion.faults import RowFault
from ingestion.json_rows import Entry
from ingestion.messages import Feed, MessageReader
from tests.ingestion.series import build_fleet_contract, build_series_contract, load_rejected
from workloads.declaration import Subscription

CONTRACT = build_fleet_contract("fleet")
ARRIVED_AT = datetime(2024, 5, 1, 12, 3, 59, 999_999, tzinfo=UTC)


def read(subscription: Subscription, topic: str, payload: bytes) -> list[Entry]:
    rows = MessageReader([Feed(CONTRACT, subscription)]).read(topic, payload, ARRIVED_AT)
    return [row.entry for row in rows]


@pytest.mark.parametrize(
    ("topic", "row"),
    [
        ("site/a/temperature", {"machine": "a", "value": 1}),
        ("site/ä b/temperature", {"machine": "ä b", "value": 1}),
        ("site//temperature", {"machine": "", "value": 1}),
        ("site/a/pressure", None),
        ("site/a", None),
        ("site/a/temperature/more", None),
        ("Site/a/temperature", None),
    ],
)
def test_topic_gives_its_columns_or_is_another(topic: str, row: object) -> None:
    found = read(Subscription("site/{machine}/temperature"), topic, b'{"value": 1}')
    assert found == ([] if row is None else [row])


def test_topic_filter_has_one_level_for_each_column() -> None:
    assert Subscription("site/{machine}/temperature").topic_filter == "site/+/temperature"


def test_time_of_arrival_is_cut_to_the_step() -> None:
    subscription = Subscription("{machine}", "value", ("value",), "arrival")
    assert read(subscription, "a", b" 21.5 ") == [
        {"machine": "a", "value": " 21.5 ", "at": "2024-05-01T12:00:00+00:00"}
    ]


@pytest.mark.parametrize("payload", [b"[1]", b"[1, 2, 3]", b'{"at": 1}', b"1", b"[1, 2", b""])
def test_array_of_another_length_or_kind_is_a_fault(payload: bytes) -> None:
    (entry,) = read(Subscription("{machine}", "array", ("at", "value")), "a", payload)
    assert isinstance(entry, RowFault)


def test_payload_that_contradicts_its_topic_is_a_fault() -> None:
    (entry,) = read(Subscription("{machine}"), "a", b'{"machine": "b", "value": 1}')
    assert isinstance(entry, RowFault)
    assert (entry.column, entry.rule) == ("machine", "the topic says 'a'")


def test_rejected_messages_are_judged_again_from_the_kept_line(engine: Engine) -> None:
    model = f"m{uuid4().hex[:12]}"
    strict = build_fleet_contract(model)
    strict = strict.model_copy(
        update={"columns": (*strict.columns[:2], strict.columns[2].model_copy(update={"maximum": 5.0}))}
    )
    reader = MessageReader([Feed(strict, Subscription("{machine}"))])
    payloads = [b'{"at": "2024-01-01", "value": 9}', b"\xff", b"{"]
    rows = [row for payload in payloads for row in reader.read("a", payload, ARRIVED_AT)]
    batch = Batch([row.raw for row in rows], [row.entry for row in rows], kind="mqtt", name="b", actor="c")
    stored = store_batch(engine, strict, batch)
    assert stored.rows_rejected == 3
    assert orjson.loads(rows[0].raw)["payload"] == payloads[0].decode()

    replayed = replay_rejected(engine, build_fleet_contract(model), stored.source_id)

    assert (replayed.rows_new, replayed.rows_rejected) == (1, 2)
    assert [(line, rule.partition(" (")[0]) for line, _, _, rule in load_rejected(engine, model)] == [
        (2, "text in UTF-8 is needed"),
        (3, "JSON is needed"),
    ]


@pytest.mark.parametrize(
    ("subscription", "rule"),
    [
        (Subscription("a/+/b"), "is no topic"),
        (Subscription("a/{machine"), "is no topic"),
        (Subscription("$SYS/{machine}"), "is no topic"),
        (Subscription(""), "is no topic"),
        (Subscription("a/{colour}"), "none of the columns"),
        (Subscription("{machine}/{machine}"), "a column twice"),
        (Subscription("{machine}", "array"), "an array needs them"),
        (Subscription("{machine}", "value", ("at", "value")), "a value needs one"),
        (Subscription("{machine}", "object", ("value",)), "an object names"),
        (Subscription("{machine}", "array", ("at", "value"), "arrival"), "from the message and its arrival"),
    ],
)
def test_declaration_that_cannot_be_is_refused(subscription: Subscription, rule: str) -> None:
    with pytest.raises(DeclarationRejected, match=rule):
        subscription.check(CONTRACT)


def test_arrival_needs_a_step() -> None:
    with pytest.raises(DeclarationRejected, match="needs a time and step_s"):
        Subscription("x", "value", ("Close",), "arrival").check(
            build_series_contract("x").model_copy(update={"step_s": None})
        )
