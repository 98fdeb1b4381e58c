"""`millrace users` and `millrace tokens`, as a person gives them."""

import io
import json
import sys

import pytest

from tests.cli.running import Run

PASSWORD = "correct horse battery"


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\nnext line\n"))
    return monkeypatch


def test_users_are_managed_with_passwords_from_standard_input(run: Run, give: pytest.MonkeyPatch) -> None:
    added = run("users", "add", "anna", "--role", "administrator")
    assert added.returncode == 0, added.stderr
    (listed,) = json.loads(run("users", "list", "--json").stdout)
    assert (listed["name"], listed["role"], listed["is_disabled"]) == ("anna", "administrator", False)
    refused = run("users", "disable", "anna")
    assert (refused.returncode, "only administrator" in refused.stderr) == (4, True)
    give.setattr(sys, "stdin", io.StringIO("short\n"))
    assert run("users", "set-password", "anna").returncode == 2
    give.setattr(sys, "stdin", io.StringIO(""))
    nothing = run("users", "add", "bob")
    assert (nothing.returncode, "first line of standard input" in nothing.stderr) == (2, True)
    assert run("users", "set-role", "nobody", "viewer").returncode == 3
    assert run("users", "set-role", "anna", "cook").returncode == 2


def test_token_is_printed_once_and_alone(run: Run) -> None:
    created = run("tokens", "create", "ci", "--role", "operator", "--scope", "model:prices", "--days", "1")
    assert created.returncode == 0, created.stderr
    secret = created.stdout.strip()
    assert secret.startswith("mlr_") and "\n" not in secret
    listed = run("tokens", "list", "--json").stdout
    assert secret not in listed
    assert [(token["name"], token["scopes"]) for token in json.loads(listed)] == [("ci", ["model:prices"])]
    assert run("tokens", "create", "ci").returncode == 4
    for wrong in (("../x",), ("a'; DROP TABLE users",), ("b", "--scope", "everything"), ("b", "--days", "9999")):
        assert run("tokens", "create", *wrong).returncode == 2
    assert run("tokens", "revoke", "ci").returncode == 0
    assert run("tokens", "revoke", "ci").returncode == 3
    assert json.loads(run("tokens", "list", "--json").stdout) == []
