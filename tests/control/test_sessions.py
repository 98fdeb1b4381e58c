"""Signing in over HTTP: tokens, sessions of a browser, the first administrator, users and tokens, on a real port."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from core.one_time_links import create_link
from core.principals import Role
from core.users import add_user
from tests.accounts import TOKEN, build_headers
from tests.control.running import TIMEOUT_S, Controlled

PASSWORD = "correct horse battery"


@pytest.fixture
def nobody(controlled: Controlled) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=controlled.address, timeout=TIMEOUT_S) as client:
        yield client


def add(controlled: Controlled, name: str, role: Role = Role.OPERATOR) -> None:
    with controlled.connections.engine.begin() as connection:
        add_user(connection, name, PASSWORD, role, created_by="test")


def ask_token(client: httpx.Client, **form: str) -> httpx.Response:
    return client.post("/token", data=form)


# --- tokens ------------------------------------------------------------------------------------------------------


def test_password_flow_gives_tokens_that_refresh_and_end(controlled: Controlled, nobody: httpx.Client) -> None:
    add(controlled, "anna")
    first = ask_token(nobody, grant_type="password", username="anna", password=PASSWORD)
    assert (first.status_code, first.headers["Cache-Control"]) == (200, "no-store")
    issued = first.json()
    assert (issued["token_type"], issued["expires_in"]) == ("bearer", 900)
    headers = build_headers(issued["access_token"])
    queued = nobody.post("/models/prices/trainings", headers=headers)
    assert (queued.status_code, queued.json()["actor"]) == (202, "anna")
    forbidden = nobody.post("/models/prices/rollback", headers=headers)
    assert (forbidden.status_code, forbidden.json()["type"]) == (403, "/problems/role-too-small")
    assert "anna has the role operator" in forbidden.json()["detail"]

    again = ask_token(nobody, grant_type="refresh_token", refresh_token=issued["refresh_token"]).json()
    assert nobody.get("/trainings", headers=build_headers(again["access_token"])).status_code == 200
    assert nobody.post("/sign-out", headers=build_headers(again["access_token"])).status_code == 204
    # Both are of the session that has ended.
    for token in (issued["access_token"], again["access_token"]):
        assert nobody.get("/trainings", headers=build_headers(token)).status_code == 401
    refused = ask_token(nobody, grant_type="refresh_token", refresh_token=again["refresh_token"])
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


def test_wrong_sign_ins_are_told_apart_by_nobody_and_throttled(controlled: Controlled, nobody: httpx.Client) -> None:
    add(controlled, "anna")
    wrong = [
        ask_token(nobody, grant_type="password", username=name, password=password)
        for name, password in (("anna", "wrong password"), ("nobody", PASSWORD), ("a' OR '1'='1", PASSWORD), ("", ""))
    ]
    assert {answer.status_code for answer in wrong} == {400}
    assert len({answer.json()["detail"] for answer in wrong}) == 1
    unsupported = ask_token(nobody, grant_type="client_credentials")
    assert (unsupported.status_code, unsupported.json()["error"]) == (400, "unsupported_grant_type")
    for _ in range(9):
        ask_token(nobody, grant_type="password", username="anna", password="wrong password")
    throttled = ask_token(nobody, grant_type="password", username="anna", password=PASSWORD)
    assert (throttled.status_code, throttled.json()["type"]) == (429, "/problems/sign-in-throttled")
    assert 0 < int(throttled.headers["Retry-After"]) <= 900


@pytest.mark.parametrize(
    "header",
    [
        "Bearer mlr_unknown",
        "Bearer x.y.z",
        "Bearer",
        "Basic YTpi",
        "Basic YTo=",
        "Basic %",
        "Bearer é",
        "Bearer " + "x" * 20_000,
    ],
)
def test_header_that_holds_no_valid_token_is_refused(steady: Controlled, header: str) -> None:
    answer = httpx.get(f"{steady.address}/trainings", headers={b"Authorization": header.encode("latin-1")})
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_token_may_be_the_password_of_a_client_that_knows_no_other_way(controlled: Controlled) -> None:
    def ask(password: str) -> httpx.Response:
        return httpx.get(f"{controlled.address}/trainings", auth=("anybody", password), timeout=TIMEOUT_S)

    assert ask(TOKEN).status_code == 200
    assert (ask(TOKEN[:-1]).status_code, ask("").status_code) == (401, 401)


def test_secrets_are_in_no_log(controlled: Controlled, nobody: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    # The client's lines show that the test sees what is logged.
    caplog.set_level(logging.DEBUG, logger="httpx")
    add(controlled, "anna")
    issued = ask_token(nobody, grant_type="password", username="anna", password=PASSWORD).json()
    ask_token(nobody, grant_type="password", username="anna", password="a wrong password")
    nobody.get("/trainings", headers=build_headers(issued["access_token"]))
    nobody.get("/trainings", headers=build_headers("mlr_a-wrong-token"))
    nobody.post("/sign-in", data={"name": "anna", "password": PASSWORD})
    assert caplog.records
    for secret in (PASSWORD, "a wrong password", issued["access_token"], issued["refresh_token"], "mlr_a-wrong-token"):
        assert secret not in caplog.text


# --- users and tokens over HTTP ----------------------------------------------------------------------------------


def test_administrator_manages_users_and_they_cannot_help_themselves(
    controlled: Controlled, nobody: httpx.Client
) -> None:
    made = controlled.client.post("/users", json={"name": "bob", "password": PASSWORD, "role": "viewer"})
    assert made.status_code == 201 and PASSWORD not in made.text
    headers = build_headers(ask_token(nobody, username="bob", password=PASSWORD).json()["access_token"])
    assert nobody.patch("/users/bob", json={"role": "administrator"}, headers=headers).status_code == 403
    assert nobody.get("/tokens", headers=headers).status_code == 403
    assert controlled.client.patch("/users/bob", json={"role": "operator"}).json()["role"] == "operator"
    # The role is that of now, not that of the sign-in.
    assert nobody.post("/models/prices/trainings", headers=headers).status_code == 202
    assert controlled.client.patch("/users/bob", json={"is_disabled": True}).json()["is_disabled"]
    assert nobody.get("/trainings", headers=headers).status_code == 401
    assert ask_token(nobody, username="bob", password=PASSWORD).status_code == 400
    for order in (
        {"name": "../x", "password": PASSWORD, "role": "viewer"},
        {"name": "c", "password": "x", "role": "viewer"},
    ):
        assert controlled.client.post("/users", json=order).status_code == 422


@pytest.mark.parametrize(("method", "path"), [("PATCH", "/users/%00"), ("DELETE", "/tokens/a%00")])
def test_name_that_no_account_can_have_is_refused(steady: Controlled, method: str, path: str) -> None:
    answer = steady.client.request(method, path, json={"role": "viewer"})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_token_is_shown_once_restricted_and_revoked(controlled: Controlled, nobody: httpx.Client) -> None:
    order = {"name": "ci", "role": "operator", "scopes": ["operate", "model:prices"]}
    headers = build_headers(controlled.client.post("/tokens", json=order).json()["token"])
    listed = controlled.client.get("/tokens")
    assert "ci" in [token["name"] for token in listed.json()] and headers["Authorization"].split()[1] not in listed.text
    assert nobody.post("/models/prices/trainings", headers=headers).json()["actor"] == "token:ci"
    for method, path in (("POST", "/models/books/trainings"), ("GET", "/models/prices/history")):
        refused = nobody.request(method, path, headers=headers)
        assert (refused.status_code, refused.json()["type"]) == (403, "/problems/token-restricted"), path
    refused = nobody.get("/mlflow/", headers=headers)
    assert (refused.status_code, refused.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert controlled.client.delete("/tokens/ci").status_code == 204
    assert nobody.post("/models/prices/trainings", headers=headers).status_code == 401
    assert controlled.client.delete("/tokens/ci").status_code == 404


# --- pages -------------------------------------------------------------------------------------------------------


def test_link_makes_the_first_administrator_who_is_signed_in(controlled: Controlled, nobody: httpx.Client) -> None:
    with controlled.connections.engine.begin() as connection:
        link = create_link(connection, controlled.address)
    page = nobody.get(str(link))
    assert page.status_code == 200 and "Become administrator" in page.text
    assert nobody.get(str(link)).status_code == 200
    code = str(link).partition("?code=")[2]
    weak = nobody.post("/first-administrator", data={"code": code, "name": "anna", "password": "short"})
    assert weak.status_code == 400 and "fewer than 12" in weak.text and "short" not in weak.text
    entered = nobody.post("/first-administrator", data={"code": code, "name": "anna", "password": PASSWORD})
    assert (entered.status_code, entered.headers["Location"]) == (303, "/docs")
    assert nobody.get("/users").json()[0]["role"] == "administrator"
    for asked in (nobody.get(str(link)), nobody.post("/first-administrator", data={"code": code, "name": "m"})):
        assert asked.status_code == 410 and "works once" in asked.text


def test_cookie_is_the_pages_alone_and_only_for_pages_of_ours(controlled: Controlled, nobody: httpx.Client) -> None:
    add(controlled, "anna", Role.ADMINISTRATOR)
    opened = nobody.get("/models/prices/reports", headers={"Accept": "text/html,application/xhtml+xml"})
    assert (opened.status_code, opened.headers["Location"]) == (303, "/sign-in?next=/models/prices/reports")
    form = {"name": "anna", "password": PASSWORD, "next": "/models/prices/reports"}
    foreign = nobody.post("/sign-in", data=form, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    wrong = nobody.post("/sign-in", data=form | {"password": "<script>"})
    assert wrong.status_code == 400 and "<script>" not in wrong.text
    entered = nobody.post("/sign-in", data=form)
    assert (entered.status_code, entered.headers["Location"]) == (303, "/models/prices/reports")
    cookie = entered.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Secure" not in cookie
    assert nobody.get("/models/prices/reports").status_code == 200

    for origin in ({}, {"Origin": "http://127.0.0.1:1"}, {"Origin": "null"}):
        assert nobody.post("/models/prices/trainings", headers=origin).status_code == 403
    assert nobody.post("/models/prices/trainings", headers={"Origin": controlled.address}).status_code == 202
    stolen = re.search(r"millrace_session=([^;]+)", cookie)
    assert stolen is not None
    for token in (stolen[1], f"cookie:{stolen[1]}", f"{stolen[1]}cookie"):
        assert httpx.get(f"{controlled.address}/users", headers=build_headers(token)).status_code == 401

    out = nobody.post("/sign-out", headers={"Origin": controlled.address, "Accept": "text/html"})
    assert (out.status_code, out.headers["Location"]) == (303, "/sign-in")
    assert httpx.get(f"{controlled.address}/users", cookies={"millrace_session": stolen[1]}).status_code == 401


def test_cookie_behind_tls_is_secure(controlled: Controlled, nobody: httpx.Client) -> None:
    add(controlled, "anna")
    form = {"name": "anna", "password": PASSWORD}
    entered = nobody.post("/sign-in", data=form, headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in entered.headers["Set-Cookie"]


@pytest.mark.parametrize(
    "place",
    ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:x", "\t//x", "//[", "/\\[", "http://[x"],
)
def test_sign_in_leads_to_no_other_site(steady: Controlled, place: str) -> None:
    page = httpx.get(f"{steady.address}/sign-in", params={"next": place})
    assert page.status_code == 200 and 'value="/docs"' in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_pages_look_right_in_a_browser(controlled: Controlled, tmp_path: Path) -> None:
    if not Path("/usr/bin/chromium").exists():
        pytest.skip("no chromium")
    from playwright.sync_api import sync_playwright

    with controlled.connections.engine.begin() as connection:
        link = create_link(connection, controlled.address)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 700})
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(str(link))
        page.screenshot(path=str(tmp_path / "first.png"))
        page.get_by_label("Name").fill("anna")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button").click()
        page.wait_for_url("**/docs")
        page.get_by_text("Millrace control plane").first.wait_for()
        page.goto(f"{controlled.address}/sign-in")
        assert page.get_by_text("You are signed in as anna").is_visible()
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/sign-in")
        page.screenshot(path=str(tmp_path / "sign-in.png"))
        # The style is the page's own, let in by its hash.
        assert page.get_by_role("button").evaluate("one => getComputedStyle(one).backgroundColor") == "rgb(31, 95, 139)"
        browser.close()
    assert faults == []
