"""Alerts and the state of models over HTTP."""

from prometheus_client.parser import text_string_to_metric_families

from core.alerts import clear_alert, raise_alert
from tests.control.running import Controlled


def test_alerts_are_listed_with_their_messages(controlled: Controlled) -> None:
    with controlled.connections.engine.begin() as connection:
        raise_alert(connection, "prices", "drift", "warning", "Drift found", ["it strayed"])
        raise_alert(connection, "prices", "check", "critical", "The check failed", ["it ended"])
        clear_alert(connection, "prices", "check", "it works again")
    found = controlled.client.get("/alerts", params={"model": "prices", "open": True}).json()
    assert [(alert["cause"], alert["times"], alert["cleared_at"]) for alert in found] == [("drift", 1, None)]
    assert {message["state"] for message in found[0]["messages"]} == {"waiting"}
    assert len(controlled.client.get("/alerts").json()) == 2
    assert controlled.client.get("/alerts", params={"model": "../x"}).status_code == 422


def test_metrics_tell_each_models_state(controlled: Controlled) -> None:
    with controlled.connections.engine.begin() as connection:
        raise_alert(connection, "prices", "drift", "warning", "Drift found", ["it strayed"])
    answer = controlled.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["millrace_open_alerts", "prices", "warning"] == 1
    assert samples["millrace_open_alerts", "critical", "prices"] == 0
    assert samples["millrace_trainings", "failed", "prices"] == 0
    # Nothing came in yet: what nobody knows is not a number.
    assert not any(name[0] == "millrace_rows_received_timestamp_seconds" for name in samples)
