"""Publishing to a real broker, and counting what of it arrived."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import Engine

from ingestion.broker_connection import Broker
from ingestion.messages import Feed
from ingestion.mqtt import Subscriber

TIMEOUT_S = 60.0


def publish(broker: Broker, messages: Iterable[tuple[str, bytes]]) -> int:
    """Publish with QoS 1 and return when the broker has acknowledged all of them; how many."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="publisher", protocol=mqtt.MQTTv311)
    client.max_inflight_messages_set(500)
    if broker.username is not None:
        client.username_pw_set(broker.username, broker.password)
    if broker.is_encrypted:
        client.tls_set(ca_certs=broker.ca_file)
    client.connect(broker.host, broker.port)
    client.loop_start()
    try:
        sent = [client.publish(topic, payload, qos=1) for topic, payload in messages]
        for info in sent:
            info.wait_for_publish(TIMEOUT_S)
            if not info.is_published():
                raise TimeoutError(f"the broker did not acknowledge message {info.mid} of {len(sent)}")
    finally:
        client.disconnect()
        client.loop_stop()
    return len(sent)


@contextmanager
def subscribed(engine: Engine, broker: Broker, feeds: list[Feed]) -> Iterator[tuple[Subscriber, list[str]]]:
    """A subscriber in a thread, and the sentences that it said; it has stopped at the end of the block."""
    said: list[str] = []
    subscriber = Subscriber(engine, broker, feeds, say=said.append)
    stopping = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            subscriber.run(stopping)
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield subscriber, said
    finally:
        stopping.set()
        thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    assert failures == []
