"""MLflow's scoring protocol: the same bodies to MLflow's own scoring server and to ours."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from mlflow.version import VERSION
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from core.tables.predictions import predictions
from tests.accounts import TOKEN
from tests.serving.folder_registry import FolderRegistry
from tests.serving.running import TIMEOUT_S, Served, serving, wait_until
from tests.serving.tables import multiply
from tests.web.running import running

WINDOW = [10.0, 20.0, 30.0, 40.0]
SECOND = [1.0, 2.0, 3.0, 4.0]
TENSOR = [[[value] for value in window] for window in (WINDOW, SECOND)]
ROWS = [[3.0, 4.0], [0.5, -2.0], [7.0, 10.0]]
RECORDS = [{"width": width, "height": height} for width, height in ROWS]
JSON = "application/json"


class _Model:
    """What MLflow wraps: it is given what the signature lets through."""

    def __init__(self, name: str) -> None:
        self._name = name

    def predict(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        return data.mean(axis=1) if self._name == "prices" else multiply(data)


def _build_peer(name: str, shape: tuple[int, ...]) -> FastAPI:
    """MLflow's own scoring server on a model with the signature that our versions have."""
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import PyFuncModel, scoring_server
    from mlflow.types.schema import Schema, TensorSpec

    meta = Model(signature=ModelSignature(inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *shape))])))
    meta.add_flavor("python_function", loader_module="none")
    app: FastAPI = scoring_server.init(PyFuncModel(model_meta=meta, model_impl=_Model(name)))
    return app


@pytest.fixture(scope="module", autouse=True)
def _mlflow() -> None:
    with warnings.catch_warnings():
        # MLflow's own classes for chat agents raise this while its module loads.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType", category=UserWarning)
        import mlflow.pyfunc  # noqa: F401


@pytest.fixture(scope="module")
def peers() -> Iterator[dict[str, httpx.Client]]:
    with (
        running(_build_peer("prices", (4, 1))) as prices,
        running(_build_peer("areas", (2,))) as areas,
        httpx.Client(base_url=prices, timeout=TIMEOUT_S) as ask_prices,
        httpx.Client(base_url=areas, timeout=TIMEOUT_S) as ask_areas,
    ):
        yield {"prices": ask_prices, "areas": ask_areas}


def _ask(client: httpx.Client, path: str, content: str | bytes, content_type: str = JSON) -> httpx.Response:
    return client.post(path, content=content, headers={"Content-Type": content_type})


GOOD: list[tuple[str, str, object]] = [
    ("prices", JSON, {"inputs": TENSOR}),
    ("prices", JSON, {"instances": TENSOR}),
    ("prices", JSON, {"dataframe_split": {"columns": ["window"], "data": [[WINDOW], [SECOND]]}}),
    ("prices", JSON, {"dataframe_split": {"data": [[WINDOW], [SECOND]]}}),
    ("prices", JSON, {"dataframe_records": [{"window": WINDOW}, {"window": SECOND}]}),
    ("areas", JSON, {"inputs": ROWS}),
    ("areas", JSON, {"instances": ROWS}),
    ("areas", JSON, {"inputs": [[3, 4], [1, 2]]}),
    ("areas", JSON, {"dataframe_split": {"columns": ["width", "height"], "data": ROWS}}),
    ("areas", JSON, {"dataframe_split": {"index": [7, 8, 9], "columns": ["width", "height"], "data": ROWS}}),
    ("areas", JSON, {"dataframe_split": {"data": ROWS}}),
    ("areas", JSON, {"dataframe_records": RECORDS}),
    ("areas", JSON, {"dataframe_records": RECORDS, "params": {}}),
    ("areas", f"{JSON}; charset=utf-8", {"inputs": ROWS}),
    ("areas", f"{JSON};charset=UTF-8", {"inputs": ROWS}),
]


@pytest.mark.parametrize(("model", "content_type", "body"), GOOD)
def test_body_gets_the_predictions_of_mlflows_server(
    two_models: Served, peers: dict[str, httpx.Client], model: str, content_type: str, body: object
) -> None:
    content = json.dumps(body)
    ours = _ask(two_models.client, f"/models/{model}/invocations", content, content_type)
    theirs = _ask(peers[model], "/invocations", content, content_type)
    assert theirs.status_code == 200, theirs.text
    assert ours.status_code == 200, ours.text
    assert ours.headers["Content-Type"] == theirs.headers["Content-Type"]
    np.testing.assert_allclose(ours.json()["predictions"], theirs.json()["predictions"], rtol=1e-6)
    assert len(set(ours.json()["prediction_ids"])) == len(theirs.json()["predictions"])
    assert (ours.headers["X-Model-Name"], ours.headers["X-Model-Version"]) == (model, "1")
    assert ours.headers["X-Request-ID"]


