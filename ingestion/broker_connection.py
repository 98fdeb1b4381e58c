"""One connection to an MQTT broker, for a reader that decides itself when to read and when to acknowledge.

Nothing is read but in `receive`: what the reader does not ask for stays with the broker and in the socket, and is
delivered again to the next connection of the same client id if it was not acknowledged. There is no thread.
"""

import select
import ssl
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from core.data_errors import BrokerUnavailable
from core.settings import Settings

KEEPALIVE_S = 60
ANSWER_TIMEOUT_S = 5.0
RECEIVE_MAXIMUM = 1_000
"""Messages that a broker of MQTT 5 sends before the first of them is acknowledged."""

_NEVER_EXPIRES = 0xFFFFFFFF
_QOS = 1
_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class Broker:
    """Where a broker is and who we are to it; its text shows no password."""

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = None
    is_encrypted: bool = False
    ca_file: str | None = None
    is_old: bool = False
    """Known to speak no MQTT 5; any other broker is asked, which costs time where it does not answer at all."""

    def __str__(self) -> str:
        return f"mqtt{'s' if self.is_encrypted else ''}://{self.host}:{self.port}"

    __repr__ = __str__


def build_broker(settings: Settings) -> Broker:
    """The broker of the settings: that of MILLRACE_MQTT_URL, else the embedded one of this machine."""
    if settings.mqtt_url is None:
        return Broker("127.0.0.1", settings.mqtt_port, settings.mqtt_client_id, is_old=True)
    parts = urlsplit(settings.mqtt_url.get_secret_value())
    return Broker(
        host=parts.hostname or "",
        port=parts.port or _PORTS[parts.scheme],
        client_id=settings.mqtt_client_id,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        is_encrypted=parts.scheme == "mqtts",
        ca_file=None if settings.mqtt_ca_file is None else str(settings.mqtt_ca_file),
    )


@dataclass(frozen=True)
class Message:
    """One message as it was delivered; `mid` is what `acknowledge` takes, and only this connection knows it."""

    mid: int
    topic: str
    payload: bytes


class BrokerConnection:
    """A persistent session of MQTT 5 where the broker has it, else of MQTT 3.1.1, with QoS 1.

    Raises BrokerUnavailable wherever the broker is away, refuses, or does not answer in time.
    """

    def __init__(self, broker: Broker, filters: Sequence[str]) -> None:
        self._broker = broker
        self._inbox: deque[Message] = deque()
        self._refusal: str | None = None
        self._is_connected = False
        self._granted: list[ReasonCode] | None = None
        if broker.is_old:
            self._connect(MQTTProtocolVersion.MQTTv311)
        else:
            self._connect_newest()
        self._subscribe(filters)

    @property
    def version(self) -> str:
        """The protocol that both sides speak."""
        return "5" if self._version is MQTTProtocolVersion.MQTTv5 else "3.1.1"

    def _connect_newest(self) -> None:
        try:
            self._connect(MQTTProtocolVersion.MQTTv5)
        except BrokerUnavailable as first:
            if not self._has_answered:
                raise
            self.close()
            try:
                self._connect(MQTTProtocolVersion.MQTTv311)
            except BrokerUnavailable:
                self.close()
                raise first from None

    def _connect(self, version: MQTTProtocolVersion) -> None:
        self._version = version
        self._has_answered, self._refusal = False, None
        is_new = version is MQTTProtocolVersion.MQTTv5
        self._client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._broker.client_id,
            clean_session=None if is_new else False,
            protocol=version,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.on_connect, client.on_disconnect = self._note_connected, self._note_disconnected
        client.on_subscribe, client.on_message = self._note_subscribed, self._note_message
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._broker.password)
        if self._broker.is_encrypted:
            client.tls_set(ca_certs=self._broker.ca_file, cert_reqs=ssl.CERT_REQUIRED)
        options: dict[str, Any] = {}
        if is_new:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = _NEVER_EXPIRES
            properties.ReceiveMaximum = RECEIVE_MAXIMUM
            options = {"clean_start": False, "properties": properties}
        try:
            client.connect(self._broker.host, self._broker.port, keepalive=KEEPALIVE_S, **options)
        except OSError as error:
            raise BrokerUnavailable(str(self._broker), str(error)) from None
        self._has_answered = True
        self._wait(lambda: self._is_connected, "a connection")

    def _subscribe(self, filters: Sequence[str]) -> None:
        self._client.subscribe([(topic, _QOS) for topic in filters])
        self._wait(lambda: self._granted is not None, "a subscription")
        for topic, reason in zip(filters, self._granted or [], strict=False):
            if reason.is_failure or reason.value != _QOS:
                self.close()
                raise BrokerUnavailable(str(self._broker), f"it does not grant {topic!r} with QoS 1: {reason}")

    def receive(self, most: int, timeout_s: float) -> list[Message]:
        """Up to `most` messages; none where none came within `timeout_s` seconds."""
        if not self._inbox:
            self._read(most, timeout_s)
        return [self._inbox.popleft() for _ in range(min(most, len(self._inbox)))]

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Tell the broker that it may forget these messages."""
        for mid in mids:
            self._client.ack(mid, _QOS)
        if not self._is_connected:
            raise self._build_error()

    def close(self) -> None:
        """Leave; the session stays with the broker."""
        self._client.disconnect()
        sock = self._client.socket()
        if sock is not None:
            sock.close()

    def _read(self, most: int, timeout_s: float) -> None:
        sock = self._client.socket()
        if sock is None:
            raise self._build_error()
        # Bytes that TLS has decrypted already are not seen by select.
        has_more = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        wanting = [sock] if self._client.want_write() else []
        select.select([sock], wanting, [], 0 if has_more else timeout_s)
        if wanting:
            self._client.loop_write()
        before = -1
        while before < len(self._inbox) < most:
            before = len(self._inbox)
            self._client.loop_read()
        self._client.loop_misc()
        if self._client.socket() is None:
            # What came before the end is not acknowledged, and will come again.
            self._inbox.clear()
            raise self._build_error()

    def _wait(self, is_so: Any, what: str) -> None:
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while not is_so():
            if self._refusal is not None:
                raise self._build_error()
            if time.monotonic() > deadline:
                self._refusal = f"it did not answer the request for {what} in {ANSWER_TIMEOUT_S:g} s"
                self.close()
                raise self._build_error()
            # A session that was kept sends its messages before the answer.
            self._read(len(self._inbox) + RECEIVE_MAXIMUM, 0.2)

    def _build_error(self) -> BrokerUnavailable:
        return BrokerUnavailable(str(self._broker), self._refusal or "the connection was closed")

    def _note_connected(self, _client: object, _data: object, _flags: object, reason: ReasonCode, _: object) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
        else:
            self._is_connected = True

    def _note_disconnected(self, _client: object, _data: object, _flags: object, reason: ReasonCode, _: object) -> None:
        self._is_connected = False
        self._refusal = self._refusal or str(reason)

    def _note_subscribed(self, _client: object, _data: object, _mid: int, reasons: list[ReasonCode], _: object) -> None:
        self._granted = reasons

    def _note_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        self._inbox.append(Message(message.mid, _decode_topic(message), bytes(message.payload)))


def _decode_topic(message: mqtt.MQTTMessage) -> str:
    try:
        return message.topic
    except UnicodeDecodeError:
        return ""
