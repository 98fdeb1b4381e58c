"""What holds however a prediction is asked for: bounds, errors and their shapes, the version on the answer, metrics."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import Engine, select

from core.embedded_database import EmbeddedDatabase
from core.tables.predictions import predictions
from tests.accounts import HEADER_LINE
from tests.serving.conftest import copy_database
from tests.serving.folder_registry import FolderRegistry
from tests.serving.running import TIMEOUT_S, Served, serving, wait_until

WINDOW = [10.0, 20.0, 30.0, 40.0]
TENSOR = {"name": "inputs", "shape": [1, 4, 1], "datatype": "FP32", "data": WINDOW}


def _scale(factor: float) -> list[tuple[str, object]]:
    """A request to each of the ways of asking model `{model}`, for a window of that scale."""
    window = [value * factor for value in WINDOW]
    own = {"values": window}
    rows = {"inputs": [[[value] for value in window]]}
    return [
        ("/models/{model}/predict", own),
        ("/{model}/predict", own),
        ("/models/{model}/invocations", rows),
        ("/v2/models/{model}/infer", {"inputs": [TENSOR | {"data": window}]}),
        ("/v2/models/{model}/versions/1/infer", {"inputs": [TENSOR | {"data": window}]}),
    ]


WAYS = pytest.mark.parametrize("way", range(5), ids=["own", "documented", "mlflow", "v2", "v2-version"])


def _ask(served: Served, way: int, model: str, factor: float = 1.0) -> httpx.Response:
    path, body = _scale(factor)[way]
    return served.client.post(path.format(model=model), json=body)


def _check_shape(response: httpx.Response, way: int) -> None:
    document = response.json()
    if way < 2:
        assert response.headers["Content-Type"] == "application/problem+json"
        assert document["status"] == response.status_code
    elif way == 2:
        assert document.keys() == {"error_code", "message"}
    else:
        assert document.keys() == {"error"}
    assert response.headers["X-Request-ID"]


@pytest.fixture(scope="module")
def strained(tmp_path_factory: pytest.TempPathFactory, database: EmbeddedDatabase, template: str) -> Iterator[Served]:
    """Models `other` (answers), `slow` (too slow for the time-out) and `nan_above`; two places for predictions."""
    folder = tmp_path_factory.mktemp("strained")
    (folder / "registry").mkdir()
    registry = FolderRegistry(folder / "registry")
    registry.add("other", 1, answers="mean")
    registry.add("slow", 1, answers="slow")
    registry.add("broken", 1, answers="nan_above")
    models = ("other", "slow", "broken")
    for model in models:
        registry.set_production(model, 1)
    with serving(
        folder,
        copy_database(database, template),
        registry,
        models=models,
        max_concurrent_requests=2,
        request_timeout_s=0.05,
    ) as served:
        for model in models:
            served.wait_for_version(model, 1)
        yield served


@WAYS
def test_answer_names_its_version(strained: Served, way: int) -> None:
    response = _ask(strained, way, "other")
    assert response.status_code == 200
    assert (response.headers["X-Model-Name"], response.headers["X-Model-Version"]) == ("other", "1")


@WAYS
def test_model_that_is_too_slow_is_given_up(strained: Served, way: int) -> None:
    # What was given up before this still has its place.
    wait_until(lambda: "http_requests_in_progress 0.0" in strained.client.get("/metrics").text)
    response = _ask(strained, way, "slow")
    assert response.status_code == 504
    _check_shape(response, way)
    assert response.headers["X-Model-Version"] == "1"


@WAYS
def test_answer_that_is_not_finite_is_ours_and_is_logged(
    strained: Served, way: int, caplog: pytest.LogCaptureFixture
) -> None:
    response = _ask(strained, way, "broken", 1e6)
    assert response.status_code == 500
    _check_shape(response, way)
    assert (response.headers["X-Model-Name"], response.headers["X-Model-Version"]) == ("broken", "1")
    assert any(response.headers["X-Request-ID"] in record.getMessage() for record in caplog.records)
    assert "computed a value that is not finite" in response.text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/invocations", "POST"), ("GET", "/v2/models/other/infer", "POST"), ("DELETE", "/v2", "GET")],
)
def test_other_method_is_refused_in_the_shape_of_the_protocol(
    strained: Served, method: str, path: str, allowed: str
) -> None:
    response = strained.client.request(method, path)
    assert (response.status_code, response.headers["Allow"]) == (405, allowed)
    _check_shape(response, 2 if path == "/invocations" else 3)
    assert f"send {allowed}" in response.text


@WAYS
def test_refusal_names_its_version_and_is_counted_by_its_kind(strained: Served, way: int) -> None:
    label = 'http_request_errors_total{kind="request-rejected",model="other"}'

    def count() -> float:
        lines = strained.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(label))

    before = count()
    response = _ask(strained, way, "other", -1.0)
    assert response.status_code == (422 if way < 2 else 400)
    _check_shape(response, way)
    assert (response.headers["X-Model-Name"], response.headers["X-Model-Version"]) == ("other", "1")
    assert count() == before + 1


@WAYS
def test_requests_beyond_the_bound_are_told_to_come_again(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry, way: int
) -> None:
    folder_registry.add("other", 1, answers="mean")
    folder_registry.set_production("other", 1)
    with serving(tmp_path, own_database_url, folder_registry, models=("other",), max_concurrent_requests=1) as served:
        served.wait_for_version("other", 1)
        parts = urlsplit(served.address)
        path = _scale(1.0)[way][0].format(model="other")
        with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=TIMEOUT_S) as holding:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{HEADER_LINE}"
            head += "Content-Type: application/json\r\nContent-Length: 99\r\n\r\n"
            holding.sendall(head.encode() + b"{")
            wait_until(lambda: "http_requests_in_progress 1.0" in served.client.get("/metrics").text)
            response = _ask(served, way, "other")
            assert response.status_code == 429
            assert int(response.headers["Retry-After"]) > 0
            _check_shape(response, way)
        wait_until(lambda: _ask(served, way, "other").status_code == 200)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v2/models/prices/infer", {"inputs": [TENSOR | {"shape": [0, 2**64 - 1], "data": []}]}, "inputs[0].shape"),
        ("/v2/models/prices/infer", {"inputs": [TENSOR | {"shape": [0] + [2**31] * 7, "data": []}]}, "inputs[0].shape"),
        ("/v2/models/prices/infer", {"inputs": [TENSOR], "id": 7}, "id: 7"),
    ],
)
def test_refusal_before_the_input_is_read_is_recorded_too(
    served: Served, own_engine: Engine, path: str, body: object, named: str
) -> None:
    response = served.client.post(path, json=body)
    assert (response.status_code, named in response.json()["error"]) == (400, True)

    def is_recorded() -> bool:
        with own_engine.connect() as connection:
            return [named in row.reason for row in connection.execute(select(predictions))] == [True]

    wait_until(is_recorded)


def test_lists_in_lists_without_end_are_refused(steady: Served) -> None:
    nested = "[" * 500 + "1" + "]" * 500
    for path, body in (
        ("/models/prices/invocations", f'{{"inputs": {nested}}}'),
        ("/models/prices/invocations", f'{{"dataframe_split": {{"columns": ["a"], "data": [[{nested}]]}}}}'),
        ("/v2/models/prices/infer", '{"inputs": [{"name": "inputs", "shape": [1], "datatype": "FP32", "data": %s}]}'),
    ):
        content = body % nested if "%s" in body else body
        response = steady.client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert (response.status_code, "8 lists in one another" in response.text) == (400, True)


def test_records_of_other_columns_each_do_not_fill_the_memory(two_models: Served) -> None:
    records = [{f"column_{number}": 1.0} for number in range(10_000)]
    for model in ("areas", "prices"):
        response = two_models.client.post(f"/models/{model}/invocations", json={"dataframe_records": records})
        assert (response.status_code, "the same columns" in response.text) == (400, True)


def test_many_faults_are_not_all_listed(two_models: Served) -> None:
    tensor = {"name": "inputs", "shape": [9_000, 2], "datatype": "FP32", "data": ["x"] * 18_000}
    response = two_models.client.post("/v2/models/areas/infer", json={"inputs": [tensor]})
    assert (response.status_code, len(response.content) < 2_000) == (400, True)


def test_addresses_that_look_at_every_model_load_none(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    models = ("one", "two", "three", "four")
    for model in models:
        folder_registry.add(model, 1, answers="mean")
        folder_registry.set_production(model, 1)
    with serving(tmp_path, own_database_url, folder_registry, models=models, max_loaded_versions=2) as served:
        for model in models:
            served.wait_for_version(model, 1)

        def count_loads() -> float:
            lines = served.client.get("/metrics").text.splitlines()
            return sum(
                float(line.split()[-1]) for line in lines if line.startswith("millrace_version_load_seconds_count")
            )

        before = count_loads()
        index = served.client.post("/v2/repository/index").json()
        assert [(entry["name"], entry["version"], entry["state"]) for entry in index] == [
            (model, "1", "READY") for model in sorted(models)
        ]
        assert served.client.get("/ping").status_code == 200
        assert count_loads() == before
