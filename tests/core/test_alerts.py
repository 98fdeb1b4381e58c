"""Alerts, in PostgreSQL."""

import threading
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine

from core.alerts import CHANNELS, clear_alert, load_alerts, load_messages, raise_alert, settle_message, take_due_message


def _raise(engine: Engine, cause: str = "drift", severity: str = "warning", model: str = "prices") -> None:
    with engine.begin() as connection:
        raise_alert(connection, model, cause, severity, "Drift found", ["it strayed"])  # type: ignore[arg-type]


def test_cause_is_told_of_once_until_it_clears(engine: Engine) -> None:
    for _ in range(3):
        _raise(engine)
    with engine.begin() as connection:
        alert = load_alerts(connection, "prices")[0]
        assert (alert.times, alert.cleared_at) == (3, None)
        assert [(one.channel, one.occasion) for one in load_messages(connection, alert.id)] == [
            (channel, "raised") for channel in sorted(CHANNELS)
        ]
        cleared = clear_alert(connection, "prices", "drift", "no feature drifted")
        assert cleared is not None and cleared.id == alert.id
        assert clear_alert(connection, "prices", "drift", "again") is None
        assert len(load_messages(connection, alert.id)) == 2 * len(CHANNELS)
    _raise(engine)
    with engine.connect() as connection:
        assert len(load_alerts(connection, "prices")) == 2
        assert len(load_alerts(connection, "prices", is_open=True)) == 1


def test_alert_that_becomes_more_severe_is_told_of_again(engine: Engine) -> None:
    _raise(engine)
    _raise(engine, severity="critical")
    _raise(engine)
    with engine.connect() as connection:
        alert = load_alerts(connection)[0]
        assert (alert.severity, alert.times) == ("critical", 3)
        assert len(load_messages(connection, alert.id)) == 2 * len(CHANNELS)


def test_causes_and_models_are_apart(engine: Engine) -> None:
    for cause, model in (("drift", "prices"), ("data", "prices"), ("drift", "books")):
        _raise(engine, cause=cause, model=model)
    with engine.begin() as connection:
        clear_alert(connection, "prices", "drift", "over")
        assert {(alert.model, alert.cause) for alert in load_alerts(connection, is_open=True)} == {
            ("prices", "data"),
            ("books", "drift"),
        }


def test_cause_that_many_meet_at_once_is_one_alert(engine: Engine) -> None:
    threads = [threading.Thread(target=_raise, args=(engine,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.connect() as connection:
        (alert,) = load_alerts(connection)
        assert alert.times == 8
        assert len(load_messages(connection, alert.id)) == len(CHANNELS)


def test_message_is_taken_by_one_at_a_time(engine: Engine) -> None:
    _raise(engine)
    now = datetime.now(UTC) + timedelta(seconds=1)
    with engine.begin() as first, engine.begin() as second:
        taken = [take_due_message(connection, now) for connection in (first, second)]
        assert len({message.id for message in taken if message is not None}) == 2
    with engine.begin() as connection:
        for _ in CHANNELS:
            message = take_due_message(connection, now)
            assert message is not None
            settle_message(connection, message, "delivered", now)
        assert take_due_message(connection, now) is None


def test_message_is_not_due_before_its_time(engine: Engine) -> None:
    _raise(engine)
    with engine.begin() as connection:
        assert take_due_message(connection, datetime.now(UTC) - timedelta(minutes=1)) is None
