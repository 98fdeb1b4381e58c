"""Settings from real environments and `.env` files."""

import logging
import traceback
from pathlib import Path

import pytest

from core.errors import SettingsRejected
from core.settings import Settings, load_settings
from core.tracking_server import build_server_command

EVERYWHERE = "0.0.0.0"  # noqa: S104  # refused
PASSWORD = "correct-horse-battery"
REMOTE = f"postgresql://millrace:{PASSWORD}@db.example.com:5432/millrace"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder without `.env`."""
    monkeypatch.chdir(tmp_path)


def load_with(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def refusal_of(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    with pytest.raises(SettingsRejected) as refused:
        load_with(monkeypatch, **environment)
    return refused.value.sentence


def test_defaults_are_one_machine_without_a_network(tmp_path: Path) -> None:
    settings = load_settings()

    assert settings.home == tmp_path / ".millrace"
    assert settings.artifacts == str(tmp_path / "mlruns")
    assert settings.database_url is None
    assert settings.serving_address == "http://127.0.0.1:8000"
    assert settings.control_address == "http://127.0.0.1:8001"
    assert settings.tracking_address == "http://127.0.0.1:5000"
    assert (settings.private_network, settings.auto_train_on_startup, settings.sample_data) == (False, False, True)
    assert settings.logs_folder == tmp_path / ".millrace" / "logs"


def test_variables_that_only_resemble_ours_are_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HOME is set for everybody; others are set by other programs."""
    for name, field in Settings.model_fields.items():
        if name.upper() != field.alias:
            monkeypatch.setenv(name.upper(), "/elsewhere")

    assert load_settings().home == tmp_path / ".millrace"


def test_environment_is_read_and_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MILLRACE_SERVING_PORT=9000\nMILLRACE_CONTROL_PORT=9001\nOTHER=1\n")

    settings = load_with(monkeypatch, MILLRACE_SERVING_PORT="9100")

    assert (settings.serving_port, settings.control_port, settings.tracking_port) == (9100, 9001, 5000)


def test_overrides_name_fields_and_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILLRACE_HOME", "/elsewhere")

    settings = load_settings(home=tmp_path / "here", auto_train_on_startup=True)

    assert settings.home == tmp_path / "here"
    assert "auto_train_on_startup" in settings.model_fields_set
    assert "host" not in settings.model_fields_set


def test_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_with(monkeypatch, DATABASE_URL="", MILLRACE_SERVING_PORT="", MLFLOW_TRACKING_URI="")

    assert settings.database_url is None
    assert settings.serving_port == 8000
    assert settings.tracking_uri is None


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().home = Path("/elsewhere")


def test_folders_are_absolute_and_know_the_user_s_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")

    settings = load_with(monkeypatch, MILLRACE_HOME="~/race", MILLRACE_ARTIFACTS="kept")

    assert settings.home == Path("/home/somebody/race")
    assert settings.artifacts == str(tmp_path / "kept")


