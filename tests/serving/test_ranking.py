"""Recommendations over HTTP: never what the user has, popular items for the unknown and without a database."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from openapi_spec_validator import validate
from sqlalchemy import Engine, create_engine, text

from core.contract import Contract, Route
from core.contracts import write_contracts
from core.embedded_database import EmbeddedDatabase
from core.model_directory import VersionFiles, write_files
from core.reference import build_reference
from ingestion.importing import import_file
from serving.documented import DocumentedRoutes
from tests.control.running import controlling
from tests.serving.folder_registry import FolderRegistry
from tests.serving.running import Served, find_free_port, serving, wait_until
from workloads.catalogue import get_workload

MOST = 6
BOOKS = tuple(str(number) for number in range(10, 30))
NAMES = ("book_id", "rating")
BEST = list(range(10, 10 + MOST))


def build_books() -> Contract:
    """The contract of a version of `books` that knows books 10 to 29 and looks at two of a reader's."""
    declared = get_workload("books").build_contract({"history": 2})
    assert declared.ranking is not None
    ranking = declared.ranking.model_copy(update={"most": MOST})
    return declared.model_copy(update={"vocabularies": {"book_id": BOOKS}, "ranking": ranking})


def write_version(folder: Path, contract: Contract) -> None:
    """A version that answers books 10 to 15 to everyone: its graph leaves nothing out."""
    answer = np.array([[*range(1, MOST + 1), *np.linspace(0.9, 0.4, MOST)]], dtype=np.float32)
    nodes = [
        helper.make_node("ReduceSum", ["inputs", "axes"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zeros"], ["nothing"]),
        helper.make_node("MatMul", ["nothing", "wide"], ["empty"]),
        helper.make_node("Add", ["empty", "answer"], ["outputs"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1], dtype=np.int64), "axes"),
        numpy_helper.from_array(np.zeros(2, dtype=np.float32), "zeros"),
        numpy_helper.from_array(np.zeros((2, 2 * MOST), dtype=np.float32), "wide"),
        numpy_helper.from_array(answer, "answer"),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", *contract.input_shape])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["batch", 2 * MOST])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    reference = build_reference(np.random.default_rng(1).random((200, 1)), ["mean_rating"], [""], window_sizes=(50,))
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        onnx_path, keras_path = Path(temporary) / "model.onnx", Path(temporary) / "model.keras"
        onnx.save_model(model, str(onnx_path))
        keras_path.write_bytes(b"not loaded by serving")
        described = contract.model_dump(mode="json")
        files = VersionFiles(keras_path, onnx_path, described, json.loads(reference.to_json()), {})
        write_files(folder, files)


def bring(engine: Engine, folder: Path, *lines: str) -> None:
    path = folder / "events.csv"
    path.write_text("user_id,book_id,rating\n" + "".join(f"{line}\n" for line in lines))
    import_file(engine, build_books(), path, name=path.name, actor="tests")


@pytest.fixture
def books(tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry) -> Iterator[Served]:
    contract = build_books()
    write_version(folder_registry.folder / "books" / "1", contract)
    folder_registry.set_production("books", 1)
    engine = create_engine(own_database_url)
    with engine.begin() as connection:
        write_contracts(connection, [get_workload("books").build_contract()])
    engine.dispose()
    with serving(tmp_path, own_database_url, folder_registry, models=()) as running:
        running.wait_for_version("books", 1)
        yield running


def recommend(books: Served, user: object, query: str = "") -> httpx.Response:
    return books.client.get(f"/api/v1/recommendations/{user}{query}")


def list_books(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [item["book_id"] for item in answer.json()["recommendations"]]


def test_what_a_user_has_is_never_answered_not_even_what_came_a_moment_ago(
    books: Served, own_engine: Engine, tmp_path: Path
) -> None:
    assert list_books(recommend(books, 7)) == BEST
    # More than the two that the version looks at, liked and not liked.
    bring(own_engine, tmp_path, "7,10,5", "7,12,1", "7,13,4", "7,15,5", "8,11,5")
    answer = recommend(books, 7)
    assert list_books(answer) == [11, 14]
    assert (answer.json()["source"], answer.json()["history"], answer.json()["user_id"]) == ("personal", "whole", 7)
    assert answer.json()["model"] == "models:/books/1"
    assert answer.json()["recommendations"][0]["score"] == pytest.approx(0.8)


def test_unknown_users_and_users_who_like_nothing_get_popular_items_marked_as_such(
    books: Served, own_engine: Engine, tmp_path: Path
) -> None:
    bring(own_engine, tmp_path, "7,10,1", "8,10,5")
    for user, wanted in ((99, BEST), (7, BEST[1:])):
        answer = recommend(books, user)
        assert (answer.json()["source"], list_books(answer)) == ("popular", wanted)
    assert recommend(books, 8).json()["source"] == "personal"


def test_k_says_how_many_and_is_bounded(books: Served) -> None:
    assert list_books(recommend(books, 1, "?k=2")) == BEST[:2]
    for query, place in (
        ("?k=0", "k"),
        (f"?k={MOST + 1}", "k"),
        ("?k=ten", "k"),
        ("?k=1&k=2", "query"),
        ("?n=3", "query"),
    ):
        refused = recommend(books, 1, query)
        assert refused.status_code == 422, query
        assert place in refused.text
    assert recommend(books, "nobody").status_code == 422
    assert recommend(books, "9" * 30).status_code == 422
    assert books.client.post("/api/v1/recommendations/1").status_code == 405


def test_answer_is_in_the_journal_with_its_monitored_feature(books: Served, own_engine: Engine, tmp_path: Path) -> None:
    bring(own_engine, tmp_path, "7,10,5", "7,12,2")
    answered = recommend(books, 7, "?k=3").json()

    def load() -> list[tuple[object, ...]]:
        with own_engine.connect() as connection:
            query = text("SELECT id::text, inputs, monitored, outputs FROM predictions")
            return [tuple(row) for row in connection.execute(query)]

    wait_until(lambda: len(load()) == 1)
    prediction_id, inputs, monitored, outputs = load()[0]
    assert prediction_id == answered["prediction_id"]
    assert sorted(zip(inputs[::2], inputs[1::2], strict=True)) == [(1.0, 5.0), (3.0, 2.0)]  # type: ignore[index]
    assert monitored == [3.5]
    assert outputs == pytest.approx([2.0, 4.0, 5.0, 0.8, 0.6, 0.5])


def test_without_a_database_popular_items_are_answered_and_the_answer_says_why(
    books: Served, database: EmbeddedDatabase, own_engine: Engine, tmp_path: Path
) -> None:
    bring(own_engine, tmp_path, "7,10,5")
    assert recommend(books, 7).json()["source"] == "personal"
    database.stop()
    try:
        answer = recommend(books, 7)
        assert (answer.json()["source"], answer.json()["history"]) == ("popular", "unavailable")
        assert list_books(answer) == BEST
    finally:
        database.ensure_running()
    wait_until(lambda: recommend(books, 7).json()["history"] == "whole", 60)


def test_own_route_takes_what_a_user_has_and_names_items(books: Served) -> None:
    answer = books.predict({"rows": [{"book_id": 10, "rating": 5}, {"book_id": 999, "rating": 1}]}, "books")
    assert answer.status_code == 200, answer.text
    assert [item["book_id"] for item in answer.json()["predictions"][0]] == BEST
    for body, place in (
        ({"rows": [{"book_id": 10}]}, "rows[0]"),
        ({"rows": [{"book_id": "10", "rating": 5}]}, "rows[0].book_id"),
        ({"rows": [{"book_id": 10, "rating": 9}]}, "rows[0].rating"),
        ({"values": [1.0, 2.0]}, "values"),
    ):
        refused = books.predict(body, "books")
        assert refused.status_code == 422
        assert place in refused.text


def test_an_interaction_is_stored_by_control_and_known_to_the_next_answer(
    tmp_path: Path, own_database_url: str, own_engine: Engine, folder_registry: FolderRegistry
) -> None:
    with own_engine.begin() as connection:
        write_contracts(connection, [get_workload("books").build_contract()])
    nowhere = f"http://127.0.0.1:{find_free_port()}"
    with (
        controlling(tmp_path / "control", own_database_url, nowhere) as control,
        serving(tmp_path, own_database_url, folder_registry, models=(), control_url=control.address) as books,
    ):
        # No version serves yet: events are taken from the first day.
        wait_until(lambda: recommend(books, 7).status_code == 503)
        taken = books.client.post("/api/v1/interactions", json={"user_id": 7, "book_id": 10, "rating": 5})
        assert (taken.status_code, taken.json()["rows_new"]) == (201, 1)
        refused = books.client.post("/api/v1/interactions", json={"user_id": 7, "book_id": 10, "rating": 6})
        assert refused.status_code == 422, refused.text
        assert "rating" in refused.text

        write_version(folder_registry.folder / "books" / "1", build_books())
        folder_registry.set_production("books", 1)
        books.wait_for_version("books", 1)
        assert list_books(recommend(books, 7)) == BEST[1:]
        books.client.post("/api/v1/interactions", json={"user_id": 7, "book_id": 12, "rating": 1})
        assert list_books(recommend(books, 7)) == [book for book in BEST if book not in (10, 12)]


def test_description_shows_what_to_ask_and_what_to_send(books: Served) -> None:
    document = books.client.get("/openapi.json").json()
    validate(document)
    asked = document["paths"]["/api/v1/recommendations/{user}"]["get"]
    user, k = asked["parameters"]
    assert (user["name"], user["in"], user["schema"]["type"]) == ("user", "path", "integer")
    assert (k["schema"]["maximum"], k["schema"]["default"]) == (MOST, MOST)
    assert "requestBody" not in asked
    answer = asked["responses"]["200"]["content"]["application/json"]["schema"]["properties"]
    assert answer["source"]["enum"] == ["personal", "popular"]
    assert set(answer["recommendations"]["items"]["properties"]) == {"book_id", "score"}
    sent = document["paths"]["/api/v1/interactions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert sent["anyOf"][0]["required"] == ["user_id", "book_id", "rating"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/models/books/infer", {"inputs": [{"name": "inputs", "shape": [1, 2, 2], "datatype": "FP32"}]}),
        ("/models/books/invocations", {"inputs": []}),
    ],
)
def test_other_protocols_take_the_tensor_of_codes_and_strengths(
    books: Served, path: str, body: dict[str, list[dict[str, object]]]
) -> None:
    history = [[1.0, 5.0], [3.0, 2.0]]
    if body["inputs"]:
        good: object = {"inputs": [{**body["inputs"][0], "data": [1.0, 5.0, 3.0, 2.0]}]}
        bad: object = {"inputs": [{"name": name, "shape": [1], "datatype": "FP32", "data": [1]} for name in NAMES]}
    else:
        good, bad = {"inputs": [history]}, {"inputs": {name: [1] for name in NAMES}}
    answer = books.client.post(path, json=good)
    assert answer.status_code == 200, answer.text
    assert "1.0,2.0,3.0" in answer.text.replace(" ", "")
    refused = books.client.post(path, json=bad)
    assert refused.status_code == 400, refused.text
    assert "shape [-1, 2, 2]" in refused.text


def test_a_path_with_a_user_matches_one_part_and_gives_way_to_exact_ones() -> None:
    contract = build_books()
    exact = Route(path="/api/v1/recommendations/every", codec="observations")
    routes = DocumentedRoutes({"books": contract, "other": contract.model_copy(update={"routes": (exact,)})})
    found = routes.find("/api/v1/recommendations/u 1")
    assert found is not None
    assert (found[0], found[2]) == ("books", "u 1")
    for path in ("/api/v1/recommendations/", "/api/v1/recommendations/1/2", "/x/api/v1/recommendations/1"):
        assert routes.find(path) is None
    every = routes.find("/api/v1/recommendations/every")
    assert every is not None
    assert every[1] == exact