BAD: list[tuple[str, str, str | bytes, str]] = [
    ("prices", JSON, "{", "not JSON"),
    ("prices", JSON, b"\xff\xfe", "not JSON"),
    ("prices", JSON, "[1, 2]", "body"),
    ("prices", JSON, "7", "body"),
    ("prices", JSON, "{}", "exactly one of dataframe_split"),
    ("prices", JSON, json.dumps({"inputs": TENSOR, "instances": TENSOR}), "exactly one of"),
    ("areas", JSON, json.dumps({"dataframe_records": {"width": 1}}), "dataframe_records: {'width': 1}"),
    ("areas", JSON, json.dumps({"dataframe_split": [1]}), "dataframe_split: [1]"),
    ("areas", JSON, json.dumps({"dataframe_split": {"columns": ["width"], "rows": [[1]]}}), "'rows'"),
    ("areas", JSON, json.dumps({"dataframe_split": {"columns": ["width"], "data": ROWS}}), "row 0: 2 cells"),
    ("areas", "text/csv", b"\xff\xfe\x00", "UTF-8"),
    ("prices", JSON, json.dumps({"inputs": {"a": [1]}}), "inputs of shape [-1, 4, 1]"),
]


@pytest.mark.parametrize(("model", "content_type", "content", "named"), BAD)
def test_body_that_mlflows_server_refuses_is_refused_alike_and_without_a_trace(
    two_models: Served, peers: dict[str, httpx.Client], model: str, content_type: str, content: str | bytes, named: str
) -> None:
    ours = _ask(two_models.client, f"/models/{model}/invocations", content, content_type)
    theirs = _ask(peers[model], "/invocations", content, content_type)
    assert ours.status_code == theirs.status_code == 400, theirs.text
    assert ours.json().keys() == {"error_code", "message"}
    assert ours.json()["error_code"] == theirs.json()["error_code"] == "BAD_REQUEST"
    assert named in ours.json()["message"]
    assert "Traceback" not in ours.text
    assert ours.headers["X-Request-ID"]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json; charset=latin-1", "application/json; format=pandas-split", "x"]
)
def test_content_type_that_mlflows_server_refuses_is_refused(
    two_models: Served, peers: dict[str, httpx.Client], content_type: str
) -> None:
    content = json.dumps({"inputs": ROWS})
    ours = _ask(two_models.client, "/models/areas/invocations", content, content_type)
    assert _ask(peers["areas"], "/invocations", content, content_type).status_code == 415
    assert ours.status_code == 415
    assert content_type in ours.json()["message"]


@pytest.mark.parametrize(
    ("model", "body", "named"),
    [
        ("areas", {"inputs": [[3.0, 11.0]]}, "inputs[0] height: 11.0"),
        ("areas", {"inputs": [[3.0]]}, "inputs: [1, 1]"),
        ("areas", {"inputs": [3.0, 4.0]}, "inputs: [2]"),
        ("areas", {"inputs": []}, "inputs: 0 rows"),
        ("areas", {"inputs": 3.0}, "inputs: 3.0"),
        ("areas", {"inputs": [[3.0, None]]}, "inputs[0][1]: null"),
        ("areas", {"inputs": [[3.0, 4.0], [3.0]]}, "inputs[1]: a list of 1"),
        ("areas", {"inputs": [[3.0, 1e39]]}, "height: Infinity"),
        ("areas", {"dataframe_records": [{"width": 3.0}]}, "height: nothing"),
        ("areas", {"dataframe_records": [{"width": 3.0, "height": "four"}]}, "height: 'four'"),
        ("areas", {"dataframe_split": {"data": [[1.0, 2.0, 3.0]]}}, "columns: 3 columns"),
        ("areas", {"dataframe_split": {"columns": ["a", "b"], "data": ROWS}}, "width: nothing"),
        ("areas", {"dataframe_split": {"columns": ["width", "width"], "data": ROWS}}, "every name is expected once"),
        ("prices", {"inputs": [WINDOW]}, "inputs: [1, 4]"),
        ("prices", {"dataframe_records": [{"window": [1.0, 2.0]}]}, "inputs: cells of shape [2]"),
        ("prices", {"dataframe_records": [{"a": 1.0, "b": 2.0}]}, "inputs of shape [-1, 4, 1]"),
        ("prices", {"inputs": [[[1.0], [2.0], [-3.0], [4.0]]]}, "Close: -3.0"),
    ],
)
def test_values_outside_the_contract_are_refused_by_place(
    two_models: Served, model: str, body: object, named: str
) -> None:
    response = _ask(two_models.client, f"/models/{model}/invocations", json.dumps(body))
    assert response.status_code == 400
    assert response.json()["error_code"] == "BAD_REQUEST"
    assert named in response.json()["message"]


