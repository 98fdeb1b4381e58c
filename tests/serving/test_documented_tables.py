"""Documented routes of a table: the document's own `GET /api/info` and `POST /api/predict`, over HTTP."""

import json
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sqlalchemy import create_engine, insert

from core.contract import Contract
from core.contracts import write_contracts
from core.embedded_database import EmbeddedDatabase
from core.model_directory import VersionFiles, write_files
from core.reference import build_reference
from core.tables.trainings import trainings
from core.tables.versions import version_names
from core.targets import set_target
from tests.serving.conftest import copy_database
from tests.serving.folder_registry import FolderRegistry
from tests.serving.running import Served, serving
from workloads.man_hours.workload import WORKLOAD

MODEL = "man_hours"
ROW = {"sum_daily_hours": 40.0, "age_fleet": 12.0, "cycles": 20, "sum_monthly_utilisation": 160.0, "aircraft": "PR-BBB"}


def build_version(variant: str, name: str) -> Contract:
    """The contract of a version that has learnt two aircraft."""
    vocabularies = {"aircraft": ("PR-AAA", "PR-BBB")} if variant == "5_features" else {}
    learnt = {"vocabularies": vocabularies, "version_name": name}
    return WORKLOAD.build_contract(variant=variant).model_copy(update=learnt)


def write_sum(folder: Path, contract: Contract) -> None:
    """A version that answers the sum of what it is given."""
    size = len(contract.features)
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["inputs", "axes"], ["outputs"], keepdims=1)],
        "sum",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    monitored = [monitored.name for monitored in contract.monitored]
    values = np.random.default_rng(1).normal(size=(300, len(monitored)))
    reference = build_reference(values, monitored, ["" for _ in monitored], window_sizes=(50,))
    with tempfile.TemporaryDirectory() as temporary:
        onnx_path, keras_path = Path(temporary) / "model.onnx", Path(temporary) / "model.keras"
        onnx.save_model(model, str(onnx_path))
        keras_path.write_bytes(b"not loaded by serving")
        document = json.loads(reference.to_json())
        files = VersionFiles(keras_path, onnx_path, contract.model_dump(mode="json"), document, {})
        folder.mkdir(parents=True)
        write_files(folder, files)


@pytest.fixture(scope="module")
def url(database: EmbeddedDatabase, template: str) -> str:
    return copy_database(database, template)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, url: str) -> Iterator[Served]:
    """Version 1, named 20261121, of four features, and version 2, named 1.0.0 and in Production, of five."""
    folder = tmp_path_factory.mktemp("table")
    registry = FolderRegistry(folder / "registry")
    for version, variant, name in ((1, "4_features", "20261121"), (2, "5_features", "1.0.0")):
        write_sum(registry.folder / MODEL / str(version), build_version(variant, name))
    registry.set_production(MODEL, 2)
    engine = create_engine(url)
    with engine.begin() as connection:
        write_contracts(connection, [WORKLOAD.build_contract()])
        for version, name in ((1, "20261121"), (2, "1.0.0")):
            training_id = uuid.uuid4()
            values = {"id": training_id, "model": MODEL, "state": "finished", "cause": "hand", "actor": "tests"}
            connection.execute(insert(trainings).values(**values))
            named = {"model": MODEL, "name": name, "training_id": training_id, "version": version}
            connection.execute(insert(version_names).values(**named))
    with serving(folder, url, registry, models=()) as running:
        running.wait_for_version(MODEL, 2)
        yield running
    engine.dispose()


def test_info_tells_of_the_version_that_serves_as_documented(table: Served) -> None:
    assert table.client.get("/api/info").json() == {
        "variant": "5_features",
        "features": list(WORKLOAD.variants["5_features"]),
        "model_version": "1.0.0",
        "description": WORKLOAD.description,
    }
    assert table.client.post("/api/info", json={}).status_code == 405


def test_prediction_takes_the_features_and_answers_as_documented(table: Served) -> None:
    answer = table.client.post("/api/predict", json=ROW).json()
    assert answer == {"HH": 40.0 + 12.0 + 20 + 160.0 + 2, "features_used": list(WORKLOAD.variants["5_features"])}
    # An aircraft that training has not seen has code 0.
    assert table.client.post("/api/predict", json={**ROW, "aircraft": "PR-NEW"}).json()["HH"] == 232.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"sum_daily_hours": NaN, "age_fleet": 1, "cycles": 1, "sum_monthly_utilisation": 1, "aircraft": "x"}', "NaN"),
        ('{"sum_daily_hours": 1, "age_fleet": 1, "cycles": 1, "sum_monthly_utilisation": 1}', "body.aircraft"),
        ("[1, 2]", "a JSON object with the contract's columns"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_column(table: Served, content: str, said: str) -> None:
    refused = table.client.post("/api/predict", content=content, headers={"Content-Type": "application/json"})
    assert refused.status_code == 422
    assert said in refused.json()["detail"]


@pytest.mark.parametrize(("version", "number", "sum_of"), [("20261121", 1, 232.0), ("1.0.0", 2, 234.0), (1, 1, 232.0)])
def test_version_is_asked_for_by_name_or_number(table: Served, version: str | int, number: int, sum_of: float) -> None:
    answer = table.predict({"rows": ROW, "version": version}, MODEL).json()
    assert (answer["version"], answer["predictions"]) == (number, [sum_of])


def test_name_that_no_version_has_is_never_answered_by_another_one(table: Served) -> None:
    missing = table.predict({"rows": ROW, "version": "2.0.0"}, MODEL)
    assert missing.status_code == 404
    assert "no version '2.0.0'" in missing.json()["detail"]


def test_target_by_name_is_followed_without_a_restart_and_one_that_is_missing_serves_nothing(
    table: Served, url: str
) -> None:
    engine = create_engine(url)
    try:
        for target, version in (("20261121", 1), ("9.9.9", None), ("1.0.0", 2)):
            with engine.begin() as connection:
                set_target(connection, MODEL, target, "tests")
            table.wait_for_version(MODEL, version)
            answer = table.client.get("/api/info")
            assert answer.status_code == (503 if version is None else 200)
            if version is not None:
                assert answer.json()["model_version"] == target
    finally:
        engine.dispose()
