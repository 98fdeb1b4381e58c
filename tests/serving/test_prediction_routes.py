"""Requests over HTTP: answers, refusals and headers."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, select

from core.tables.predictions import predictions
from tests.serving.folder_registry import FolderRegistry
from tests.serving.reading import load_request_counts, load_request_outcomes
from tests.serving.running import Served, serving, wait_until

VALUES = [10.0, 20.0, 30.0, 40.0]


def _post(steady: Served, content: str | bytes, **headers: str) -> httpx.Response:
    return steady.client.post(
        "/models/prices/predict", content=content, headers={"Content-Type": "application/json"} | headers
    )


def test_prediction_names_model_version_and_id(steady: Served) -> None:
    response = steady.predict({"values": VALUES})
    assert response.status_code == 200
    body = response.json()
    assert body["model"] == "prices"
    assert body["version"] == 1
    assert body["predictions"] == [25.0]
    assert len(set(body["prediction_ids"])) == 1
    assert response.headers["X-Model-Name"] == "prices"
    assert response.headers["X-Model-Version"] == "1"
    assert response.headers["X-Request-ID"]


def test_prediction_takes_many_rows_and_rows_by_column(steady: Served) -> None:
    windows = [[float(start + step) for step in range(4)] for start in range(1, 301)]
    many = steady.predict({"values": windows}).json()
    assert many["predictions"] == [sum(window) / 4 for window in windows]
    assert len(set(many["prediction_ids"])) == len(windows)
    rows = steady.predict({"rows": [{"Close": value} for value in VALUES]}).json()
    assert rows["predictions"] == [25.0]


def test_documented_route_answers_in_its_own_names(steady: Served) -> None:
    response = steady.client.post("/predict", json={"values": VALUES})
    assert response.json() == {
        "ok": True,
        "prediction": 25.0,
        "checkpoint_path": "models:/prices/1",
        "sequence_length": 4,
        "symbol": "BTC-USD",
    }
    assert response.headers["X-Model-Version"] == "1"
    assert steady.client.get("/predict").status_code == 405
    two = steady.client.post("/predict", json={"values": [VALUES, VALUES]})
    assert two.status_code == 422
    assert "2 rows" in two.json()["detail"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('{"values": [1, 2, 3]}', "values: 3 values"),
        ('{"values": [1, 2, 3, "four"]}', "values[3]: 'four'"),
        ('{"values": [1, 2, true, 4]}', "values[2]: true"),
        ('{"values": [1, 2, null, 4]}', "values[2]: null"),
        ('{"values": [1, NaN, 3, 4]}', "values[1]: NaN"),
        ('{"values": [1, 2, 3, Infinity]}', "values[3]: Infinity"),
        ('{"values": [1, 2, 3, -Infinity]}', "values[3]: -Infinity"),
        ('{"values": [1, 2, 3, 1e400]}', "values[3]: Infinity"),
        ('{"values": [1, 2, 3, %s]}' % ("9" * 5000), "values[3]: Infinity"),
        ('{"values": [1, 2, 3, %s]}' % ("9" * 30), "values[3]: 1e+30"),
        ('{"values": [1, 2, 3, -4]}', "values[3]: -4"),
        ('{"values": []}', "values: []"),
        ('{"values": [[1, 2, 3, 4], [1, 2]]}', "values[1]: 2 values"),
        ('{"values": {"a": 1}}', "values: {'a': 1}"),
        ('{"rows": [{"Close": 1}, {"Close": 1}, {"Close": 1}, {"Open": 1}]}', "rows[3].Close: nothing"),
        ("[1, 2, 3, 4]", "body: [1, 2, 3, 4]"),
        ("7", "body: 7"),
        ("{}", "body: []"),
        ('{"values": [1, 2, 3, 4], "rows": []}', "exactly one of"),
        ('{"values": [1, 2, 3, 4], "verson": 1}', "'verson'"),
        ('{"values": [1, 2, 3, 4], "version": 1.5}', "version: 1.5"),
        ('{"values": [1, 2, 3, 4], "version": true}', "version: true"),
        ('{"values": [1, 2, 3, 4], "version": -1}', "version: -1"),
    ],
)
def test_request_that_does_not_fit_is_refused_by_place_and_value(steady: Served, body: str, named: str) -> None:
    response = _post(steady, body)
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert named in problem["detail"]
    assert problem["type"] == "/problems/request-rejected"
    assert problem["status"] == 422
    assert problem["errors"][0].keys() == {"where", "value", "rule"}
    assert problem["request_id"] == response.headers["X-Request-ID"]


@pytest.mark.parametrize(
    "body", ["", "{", '{"values": [1,]}', "nonsense", b"\xff\xfe", "[" * 100_000, '{"values": [0x10]}']
)
def test_body_that_is_not_json_is_refused(steady: Served, body: str | bytes) -> None:
    response = _post(steady, body)
    assert response.status_code == 400
    assert response.json()["type"] == "/problems/malformed-body"


def test_body_of_another_type_is_refused(steady: Served) -> None:
    for headers in ({"Content-Type": "text/csv"}, {"Content-Encoding": "gzip"}):
        response = _post(steady, json.dumps({"values": VALUES}), **headers)
        assert response.status_code == 415
        assert "application/json" in response.json()["detail"]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_body_that_is_too_large_is_refused_before_it_is_read(steady: Served, is_chunked: bool) -> None:
    sent = itertools.count()

    def build_pieces() -> Iterator[bytes]:
        for _ in range(200):
            next(sent)
            yield b" " * 2**20

    size = {} if is_chunked else {"Content-Length": str(200 * 2**20)}
    headers = {"Content-Type": "application/json"} | size
    try:
        response = steady.client.post("/models/prices/predict", content=build_pieces(), headers=headers)
    except httpx.WriteError:
        # The server closed the connection while the rest was being sent.
        pass
    else:
        assert response.status_code == 413
        assert response.json()["max_bytes"] == steady.settings.max_body_bytes
    assert next(sent) < 100
    assert steady.predict({"values": VALUES}).status_code == 200


def test_refusal_is_recorded_with_its_reason(served: Served, own_engine: Engine) -> None:
    assert served.predict({"values": [1, 2, 3]}).status_code == 422

    def is_recorded() -> bool:
        with own_engine.connect() as connection:
            rows = connection.execute(select(predictions)).all()
        return [(row.is_refusal, row.version) for row in rows] == [(True, 1)] and "3 values" in rows[0].reason

    wait_until(is_recorded)


def test_request_id_is_taken_only_where_it_is_plain(steady: Served) -> None:
    def ask(request_id: str) -> str:
        return str(steady.client.get("/models", headers={"X-Request-ID": request_id}).headers["X-Request-ID"])

    assert ask("order-17.a_B") == "order-17.a_B"
    for unsafe in ("a b", "x" * 65, "<script>", '"', ""):
        assert ask(unsafe) != unsafe
        assert len(ask(unsafe)) == 32


def test_unknown_model_names_the_known_ones(steady: Served) -> None:
    response = steady.predict({"values": VALUES}, model="weather")
    assert response.status_code == 404
    assert "prices" in response.json()["detail"]


def test_wrong_method_is_refused(steady: Served) -> None:
    response = steady.client.get("/models/prices/predict")
    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"
    assert response.json()["type"] == "/problems/method-not-allowed"


def test_version_asked_for_by_number_answers_and_no_other_does(served: Served) -> None:
    served.registry.add("prices", 2, answers="double")
    second = served.predict({"values": VALUES, "version": 2})
    assert (second.json()["version"], second.json()["predictions"]) == (2, [50.0])
    assert second.headers["X-Model-Version"] == "2"
    assert served.predict({"values": VALUES}).json()["version"] == 1
    missing = served.predict({"values": VALUES, "version": 3})
    assert missing.status_code == 404
    assert missing.json()["wanted"] == "3"
    served.registry.add("prices", 3, answers="nan")
    refused = served.predict({"values": VALUES, "version": 3})
    assert refused.status_code == 503
    assert str(served.settings.home) not in refused.text


def test_answer_that_is_not_finite_is_an_error_and_counted_as_a_failure_of_the_version(
    served: Served, own_engine: Engine
) -> None:
    served.registry.add("prices", 2, answers="nan_above")
    served.registry.set_production("prices", 2)
    served.wait_for_version("prices", 2)
    response = served.predict({"values": [1e7] * 4})
    assert response.status_code == 500
    assert response.json()["type"] == "/problems/answer-not-finite"
    assert served.predict({"values": [VALUES, VALUES]}).json()["predictions"] == [25.0, 25.0]
    assert served.predict({"values": ["x"] * 4}).status_code == 422

    def load_outputs() -> list[tuple[bool, bool, list[float]]]:
        with own_engine.connect() as connection:
            rows = connection.execute(select(predictions).order_by(predictions.c.at)).all()
        return [(row.is_refusal, row.is_failure, row.outputs) for row in rows]

    answered = (False, False, [25.0])
    wait_until(lambda: load_outputs() == [(True, True, []), answered, answered, (True, False, [])])
    assert load_request_counts(own_engine) == (2, 1)
    assert load_request_outcomes(own_engine) == (1, 1)


def test_runtime_that_breaks_is_counted_as_a_failure_of_the_version_and_its_words_stay_inside(
    served: Served, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a kernel at /opt/secret broke")

    assert served.predict({"values": VALUES}).status_code == 200
    monkeypatch.setattr("core.inference.OnnxModel.predict", fail)
    response = served.predict({"values": VALUES})
    assert (response.status_code, response.json()["type"]) == (500, "/problems/internal-error")
    assert "secret" not in response.text
    wait_until(lambda: load_request_outcomes(own_engine) == (1, 1))
    with own_engine.connect() as connection:
        reasons = list(connection.scalars(select(predictions.c.reason).where(predictions.c.is_failure)))
    assert reasons == ["RuntimeError: a kernel at /opt/secret broke"]


def test_openapi_describes_the_prediction_route(steady: Served) -> None:
    document = steady.client.get("/openapi.json").json()
    operation = document["paths"]["/models/{model}/predict"]["post"]
    assert "values" in json.dumps(operation["requestBody"])
    assert {"200", "400", "404", "413", "415", "422", "503"} <= operation["responses"].keys()


def test_model_without_production_version_says_how_to_get_one(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    with serving(tmp_path, own_database_url, folder_registry) as served:
        wait_until(lambda: served.client.get("/health/ready").status_code == 200)
        for response in (served.predict({"values": VALUES}), served.client.post("/predict", json={"values": VALUES})):
            assert response.status_code == 503
            assert "millrace train prices" in response.json()["detail"]
            assert int(response.headers["Retry-After"]) > 0
