"""Requests that nobody meant: none of them is answered with a 5xx, and none stops the next one."""

import json
import random
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case
from schemathesis.core.result import Ok

from tests.accounts import HEADER_LINE, HEADERS
from tests.serving.running import TIMEOUT_S, Served

REQUESTS = 10_000
VALID = {"values": [10.0, 20.0, 30.0, 40.0]}
PATHS = ("/models/prices/predict", "/predict", "/models/prices", "/models/%00/predict")
PIECES: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "1",
    "\x00",
    "\ud800",
    [],
    {},
    [[]],
    [[1, 2, 3, 4]] * 3,
    {"Close": 1},
    [{"Close": 1}] * 4,
    [{"Close": "x"}] * 4,
    "Production",
)


def test_ten_thousand_malformed_requests_are_refused_and_none_breaks(steady: Served) -> None:
    chance = random.Random(11)
    statuses: Counter[int] = Counter()
    for _ in range(REQUESTS // 100):
        with _open(steady.address) as connection:
            for status in _send_all(connection, [_build_request(chance) for _ in range(100)]):
                statuses[status] += 1
    assert sum(statuses.values()) == REQUESTS
    assert {status for status in statuses if status >= 500} == set()
    assert statuses[422] > 1000
    assert statuses[400] > 500
    assert steady.predict(VALID).status_code == 200


def test_fuzzer_on_the_description_finds_no_5xx(steady: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{steady.address}/openapi.json", headers=HEADERS)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) >= 6
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=80,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def call(case: Case[Any]) -> None:
            if "model" in case.path_parameters and len(case.path_parameters["model"]) % 2:
                case.path_parameters["model"] = "prices"
            answer = case.call(base_url=steady.address, headers=HEADERS)
            assert answer.status_code < 500, f"{case.as_curl_command()}: {answer.text}"

        call()


def _build_request(chance: random.Random) -> bytes:
    path = chance.choice(PATHS[:2]) if chance.random() < 0.9 else chance.choice(PATHS)
    body = _build_body(chance)
    kind = "application/json" if chance.random() < 0.9 else chance.choice(["text/csv", "", "application/json; \xff"])
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{HEADER_LINE}"
    head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


def _build_body(chance: random.Random) -> bytes:
    document: dict[str, object] = {"values": [chance.choice((chance.random(), *PIECES)) for _ in range(4)]}
    if chance.random() < 0.5:
        document = {chance.choice(("values", "rows", "version", "x")): chance.choice(PIECES)}
    if chance.random() < 0.3:
        document["version"] = chance.choice(PIECES[:-1])
    text = json.dumps(document).encode()
    if chance.random() < 0.3:
        content = bytearray(text)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        text = bytes(content[: chance.randint(0, len(content))])
    return text


def _open(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=TIMEOUT_S)


def _send_all(connection: socket.socket, requests: list[bytes]) -> Iterator[int]:
    """Status of each answer; requests of one connection are sent one after the other."""
    with connection.makefile("rb") as answers:
        for request in requests:
            connection.sendall(request)
            status = int(answers.readline().split()[1])
            length = 0
            while (line := answers.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            answers.read(length)
            yield status
