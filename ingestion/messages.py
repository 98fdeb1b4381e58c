"""What a message means: the row that its topic and its payload make, as the workload's subscription declares it.

Nothing here knows a broker. A message that makes no row becomes the fault that says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from core.contract import Contract
from core.errors import show_value
from ingestion.faults import RowFault
from ingestion.json_rows import Entry, JsonRow, MalformedJson, parse_json, show_bytes
from workloads.declaration import Subscription

_MOST_TOPICS = 10_000


@dataclass(frozen=True)
class Feed:
    """One subscription of one workload."""

    contract: Contract
    subscription: Subscription


@dataclass(frozen=True)
class MessageRow:
    """One message as a line of a batch: `raw` is kept, `entry` is stored or rejected, as what the feed brings."""

    model: str
    raw: bytes
    entry: Entry
    brings: str = "observations"


class MessageReader:
    """Reads messages by the feeds whose topic fits; of several feeds of one model, by the first."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self._found: dict[str, list[tuple[Feed, dict[str, str]]]] = {}

    def read(self, topic: str, payload: bytes, arrived_at: datetime) -> list[MessageRow]:
        """The message's row for each model that takes it; none where no feed fits the topic."""
        found = self._found.get(topic)
        if found is None:
            if len(self._found) >= _MOST_TOPICS:
                self._found.clear()
            found = self._found[topic] = self._find(topic)
        return [_build_row(feed, levels, topic, payload, arrived_at) for feed, levels in found]

    def _find(self, topic: str) -> list[tuple[Feed, dict[str, str]]]:
        found: dict[str, tuple[Feed, dict[str, str]]] = {}
        for feed in self._feeds:
            levels = _match(feed.subscription, topic)
            if levels is not None:
                found.setdefault(feed.contract.model, (feed, levels))
        return list(found.values())


def _match(subscription: Subscription, topic: str) -> dict[str, str] | None:
    """The columns that the topic's levels give; None where the topic is another."""
    given, declared = topic.split("/"), subscription.topic.split("/")
    if len(given) != len(declared):
        return None
    columns: dict[str, str] = {}
    for level, wanted, column in zip(given, declared, subscription.levels, strict=True):
        if column is not None:
            columns[column] = level
        elif level != wanted:
            return None
    return columns


def _build_row(feed: Feed, levels: Mapping[str, str], topic: str, payload: bytes, arrived_at: datetime) -> MessageRow:
    kept: dict[str, object] = {"topic": topic, "received_at": arrived_at.astimezone(UTC).isoformat()}
    try:
        text = payload.decode()
        kept["payload"] = text
        read = _read_payload(feed.subscription, text)
    except UnicodeDecodeError:
        kept["payload_hex"] = payload.hex()
        read = RowFault(None, "", show_bytes(payload), "text in UTF-8 is needed")
    entry = read if isinstance(read, RowFault) else _add_levels(feed, read, levels, arrived_at)
    try:
        kept |= {"fault": entry.rule} if isinstance(entry, RowFault) else {"row": entry}
        return MessageRow(feed.contract.model, orjson.dumps(kept), entry, feed.subscription.brings)
    except TypeError as error:
        # Half of a surrogate pair, which JSON can write and no text can hold.
        fault = RowFault(None, "", show_bytes(payload), f"text of Unicode characters is needed ({error})")
        raw = orjson.dumps({"topic": show_bytes(topic.encode()), "payload": show_bytes(payload), "fault": fault.rule})
        return MessageRow(feed.contract.model, raw, fault, feed.subscription.brings)


def _read_payload(subscription: Subscription, text: str) -> JsonRow | RowFault:
    """The columns or members that the payload gives, or why it gives none."""
    if subscription.payload == "value":
        return {subscription.columns[0]: text}
    shown = show_bytes(text.encode())
    try:
        document = parse_json(text)
    except MalformedJson as error:
        return RowFault(None, "", shown, f"JSON is needed ({error})")
    if subscription.payload == "object":
        return document if isinstance(document, dict) else RowFault(None, "", shown, "a JSON object is needed")
    columns = subscription.columns
    if not isinstance(document, list) or len(document) != len(columns):
        return RowFault(None, "", shown, f"a JSON array of {len(columns)} is needed: {', '.join(columns)}")
    return dict(zip(columns, document, strict=True))


def _add_levels(feed: Feed, row: JsonRow, levels: Mapping[str, str], arrived_at: datetime) -> Entry:
    for column, level in levels.items():
        if column in row and row[column] != level:
            return RowFault(None, column, show_value(row[column]), f"the topic says {show_value(level)}")
    time, step_s = feed.contract.key.time, feed.contract.step_s
    if feed.subscription.time_from == "arrival" and time is not None and step_s is not None:
        seconds = arrived_at.timestamp()
        at = datetime.fromtimestamp(seconds - seconds % step_s, UTC)
        return {**row, **levels, time: at.isoformat()}
    return {**row, **levels}