def test_columns_go_by_name_whatever_their_order_and_beside_others(two_models: Served) -> None:
    split = {"columns": ["id", "height", "width"], "data": [["a", 4.0, 3.0]]}
    response = _ask(two_models.client, "/models/areas/invocations", json.dumps({"dataframe_split": split}))
    np.testing.assert_allclose(response.json()["predictions"], multiply(np.array([[3.0, 4.0]], np.float32)))
    by_column = {"inputs": {"height": [4.0, 1.0], "width": [[3.0], [2.0]]}}
    response = _ask(two_models.client, "/models/areas/invocations", json.dumps(by_column))
    expected = multiply(np.array([[3.0, 4.0], [2.0, 1.0]], np.float32))
    np.testing.assert_allclose(response.json()["predictions"], expected)


def test_csv_is_taken_also_as_pandas_writes_it_with_its_index(two_models: Served) -> None:
    """MLflow's server fails on any CSV where the signature is a tensor, so numpy is the measure here."""
    import pandas as pd

    frame = pd.DataFrame(ROWS, columns=["width", "height"])
    for content in (frame.to_csv(), frame.to_csv(index=False, lineterminator="\r\n"), "\ufeff" + frame.to_csv()):
        response = _ask(two_models.client, "/models/areas/invocations", content.encode(), "text/csv; charset=utf-8")
        np.testing.assert_allclose(response.json()["predictions"], multiply(np.array(ROWS, np.float32)))
    bad = _ask(two_models.client, "/models/areas/invocations", "width,height\n3.0,\n", "text/csv")
    assert (bad.status_code, "height[0]: null" in bad.json()["message"]) == (400, True)


def test_addresses_without_a_model_need_one_named_where_several_are_served(two_models: Served) -> None:
    content = json.dumps({"inputs": ROWS})
    refused = _ask(two_models.client, "/invocations", content)
    assert refused.status_code == 400
    assert "X-Model-Name" in refused.json()["message"] and "areas, prices" in refused.json()["message"]
    headers = {"Content-Type": JSON, "X-Model-Name": "areas"}
    named = two_models.client.post("/invocations", content=content, headers=headers)
    assert named.headers["X-Model-Name"] == "areas"
    unknown = two_models.client.post("/invocations", content=content, headers=headers | {"X-Model-Name": "weather"})
    assert (unknown.status_code, unknown.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")


def test_ping_health_and_version_are_mlflows(two_models: Served, peers: dict[str, httpx.Client]) -> None:
    for prefix in ("", "/models/areas"):
        for path in ("/ping", "/health", "/version"):
            ours, theirs = two_models.client.get(f"{prefix}{path}"), peers["areas"].get(path)
            assert (ours.status_code, ours.text) == (theirs.status_code, theirs.text)
    assert two_models.client.get("/version").text == VERSION
    assert two_models.client.get("/models/weather/ping").status_code == 404


def test_setting_names_the_model_of_invocations_for_mlflows_own_client(
    tmp_path: Path,
    own_database_url: str,
    folder_registry: FolderRegistry,
    own_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MLflow's client is told a host and a port and no more; the token is in the file that `requests` reads."""
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    for model, answers in (("closes", "double"), ("prices", "mean")):
        folder_registry.add(model, 1, answers=answers)  # type: ignore[arg-type]
        folder_registry.set_production(model, 1)
    passwords = tmp_path / "netrc"
    passwords.write_text(f"machine 127.0.0.1 login tests password {TOKEN}\n")
    monkeypatch.setenv("NETRC", str(passwords))
    both = ("closes", "prices")
    with serving(tmp_path, own_database_url, folder_registry, models=both, invocations_model="closes") as served:
        served.wait_for_version("closes", 1)
        served.wait_for_version("prices", 1)
        client = ScoringServerClient("127.0.0.1", served.settings.serving_port)  # type: ignore[no-untyped-call]
        client.wait_server_ready(timeout=20, scoring_server_proc=_Running())  # type: ignore[no-untyped-call]
        answered: Any = client.invoke(np.array(TENSOR))
        assert answered["predictions"] == [[50.0], [5.0]]
        refused = served.client.post("/invocations", json={"inputs": [WINDOW]})
        assert refused.status_code == 400

        def load_logged() -> list[tuple[str, bool, str]]:
            with own_engine.connect() as connection:
                rows = connection.execute(select(predictions).order_by(predictions.c.at, predictions.c.id)).all()
            return sorted((str(row.id), row.is_refusal, row.model) for row in rows)

        wait_until(lambda: len(load_logged()) == 3, 60.0)
        logged = load_logged()
        assert {entry[0] for entry in logged if not entry[1]} == set(answered["prediction_ids"])
        assert {entry[2] for entry in logged} == {"closes"}


class _Running:
    """A process that has not ended."""

    def poll(self) -> None:
        return None


def test_only_served_model_answers_invocations(served: Served) -> None:
    response = served.client.post("/invocations", json={"inputs": TENSOR})
    assert response.json()["predictions"] == [[25.0], [2.5]]
    assert response.headers["X-Model-Name"] == "prices"