@pytest.mark.parametrize(
    ("variable", "value", "rule"),
    [
        ("MILLRACE_SERVING_PORT", "0", "greater than or equal to 1"),
        ("MILLRACE_CONTROL_PORT", "65536", "less than or equal to 65535"),
        ("MILLRACE_TRACKING_PORT", "http", "valid integer"),
        ("MILLRACE_PRIVATE_NETWORK", "perhaps", "valid boolean"),
        ("AUTO_TRAIN_ON_STARTUP", "2", "valid boolean"),
        ("MILLRACE_SAMPLE_DATA", "maybe", "valid boolean"),
        ("MILLRACE_TRAINING_ATTEMPTS", "0", "greater than or equal to 1"),
        ("MILLRACE_TRAINING_ATTEMPTS", "11", "less than or equal to 10"),
        ("MILLRACE_TRAINING_TIMEOUT_S", "0", "greater than 0"),
        ("MILLRACE_TRAINING_TIMEOUT_S", "inf", "finite"),
        ("MILLRACE_TRAINING_TIMEOUT_S", "nan", "finite"),
        ("MILLRACE_WORKER_TIMEOUT_S", "0.5", "greater than or equal to 1"),
        ("MILLRACE_MAX_BODY_BYTES", "0", "greater than 0"),
        ("MILLRACE_MAX_UPLOAD_BYTES", "-1", "greater than 0"),
        ("MILLRACE_JOURNAL_MAX_BYTES", "1.5", "valid integer"),
        ("MILLRACE_JOURNAL_FSYNC", "x", "valid boolean"),
        ("MILLRACE_FOLLOW_INTERVAL_S", "2.1", "less than or equal to 2"),
        ("MILLRACE_FOLLOW_INTERVAL_S", "0", "greater than 0"),
        ("MILLRACE_LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("MILLRACE_LOG_FORMAT", "xml", "'json' or 'text'"),
        ("MILLRACE_ARTIFACTS", "s3://", "a bucket"),
        ("MILLRACE_ARTIFACTS", "s3:///prefix", "a bucket"),
        ("MILLRACE_ARTIFACTS", "gs://bucket", "a local folder or s3://bucket/prefix"),
        ("MLFLOW_TRACKING_URI", "mlruns", "http:// or https://"),
        ("MILLRACE_CONTROL_URL", "ftp://control", "http:// or https://"),
    ],
)
def test_refusal_names_variable_value_and_rule(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, rule: str
) -> None:
    sentence = refusal_of(monkeypatch, **{variable: value})

    assert sentence.startswith(f"Setting {variable}={value!r} is refused: ")
    assert rule in sentence
    assert sentence.endswith(".")


def test_every_refused_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = refusal_of(monkeypatch, MILLRACE_SERVING_PORT="a", MILLRACE_LOG_LEVEL="b")

    assert "MILLRACE_SERVING_PORT='a'" in sentence
    assert "MILLRACE_LOG_LEVEL='b'" in sentence


def test_refused_override_is_named_by_its_variable() -> None:
    with pytest.raises(SettingsRejected, match=r"^Setting MILLRACE_SERVING_PORT=70000 is refused"):
        load_settings(serving_port=70000)


def test_refusal_of_a_value_in_the_file_names_it_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MILLRACE_SERVING_PORT=many\n")

    with pytest.raises(SettingsRejected, match=r"^Setting MILLRACE_SERVING_PORT='many' is refused"):
        load_settings()


def test_two_parts_on_one_port_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = refusal_of(monkeypatch, MILLRACE_SERVING_PORT="5000")

    assert "MILLRACE_SERVING_PORT=5000" in sentence
    assert "MILLRACE_TRACKING_PORT=5000" in sentence


# --- hosts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.168.1.5", "example.com", "127.0.0.1.example.com"])
def test_host_that_others_reach_is_refused_unless_the_network_is_private(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    sentence = refusal_of(monkeypatch, MILLRACE_HOST=host)
    assert f"MILLRACE_HOST={host!r}" in sentence
    assert "MILLRACE_PRIVATE_NETWORK=true" in sentence

    private = load_with(monkeypatch, MILLRACE_HOST=host, MILLRACE_PRIVATE_NETWORK="true")
    assert (private.host, private.private_host) == (host, host)


def test_plain_http_opens_serving_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "passwords and tokens over plain HTTP" in refusal_of(monkeypatch, MILLRACE_HOST=EVERYWHERE)
    opened = load_with(monkeypatch, MILLRACE_HOST=EVERYWHERE, MILLRACE_PLAIN_HTTP="true")
    assert (opened.host, opened.private_host) == (EVERYWHERE, "127.0.0.1")
    opened = load_with(monkeypatch, MILLRACE_HOST="192.168.1.5", MILLRACE_PLAIN_HTTP="true")
    assert opened.serving_address == "http://192.168.1.5:8000"
    assert opened.control_address == "http://127.0.0.1:8001"
    assert opened.tracking_address == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("127.0.0.9", "http://127.0.0.9:8000"),
        ("localhost", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
    ],
)
def test_loopback_host_is_allowed_and_reached_where_it_listens(
    monkeypatch: pytest.MonkeyPatch, host: str, address: str
) -> None:
    assert load_with(monkeypatch, MILLRACE_HOST=host).serving_address == address


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.168.1.5"])
def test_tracking_listens_on_loopback_where_serving_is_public(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    settings = load_with(monkeypatch, MILLRACE_HOST=host, MILLRACE_PLAIN_HTTP="true")
    assert settings.tracking_address == "http://127.0.0.1:5000"
    command, _ = build_server_command(settings, "postgresql://millrace@/millrace")
    assert command[command.index("--host") + 1] == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (EVERYWHERE, "http://127.0.0.1:5000"),
        ("::", "http://[::1]:5000"),
        ("10.1.2.3", "http://10.1.2.3:5000"),
    ],
)
def test_private_host_is_reached_where_it_listens(monkeypatch: pytest.MonkeyPatch, host: str, address: str) -> None:
    settings = load_with(monkeypatch, MILLRACE_HOST=host, MILLRACE_PRIVATE_NETWORK="true")

    assert settings.tracking_address == address


