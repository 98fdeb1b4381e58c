"""A file's rows as messages, published at the pace at which they were taken, times a factor."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import orjson
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from core.contract import Contract
from core.data_errors import BrokerUnavailable
from core.errors import DeclarationRejected
from ingestion.broker_connection import ANSWER_TIMEOUT_S, KEEPALIVE_S, Broker
from workloads.declaration import Subscription

IN_FLIGHT = 500

Row = Mapping[str, object]


def build_messages(contract: Contract, subscription: Subscription, rows: Sequence[Row]) -> Iterator[tuple[str, bytes]]:
    """Topic and payload of each row, which holds the contract's columns in plain values."""
    for row in rows:
        levels = zip(subscription.topic.split("/"), subscription.levels, strict=True)
        topic = "/".join(level if column is None else str(row[column]) for level, column in levels)
        rest = {name: value for name, value in row.items() if name not in subscription.levels}
        yield topic, orjson.dumps(rest)


def find_replayable(contract: Contract, subscriptions: Sequence[Subscription]) -> Subscription:
    """The subscription that whole rows are published for: one of objects; raises DeclarationRejected."""
    found = next((subscription for subscription in subscriptions if subscription.payload == "object"), None)
    if found is None or contract.key.time is None:
        raise DeclarationRejected(
            contract.model, "it takes no messages that are JSON objects with a time; none replays"
        )
    return found


def publish_rows(
    broker: Broker,
    messages: Iterator[tuple[str, bytes]],
    times: Sequence[datetime],
    speed: float,
    on_progress: Callable[[int], None],
) -> int:
    """Publish with QoS 1, `speed` seconds of the rows' time in a second; how many the broker has acknowledged.

    Rows whose time is not after that of the row before follow it at once. Raises BrokerUnavailable.
    """
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=f"millrace-replay-{time.time_ns()}", protocol=mqtt.MQTTv311
    )
    client.max_inflight_messages_set(IN_FLIGHT)
    if broker.username is not None:
        client.username_pw_set(broker.username, broker.password)
    if broker.is_encrypted:
        client.tls_set(ca_certs=broker.ca_file)
    try:
        client.connect(broker.host, broker.port, keepalive=KEEPALIVE_S)
    except OSError as error:
        raise BrokerUnavailable(str(broker), str(error)) from None
    client.loop_start()
    try:
        return _publish(client, broker, messages, times, speed, on_progress)
    finally:
        client.disconnect()
        client.loop_stop()


def _publish(
    client: mqtt.Client,
    broker: Broker,
    messages: Iterator[tuple[str, bytes]],
    times: Sequence[datetime],
    speed: float,
    on_progress: Callable[[int], None],
) -> int:
    began_at_s = time.monotonic()
    passed_s = 0.0
    previous = times[0] if times else datetime.now(UTC)
    waiting: list[mqtt.MQTTMessageInfo] = []
    count = 0
    for (topic, payload), at in zip(messages, times, strict=True):
        passed_s += max((at - previous).total_seconds(), 0.0) / speed
        previous = at
        time.sleep(max(began_at_s + passed_s - time.monotonic(), 0.0))
        waiting.append(client.publish(topic, payload, qos=1))
        count += 1
        on_progress(count)
        if len(waiting) >= IN_FLIGHT * 2:
            _await(waiting.pop(0), broker)
    for info in waiting:
        _await(info, broker)
    return count


def _await(info: mqtt.MQTTMessageInfo, broker: Broker) -> None:
    info.wait_for_publish(ANSWER_TIMEOUT_S)
    if not info.is_published():
        raise BrokerUnavailable(str(broker), f"it did not acknowledge a message in {ANSWER_TIMEOUT_S:g} s")
