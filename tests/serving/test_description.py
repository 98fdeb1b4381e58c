"""The OpenAPI description and its page."""

import json
import re

import httpx
from openapi_spec_validator import validate

from tests.accounts import HEADERS
from tests.browser import opened_browser
from tests.serving.running import Served


def test_description_is_valid_and_shows_every_protocol(two_models: Served) -> None:
    document = two_models.client.get("/openapi.json").json()
    validate(document)
    for path in (
        "/models/{model}/predict",
        "/invocations",
        "/ping",
        "/models/{model}/invocations",
        "/v2/health/ready",
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}/infer",
        "/v2/repository/index",
    ):
        assert path in document["paths"], path
    assert "model" not in json.dumps(document["paths"]["/ping"]["get"].get("parameters", []))


def test_description_shows_documented_routes_with_the_contracts_bounds(two_models: Served) -> None:
    paths = two_models.client.get("/openapi.json").json()["paths"]
    values = paths["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]["values"]
    assert (values["minItems"], values["maxItems"]) == (4, 4)
    assert (values["items"]["minimum"], values["items"]["maximum"]) == (1e-6, 1e9)
    answer = paths["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]["properties"]
    assert answer["ok"] == {"type": "boolean", "const": True}
    assert answer["sequence_length"] == {"type": "integer"}
    rows = paths["/areas/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]["rows"]
    assert rows["required"] == ["width", "height"]


def test_page_takes_everything_from_this_process(two_models: Served) -> None:
    page = two_models.client.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "https://" not in page.text and "http://" not in page.text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) == 3
    for asset in assets:
        answer: httpx.Response = two_models.client.get(asset)
        assert answer.status_code == 200, asset
    assert "url: '/openapi.json'" in page.text
    assert "SwaggerUIBundle" in two_models.client.get("/docs/assets/swagger-ui-bundle.js").text


def test_page_shows_every_route_and_asks_no_other_site(two_models: Served) -> None:
    shown = two_models.client.get("/openapi.json").json()["paths"]
    with opened_browser() as seen:
        seen.page.set_extra_http_headers(HEADERS)
        seen.page.goto(f"{two_models.address}/docs")
        seen.page.wait_for_selector(".opblock")
        assert seen.page.locator(".opblock").count() == sum(len(methods) for methods in shown.values())
        assert [address for address in seen.requested if not address.startswith(two_models.address)] == []
        assert seen.complaints == []