def test_named_servers_are_used_instead_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_with(monkeypatch, MLFLOW_TRACKING_URI="https://mlflow/", MILLRACE_CONTROL_URL="http://control:1/")

    assert settings.tracking_address == "https://mlflow"
    assert settings.control_address == "http://control:1"


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["DATABASE_URL", "MLFLOW_DATABASE_URL"])
@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("mysql://u:{}@h/d", "postgresql://"),
        ("postgres://u:{}@h/d", "postgresql://"),
        ("postgresql+psycopg2://u:{}@h/d", "postgresql://"),
        ("{}", "postgresql://"),
        ("postgresql://u:{}[@h/d", "percent-encoded"),
        ("postgresql://u:{}＃@h/d", "percent-encoded"),
        ("postgresql://u:/{}@h/d", "at least 12"),
        ("postgresql://u@h/d", "at least 12"),
        ("postgresql://u:eleven.char@h/d", "at least 12"),
        ("postgresql://u:%41%41%41%41@h/d", "at least 12"),
        ("postgresql:///d?host=db.example.com", "at least 12"),
        ("postgresql://u:eleven.char@/d?host=db.example.com", "at least 12"),
        ("postgresql://h/d?user=u&password={}", "before the host"),
    ],
)
def test_unusable_or_unsafe_database_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str, rule: str
) -> None:
    monkeypatch.setenv(variable, url.format(PASSWORD))

    with pytest.raises(SettingsRejected) as refused:
        load_settings()

    sentence = refused.value.sentence
    assert sentence.startswith(f"Setting {variable}=(hidden) is refused: ")
    assert rule in sentence
    assert refused.value.__suppress_context__
    shown = "".join(traceback.format_exception(refused.value))
    assert not any(secret in shown for secret in (PASSWORD, "eleven.char", "%41"))


@pytest.mark.parametrize(
    "url",
    [
        REMOTE,
        f"postgresql+psycopg://u:{PASSWORD}@h/d",
        "postgresql://u:%C3%A4bcdefghijk%23@h/d",
        "postgresql:///d",
        "postgresql://u@/d?host=/run/postgresql",
        "postgresql://u:short@/d?host=/run/postgresql&port=5432",
    ],
)
def test_database_with_a_long_password_or_on_a_local_socket_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    database_url = load_with(monkeypatch, DATABASE_URL=url).database_url

    assert database_url is not None
    assert database_url.get_secret_value() == url


def test_password_is_in_no_text_form_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load_with(monkeypatch, DATABASE_URL=REMOTE, MLFLOW_DATABASE_URL=REMOTE)

    logging.getLogger("test").warning("%s %r", settings, settings, extra={"settings": settings})

    forms = [repr(settings), str(settings), f"{settings}", str(settings.model_dump()), settings.model_dump_json()]
    assert not any(PASSWORD in form for form in [*forms, caplog.text])


def test_password_stays_hidden_when_another_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for refused in ({"MILLRACE_HOST": EVERYWHERE}, {"MILLRACE_SERVING_PORT": "x"}):
        sentence = refusal_of(monkeypatch, DATABASE_URL=REMOTE, **refused)
        assert PASSWORD not in sentence


def test_nothing_is_watched_or_pulled_without_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = load_settings()
    assert (settings.watch_folder, settings.pulled_models, settings.pull_private) == (None, (), False)

    changed = load_with(monkeypatch, MILLRACE_WATCH_FOLDER="inbox", MILLRACE_PULLS=" prices, books ,")
    assert (changed.watch_folder, changed.pulled_models) == (tmp_path / "inbox", ("prices", "books"))
