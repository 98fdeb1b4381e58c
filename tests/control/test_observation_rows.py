"""Rows over HTTP: what is stored, what is rejected, and what the answer says of each."""

from collections.abc import Iterator

import orjson
import pytest
from sqlalchemy import text

from control import row_bodies
from core.tables.data import sources
from tests.control.running import Controlled

PATH = "/models/prices/observations"
NDJSON = {"Content-Type": "application/x-ndjson"}


def day(number: int, close: object = 100.0) -> dict[str, object]:
    return {"Date": f"{2000 + number // 336}-{number % 336 // 28 + 1:02d}-{number % 28 + 1:02d}", "Close": close}


def load_closes(controlled: Controlled) -> list[float]:
    with controlled.connections.engine.connect() as connection:
        return list(connection.scalars(text('SELECT "Close" FROM observations_prices ORDER BY "Date"')))


def test_one_object_and_a_list_are_stored(controlled: Controlled) -> None:
    one = controlled.client.post(PATH, json=day(0, 1.0))
    many = controlled.client.post(PATH, json=[day(0, 1.0), day(1, 2.0), {**day(2, 3.0), "colour": "red"}])

    assert (one.status_code, many.status_code) == (201, 201)
    assert one.json()["rows_new"] == 1
    document = many.json()
    assert (document["rows_new"], document["rows_unchanged"], document["rows_rejected"]) == (2, 1, 0)
    assert (document["ignored_columns"], document["rejected"]) == (["colour"], [])
    assert load_closes(controlled) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("form", ["json", "ndjson"])
def test_partial_success_names_every_rejected_row(controlled: Controlled, form: str) -> None:
    rows = [day(0, 1.0), day(1, "abc"), {"Date": "2000-01-03"}, day(3, 4.0)]
    if form == "json":
        response = controlled.client.post(PATH, json=rows)
    else:
        response = controlled.client.post(PATH, content=b"\n".join(map(orjson.dumps, rows)), headers=NDJSON)

    assert response.status_code == 200
    document = response.json()
    assert (document["rows_new"], document["rows_rejected"]) == (2, 2)
    assert [(row["line"], row["column"], row["value"]) for row in document["rejected"]] == [
        (2, "Close", "abc"),
        (3, "Close", ""),
    ]
    assert document["rejected"][0]["rule"].startswith("a finite number")
    assert load_closes(controlled) == [1.0, 4.0]


def test_rows_none_of_which_is_accepted_are_a_problem_and_are_kept(controlled: Controlled) -> None:
    response = controlled.client.post(PATH, json=[day(0, -1), 17])

    assert response.status_code == 422
    document = response.json()
    assert document["type"] == "/problems/rows-rejected"
    assert [fault["where"] for fault in document["errors"]] == ["line 1, column Close", "line 2"]
    with controlled.connections.engine.connect() as connection:
        assert connection.execute(sources.select()).one().state == "rejected"


def test_ndjson_longer_than_a_batch_is_stored_in_several_and_counts_lines_through(
    controlled: Controlled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_bodies, "MAX_ROWS", 100)
    rows = [orjson.dumps(day(number, 1.0 + number)) for number in range(250)]
    rows[203] = b"{broken"

    def send() -> Iterator[bytes]:
        body = b"\n".join(rows) + b"\n"
        for at in range(0, len(body), 1_000):
            yield body[at : at + 1_000]

    response = controlled.client.post(PATH, content=send(), headers=NDJSON)

    assert response.status_code == 200
    document = response.json()
    assert (document["rows_new"], [row["line"] for row in document["rejected"]]) == (249, [204])
    assert len(document["source_ids"]) == 3


def test_long_lines_are_stored_before_they_fill_the_memory(
    controlled: Controlled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_bodies, "_BATCH_BYTES", 20_000)
    body = b"\n".join(orjson.dumps({**day(number), "note": "x" * 4_000}) for number in range(20))
    response = controlled.client.post(PATH, content=body, headers=NDJSON)
    assert response.status_code == 201, response.text
    document = response.json()
    assert document["rows_new"] == 20
    assert len(document["source_ids"]) > 1


@pytest.mark.parametrize("body", [b"", b"{", b"[{]", b"\xff", b"{" * 100_000])
def test_body_that_is_no_json_is_a_problem(steady: Controlled, body: bytes) -> None:
    response = steady.client.post(PATH, content=body, headers={"Content-Type": "application/json; charset=utf-8"})
    assert response.status_code == 400
    assert response.json()["type"] == "/problems/malformed-body"


@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b'"text"', b"[[]]"])
def test_json_without_rows_is_a_problem(steady: Controlled, body: bytes) -> None:
    response = steady.client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["type"] == "/problems/rows-rejected"


def test_blank_ndjson_is_a_problem(steady: Controlled) -> None:
    assert steady.client.post(PATH, content=b"\n \n", headers=NDJSON).status_code == 422


def test_body_over_the_limit_is_refused(steady: Controlled) -> None:
    for headers in (NDJSON, {"Content-Type": "application/json"}):
        response = steady.client.post(PATH, content=b" " * 200_000, headers=headers)
        assert response.status_code == 413
        assert response.json()["type"] == "/problems/body-too-large"


def test_unknown_model_is_not_found(steady: Controlled) -> None:
    assert steady.client.post("/models/nobody/observations", json=day(0)).status_code == 404


def test_all_three_forms_are_documented(steady: Controlled) -> None:
    operation = steady.client.get("/openapi.json").json()["paths"]["/models/{model}/observations"]["post"]
    assert set(operation["requestBody"]["content"]) == {
        "multipart/form-data", "application/json", "application/x-ndjson"
    }  # fmt: skip
    assert {"200", "201", "422"} <= set(operation["responses"])
