"""The OpenAPI document: valid, and complete for every route."""

from typing import Any

import pytest
from openapi_spec_validator import validate

from tests.control.running import Controlled

_ROUTES = {
    "/models/{model}/observations": {"post"},
    "/models/{model}/rejected": {"get"},
    "/models/{model}/trainings": {"post"},
    "/trainings": {"get"},
    "/trainings/{training_id}": {"get"},
    "/models/{model}/versions": {"get"},
    "/models/{model}/history": {"get"},
    "/models/{model}/verdicts": {"get"},
    "/models/{model}/promote": {"post"},
    "/models/{model}/rollback": {"post"},
    "/models/{model}/target": {"get", "put"},
    "/models/{model}/checks": {"post"},
    "/models/{model}/findings": {"get"},
    "/models/{model}/findings/{finding_id}": {"get"},
    "/models/{model}/reports": {"get"},
    "/models/{model}/reports/{finding_id}": {"get"},
    "/models/{model}/retrain": {"post"},
    "/jobs": {"get"},
    "/jobs/{job_id}": {"get"},
    "/jobs/{job_id}/events": {"get"},
    "/jobs/{job_id}/cancel": {"post"},
    "/jobs/{job_id}/retry": {"post"},
    "/models/{model}/served": {"get"},
    "/models/{model}/target/history": {"get"},
    "/approvals": {"get"},
    "/models/{model}/versions/{version}/approve": {"post"},
    "/models/{model}/versions/{version}/reject": {"post"},
    "/models/{model}/outcomes": {"post"},
    "/models/{model}/performance": {"get"},
    "/alerts": {"get"},
    "/metrics": {"get"},
    "/audit": {"get"},
    "/audit/export": {"get"},
    "/token": {"post"},
    "/sign-out": {"post"},
    "/users": {"get", "post"},
    "/users/{name}": {"patch"},
    "/tokens": {"get", "post"},
    "/tokens/{name}": {"delete"},
}


@pytest.fixture
def document(steady: Controlled) -> dict[str, Any]:
    loaded: dict[str, Any] = steady.client.get("/openapi.json").json()
    return loaded


def test_openapi_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_route_is_documented(document: dict[str, Any]) -> None:
    paths = {path: operations for path, operations in document["paths"].items() if not path.startswith("/health")}
    assert {path: set(operations) for path, operations in paths.items()} == _ROUTES


def test_every_operation_has_words_an_answer_and_problems(document: dict[str, Any]) -> None:
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    assert document["components"]["schemas"]["Problem"]["properties"]["detail"]
    for path in _ROUTES:
        for method, operation in document["paths"][path].items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert len(operation["description"]) > 20, where
            assert operation["tags"], where
            for parameter in operation.get("parameters", []):
                assert parameter["description"], where
            responses = operation["responses"]
            assert {"422", "503"} <= set(responses), where
            assert ("404" in responses) == ("{" in path), where
            assert ("403" in responses) or method == "get", where
            for status, response in responses.items():
                if status == "204":
                    assert "content" not in response, where
                elif status.startswith("2"):
                    assert all(media["schema"] for media in response["content"].values()), where
                    assert response["content"], where
                else:
                    assert response["content"] == {"application/problem+json": problem}, (where, status)


def test_problem_schema_fits_a_problem(steady: Controlled, document: dict[str, Any]) -> None:
    answered = steady.client.get("/models/nothing/versions").json()
    assert set(document["components"]["schemas"]["Problem"]["required"]) <= set(answered)
