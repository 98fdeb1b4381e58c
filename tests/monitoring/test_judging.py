"""Decisions of checks as a round makes them: from the database alone, MLflow away."""

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import insert, text, update

from core.connections import open_connections
from core.findings import load_findings
from core.reference import Reference, build_reference
from core.settings import load_settings
from core.tables.monitoring import findings, version_references
from core.tables.predictions import quality_counts, request_counts
from core.trainings import request_training
from monitoring.rounds import check_versions
from tests.monitoring.test_checking import NAMES, POLICY, ROWS, Served, draw


@pytest.fixture(scope="module")
def reference() -> Reference:
    return build_reference(draw(3000, 1), NAMES, ["N", ""], seed=1)


@pytest.fixture
def served(migrated_database_url: str, model: str, reference: Reference) -> Iterator[Served]:
    """A version whose reference an earlier check has read."""
    with open_connections(load_settings(), migrated_database_url) as connections:
        with connections.engine.begin() as connection:
            document = reference.model_dump(mode="json")
            connection.execute(insert(version_references).values(model=model, version=1, document=document))
        yield Served(connections, model, 1, "", reference)


def store_document(served: Served, document: dict[str, object]) -> None:
    with served.connections.engine.begin() as connection:
        connection.execute(update(version_references).values(document=document))


def test_a_retraining_that_meets_an_open_training_says_so_and_is_no_new_one(served: Served) -> None:
    with served.connections.engine.begin() as connection:
        open_one, _ = request_training(connection, served.model, cause="hand", actor="tests")
    served.serve(draw(ROWS, 3, shift=1.5))
    served.judge()
    served.serve(draw(ROWS, 4, shift=1.5), hours_ago=3)
    met = served.judge()
    assert (met.outcome, met.training_id) == ("retrain", open_one.id)
    assert met.reasons[-1].startswith(f"training met: training {open_one.id} is queued already")
    assert served.count_trainings() == 1

    # It cooled nothing down: once the open one is over, the next confirmed check starts another.
    with served.connections.engine.begin() as connection:
        connection.execute(text("UPDATE trainings SET state = 'finished'"))
    served.serve(draw(ROWS, 5, shift=1.5), hours_ago=4)
    assert served.judge().training_id != open_one.id
    assert served.count_trainings() == 2
    served.serve(draw(ROWS, 6, shift=1.5), hours_ago=5)
    assert served.judge().outcome == "alert"


def test_reports_are_queued_for_news_alone(served: Served) -> None:
    served.serve(draw(ROWS, 2))
    assert served.judge().outcome == "fine"
    assert served.count_report_jobs() == 0
    served.serve(draw(4 * ROWS, 3, shift=1.5), hours_ago=2)
    assert [served.judge().outcome for _ in range(3)] == ["alert"] * 3
    assert served.count_report_jobs() == 1
    served.serve(draw(ROWS, 4, shift=1.5), hours_ago=3)
    assert served.judge().outcome == "retrain"
    assert served.count_report_jobs() == 2
    # What is confirmed while a retraining has to wait is news after what one check alone had seen.
    assert served.judge().outcome == "alert"
    assert served.count_report_jobs() == 3
    served.serve(draw(ROWS, 5, shift=1.5), hours_ago=4)
    served.judge()
    served.serve(draw(ROWS, 6, shift=1.5), hours_ago=5)
    confirmed = served.judge()
    assert "within the cooldown" in confirmed.reasons[-1]
    assert served.count_report_jobs() == 4
    assert served.judge().outcome == "alert"
    assert served.count_report_jobs() == 4


def test_a_reference_of_before_quality_and_predictions_were_kept_is_still_checked(served: Served) -> None:
    document = served.reference.model_dump(mode="json", exclude={"quality", "rows_an_hour"})
    for feature in document["features"]:
        del feature["role"], feature["statistic"]
    store_document(served, document)
    served.serve(draw(ROWS, 3, shift=1.5))
    found = served.judge()
    assert (found.outcome, found.is_drifted) == ("alert", True)


def test_a_damaged_reference_is_told_of(served: Served) -> None:
    store_document(served, {"features": []})
    found = served.judge()
    assert found.outcome == "alert"
    assert "The reference profile is not usable" in found.reasons[0]


def test_refused_values_are_a_data_incident_that_names_the_column(served: Served) -> None:
    served.serve(draw(ROWS, 4))
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    whose = {"model": served.model, "version": served.version, "hour": hour}
    with served.connections.engine.begin() as connection:
        connection.execute(insert(request_counts).values(**whose, predictions=0, refusals=90))
        connection.execute(insert(quality_counts).values(**whose, column="load", kind="bounds", count=90))
    found = served.judge()
    assert found.outcome == "data_incident"
    assert found.reasons[0] == "load was out of bounds in 90 of 490 requests (18.4%), in training in 0.0%"


@pytest.mark.parametrize(("value", "outcome"), [(5.0, "alert"), (np.inf, "data_incident"), (-np.inf, "data_incident")])
def test_a_window_with_one_value_and_one_of_infinite_values(served: Served, value: float, outcome: str) -> None:
    values = draw(ROWS, 4)
    values[:, 0] = value
    served.serve(values)
    assert served.judge().outcome == outcome


def test_an_empty_window_is_fine_and_says_that_it_is_empty(served: Served) -> None:
    found = served.judge()
    assert (found.outcome, found.reasons) == ("fine", ["0 rows are too few to judge"])


def test_predictions_of_a_clock_that_is_ahead_are_an_incident_and_those_of_one_behind_do_not_count(
    served: Served,
) -> None:
    served.serve(draw(ROWS, 4), hours_ago=1)
    served.serve(draw(ROWS, 5, shift=3.0), hours_ago=30 * 24)
    assert served.judge().outcome == "fine"
    served.serve(draw(ROWS, 6, shift=3.0), hours_ago=-30)
    found = served.judge()
    assert (found.outcome, found.rows) == ("data_incident", ROWS)
    assert "ahead of the database's clock (50.0%)" in found.reasons[0]


def test_findings_of_before_decisions_were_kept_confirm_by_their_drift(served: Served) -> None:
    served.serve(draw(ROWS, 3, shift=1.5))
    served.judge()
    with served.connections.engine.begin() as connection:
        connection.execute(update(findings).values(measure={"served": 0}))
    assert served.judge().outcome == "retrain"


def test_a_round_stores_what_failed_and_checks_the_others(served: Served) -> None:
    served.serve(draw(ROWS, 3, shift=1.5))
    versions = {served.model: served.version, "broken": 1}
    policies = {"broken": POLICY, served.model: POLICY, "untrained": POLICY}
    for _ in range(2):
        found = check_versions(served.connections, versions, policies, key="round 1")
        assert (found.outcomes, found.failed) == ({served.model: "alert"}, ("broken",))
    assert len(served.load()) == 1
    with served.connections.engine.connect() as connection:
        (failure,) = load_findings(connection, "broken")
    assert (failure.subject, failure.outcome) == ("check", "alert")
    assert failure.reasons[0].startswith("The check failed:")
