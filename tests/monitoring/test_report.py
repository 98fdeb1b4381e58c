"""The report: Evidently's numbers are ours, hostile text is inert, and nothing is loaded from elsewhere."""

import json
import os
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from core.reference import Reference, build_reference, count_bins
from monitoring.drift import DriftMeasure, FeatureDrift, WindowCounts, measure_drift
from monitoring.page import ReportSummary, build_summary, frame_page, sanitise_names, sanitise_text
from monitoring.report import MAX_ROWS, METHOD, ReportFiles, sample_reference, write_report
from tests.browser import opened_browser

HOSTILE = "</script><script>alert(1)</script>"
NAMES = ("load", HOSTILE, "lamp", "torque")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SUMMARY = ReportSummary(
    model="press<b>",
    version=7,
    outcome="alert",
    reasons=(f"{HOSTILE} drifted",),
    action="People were told; nothing was <i>trained</i>.",
    target_rate=0.04,
    minimum_effect=0.1,
    minimum_share=0.05,
    window_start_at=NOW - timedelta(hours=168),
    window_end_at=NOW,
    checked_at=NOW,
)


def draw(rows: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    rng = np.random.default_rng(seed)
    columns = [rng.normal(5, 2, size=rows), rng.gamma(3, 10, size=rows), np.ones(rows), rng.normal(size=rows)]
    return np.column_stack(columns)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return build_reference(draw(3000, 1), NAMES, ["N", "", "", "Nm"])


@pytest.fixture(scope="module")
def measure(reference: Reference) -> DriftMeasure:
    window = draw(600, 2) + [1.0, 0.0, 0.0, 0.0]
    window[:, 3] = np.nan
    counts = dict(zip(NAMES, count_bins(reference, window), strict=True))
    return measure_drift(reference, WindowCounts(600, counts, refusals=3), 0.1)


@pytest.fixture(scope="module")
def files(reference: Reference, measure: DriftMeasure, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    sample = pd.DataFrame(draw(600, 2) + [1.0, 0.0, 0.0, np.nan], columns=list(NAMES))
    return write_report(
        measure, sample_reference(reference, 2000, 0), sample, SUMMARY, tmp_path_factory.mktemp("r") / "x"
    )


def read_evidently(document: dict[str, object]) -> dict[str, tuple[float, float, str]]:
    """Evidently's own words: column to (score, threshold, method)."""
    evidently = document["evidently"]
    assert isinstance(evidently, dict)
    configs = [(metric["config"], metric["value"]) for metric in evidently["metrics"]]
    return {config["column"]: (value, config["threshold"], config["method"]) for config, value in configs}


def test_evidently_shows_exactly_the_numbers_that_decided(files: ReportFiles, measure: DriftMeasure) -> None:
    shown = read_evidently(json.loads(files.json_path.read_text()))
    load, hostile, lamp, torque = measure.features
    assert torque.name == "torque" and torque.statistic is None
    assert shown == {
        "load": (load.statistic, load.threshold, METHOD),
        sanitise_text(HOSTILE): (hostile.statistic, hostile.threshold, METHOD),
        "lamp": (lamp.statistic, lamp.threshold, METHOD),
    }


def test_page_says_drift_where_the_measure_does(files: ReportFiles, measure: DriftMeasure) -> None:
    page = files.html_path.read_text()
    assert [feature.name for feature in measure.drifted] == ["load"]
    assert len(re.findall(r"Data drift detected\.", page)) == 1
    assert len(re.findall(r"Data drift not detected\.", page)) == 2
    assert (
        page.index("Drift found") < page.index("Data drift detected")
        or "Data drift detected" in page.split("<body>")[0]
    )


def test_json_carries_measure_and_summary(files: ReportFiles, measure: DriftMeasure) -> None:
    document = json.loads(files.json_path.read_text())
    assert document == files.document
    assert document["drift"]["missing"] == ["torque"]
    assert document["drift"]["refusals"] == 3
    assert document["drift"]["is_drifted"] is True
    for row, feature in zip(document["drift"]["features"], measure.features, strict=True):
        assert (row["name"], row["statistic"], row["threshold"]) == (feature.name, feature.statistic, feature.threshold)
        assert row["is_drifted"] == feature.is_drifted
    assert document["summary"]["outcome"] == "alert"
    assert datetime.fromisoformat(document["summary"]["checked_at"]) == NOW


def test_hostile_names_are_inert(files: ReportFiles) -> None:
    page = files.html_path.read_text()
    assert "<script>alert" not in page
    assert "press<b>" not in page and "<i>trained" not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt; drifted" in page


def test_page_may_load_nothing_and_telemetry_is_off(files: ReportFiles) -> None:
    page = files.html_path.read_text()
    head = page.split("<style>")[0]
    assert "Content-Security-Policy" in head and "default-src 'none'" in head
    assert not re.search(r"""<(script|link|img|iframe)[^>]*\b(src|href)=["']?(https?:)?//""", page)
    assert os.environ["DO_NOT_TRACK"] == "1"


def test_summary_stands_at_the_top_of_the_body(files: ReportFiles) -> None:
    page = files.html_path.read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.split("<body>", 1)[1].lstrip().startswith('<section class="mr"')


def test_page_shows_mean_and_deviation_of_training_and_of_what_was_served() -> None:
    number = FeatureDrift(
        "load", 200, 0.4, 0.1, 0.5, True, mean=6.98, sd=3.125, usual_mean=5.0123, usual_sd=2.0, role="prediction"
    )
    category = FeatureDrift("kind", 200, 0.4, 0.1, 0.25, True, is_category=True)
    section = build_summary(DriftMeasure(200, 0, (number, category), (), True), SUMMARY)
    rows = dict(re.findall(r'<tr><th scope="row">(\w+)(.*?)</tr>', section))
    assert "5.012<br>→ 6.98" in rows["load"] and "2<br>→ 3.125" in rows["load"] and "0.50 sd" in rows["load"]
    assert "what the model answered" in rows["load"] and "what the model answered" not in rows["kind"]
    assert "→" not in rows["kind"] and "25.0% of rows" in rows["kind"]


def test_page_of_broken_data_does_not_say_that_all_is_as_in_training() -> None:
    fair = FeatureDrift("load", 200, 0.05, 0.1, 0.05, False)
    summary = replace(SUMMARY, outcome="data_incident", reasons=("load was out of bounds in 90 of 200 requests",))
    section = build_summary(DriftMeasure(200, 90, (fair,), (), True), summary)
    assert "has to be repaired" in section and "look as they did in training" not in section


def test_hostile_categories_are_inert(tmp_path: Path) -> None:
    kind = FeatureDrift("kind", 200, 0.4, 0.1, 0.5, True)
    measure = DriftMeasure(200, 0, (kind,), (), True)
    training = pd.DataFrame({"kind": ["a", "b"] * 100})
    served = pd.DataFrame({"kind": [HOSTILE, "<img src=x onerror=alert(1)>"] * 100})
    files = write_report(measure, training, served, SUMMARY, tmp_path)
    page = files.html_path.read_text()
    assert "<script>alert" not in page and "<img src=x" not in page
    # The category is still there to be read, in the look-alikes that replace what a browser would act on.
    assert "\\u2039img src=x onerror=alert(1)\\u203a" in page
    assert read_evidently(files.document)["kind"][:2] == (0.4, 0.1)


def test_a_window_without_any_values_still_has_a_page(reference: Reference, tmp_path: Path) -> None:
    measure = measure_drift(reference, WindowCounts(0, {}, refusals=500), 0.1)
    files = write_report(measure, sample_reference(reference, 100, 0), pd.DataFrame(), SUMMARY, tmp_path)
    assert "too few to say anything" in files.html_path.read_text()
    assert read_evidently(files.document) == {}


def test_a_window_of_one_row_has_a_page_and_no_drift(reference: Reference, tmp_path: Path) -> None:
    window = draw(1, 3) + 1000.0
    counts = dict(zip(NAMES, count_bins(reference, window), strict=True))
    measure = measure_drift(reference, WindowCounts(1, counts), 0.1)
    files = write_report(
        measure, sample_reference(reference, 100, 0), pd.DataFrame(window, columns=list(NAMES)), SUMMARY, tmp_path
    )
    assert "Data drift detected." not in files.html_path.read_text()


def test_numbers_that_arrive_as_objects_are_shown_as_numbers(reference: Reference, tmp_path: Path) -> None:
    window = draw(100, 5)
    counts = dict(zip(NAMES, count_bins(reference, window), strict=True))
    measure = measure_drift(reference, WindowCounts(100, counts), 0.1)
    sample = pd.DataFrame(window, columns=list(NAMES)).astype(object)
    sample.loc[3, "load"] = None
    sample["lamp"] = "broken"
    files = write_report(measure, sample_reference(reference, 100, 0), sample, SUMMARY, tmp_path)
    assert set(read_evidently(files.document)) == {"load", sanitise_text(HOSTILE), "torque"}


def test_infinite_values_and_long_samples_are_shown_within_the_limit(reference: Reference, tmp_path: Path) -> None:
    window = draw(MAX_ROWS + 500, 4)
    window[::7, 0] = np.inf
    counts = dict(zip(NAMES, count_bins(reference, window), strict=True))
    measure = measure_drift(reference, WindowCounts(len(window), counts), 0.1)
    sample = pd.DataFrame(window, columns=list(NAMES))
    files = write_report(measure, sample_reference(reference, 2000, 0), sample, SUMMARY, tmp_path)
    assert read_evidently(files.document)["load"][0] == measure.features[0].statistic
    assert len(sample) == MAX_ROWS + 500


def test_sampled_reference_looks_like_training(reference: Reference) -> None:
    sample = sample_reference(reference, 5000, 0)
    training = draw(3000, 1)
    assert list(sample.columns) == list(NAMES)
    for index, feature in enumerate(reference.features):
        values = sample[feature.name].to_numpy()
        assert values.min() >= feature.minimum and values.max() <= feature.maximum
        assert stats.ks_2samp(values, training[:, index]).statistic < 0.011
    assert sample.equals(sample_reference(reference, 5000, 0))


def test_sanitised_names_stay_different() -> None:
    assert sanitise_names(["<a>", "‹a›", "<a>", "b"]) == ["‹a›", "‹a› (2)", "‹a› (3)", "b"]
    assert sanitise_text("a\u202eb\nc\x00") == "a b c "
    assert len(sanitise_text("x" * 500)) == 80


def test_hostile_names_and_categories_run_nothing_in_a_browser(files: ReportFiles, tmp_path: Path) -> None:
    framed = tmp_path / "framed.html"
    framed.write_text(frame_page(HOSTILE, files.html_path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in (files.html_path, framed):
        with opened_browser() as seen:
            seen.page.goto(path.as_uri())
            place = seen.page.frame_locator("iframe") if path is framed else seen.page
            place.get_by_text("Drift found").first.wait_for()
            # Evidently draws its charts by script.
            place.locator("svg, canvas").first.wait_for()
            assert seen.dialogs == []
            assert [address for address in seen.requested if not address.startswith(("file:", "data:", "blob:"))] == []
