"""Dockerfile, compose file and .env.example: what they promise can be read off them."""

import re

import pytest

from cli.main import build_app
from core.settings import Settings
from deploy import health
from tests.packaging.compose import VARIABLE, load_services, read_compose
from tests.packaging.images import read_stages
from tests.packaging.locks import IMAGES, ROOT

SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY")
VALUES = {
    "POSTGRES_PASSWORD": "a-long-password",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "MQTT_PASSWORD": "another-long-password",
}

# Needed by services that are not ours.
OF_OTHERS = ("GRAFANA_PASSWORD",)

COMPOSE = read_compose()
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
STAGES = read_stages()
SERVICES = {name: entry for name, entry in COMPOSE["services"].items() if isinstance(entry, dict)}
OWN = load_services(VALUES)

every_service = pytest.mark.parametrize("name", SERVICES)
every_own_service = pytest.mark.parametrize("name", OWN)
every_image = pytest.mark.parametrize("image", IMAGES)


def test_secrets_have_no_default() -> None:
    secrets = [match for match in VARIABLE.finditer(COMPOSE_TEXT) if SECRET.search(match["name"])]

    # One that may be left out has nothing in its place.
    assert [match["name"] for match in secrets if match["kind"] != ":?" and match["rest"]] == []
    assert {*VALUES, *OF_OTHERS} == {match["name"] for match in secrets if match["kind"] == ":?"}


@pytest.mark.parametrize("missing", VALUES)
def test_compose_refuses_to_start_without_a_secret(missing: str) -> None:
    with pytest.raises(KeyError, match=rf"{missing}: set {missing} in \.env"):
        load_services({**VALUES, missing: ""})


@every_service
def test_secret_values_are_not_written_down(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    assert isinstance(environment, dict)

    assert [
        key for key, value in environment.items() if SECRET.search(key) and not VARIABLE.fullmatch(str(value))
    ] == []
    for value in environment.values():
        assert not re.search(r"://\w+:(?!\$\{)[^/@]+@", str(value))


def test_env_example_names_every_variable_and_gives_no_secret() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    given = dict(re.findall(r"(?m)^#? ?([A-Z][A-Z0-9_]+)=(.*)$", text))

    assert {match["name"] for match in VARIABLE.finditer(COMPOSE_TEXT)} <= set(given)
    assert {name: value for name, value in given.items() if SECRET.search(name) and value} == {}
    assert {name for name in given if name.startswith("MILLRACE_")} <= _known_variables()


@every_service
def test_ports_are_published_on_this_machine_only(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert isinstance(ports, list)

    assert all(str(port).startswith("127.0.0.1:") for port in ports)
    assert bool(ports) == (name in ("serving", "mosquitto", "grafana"))


@every_service
def test_container_has_no_privileges_and_a_read_only_file_system(name: str) -> None:
    service = SERVICES[name]

    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]


@every_service
def test_service_is_well_or_ends(name: str) -> None:
    service = SERVICES[name]
    conditions = {
        wait["condition"]
        for other in SERVICES.values()
        if isinstance(waits := other.get("depends_on", {}), dict) and isinstance(wait := waits.get(name), dict)
    }
    is_one_shot = service.get("restart") == "no"

    assert conditions <= {"service_completed_successfully" if is_one_shot else "service_healthy"}
    if name in OWN:
        assert (OWN[name].health is None) == is_one_shot
    else:
        assert isinstance(checked := service["healthcheck"], dict)
        assert checked["test"]


@every_service
def test_images_of_others_are_pinned(name: str) -> None:
    image = str(SERVICES[name].get("image", ""))

    assert name in OWN or re.fullmatch(r"[\w./-]+:v?\d[\w.]*", image)


@every_own_service
def test_command_exists(name: str) -> None:
    program, command, *_ = OWN[name].command
    commands = [found.callback.__name__ for found in build_app(command).registered_commands if found.callback]

    assert program == "millrace"
    assert command in commands


@every_own_service
def test_variables_are_settings(name: str) -> None:
    # A misspelt variable would be ignored without a word.
    assert {key for key in OWN[name].environment if key.startswith("MILLRACE_")} <= _known_variables()


@every_image
def test_image_is_built_from_its_own_lock_and_runs_as_an_ordinary_user(image: str) -> None:
    packages = STAGES[f"{image}-packages"].instructions

    assert STAGES[image].user == "millrace"
    assert STAGES[image].command
    assert STAGES[image].health == ["python", "deploy/health.py", image]
    assert [rest for keyword, rest in packages if keyword == "COPY"] == [
        f"deploy/requirements-{image}.lock requirements.lock",
        ". .",
    ]
    assert "--require-hashes" in dict(packages[1:2])["RUN"]
    assert {stage.image for stage in STAGES.values()} == {"python:3.11-slim"}


def test_images_hold_the_code_and_nothing_else() -> None:
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}

    assert "*" in allowed
    assert packages <= {entry.removeprefix("!") for entry in allowed if entry.startswith("!")}
    assert not {"!.env", "!.git", "!.millrace", "!mlruns", "!tests"} & set(allowed)


def test_health_checks_ask_where_the_processes_listen() -> None:
    for variable, port, _ in health.DOORS.values():
        assert _defaults()[variable] == port
    assert _defaults()[health.WORKER_TIMEOUT[0]] == health.WORKER_TIMEOUT[1]


def _known_variables() -> set[str]:
    return {str(field.alias) for field in Settings.model_fields.values()}


def _defaults() -> dict[str, object]:
    return {str(field.alias): field.default for field in Settings.model_fields.values()}
