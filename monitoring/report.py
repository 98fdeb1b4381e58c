"""The report of a drift check as a page and as JSON: our summary first, then Evidently's charts.

Evidently decides nothing here. A test of ours, registered with it, answers for each column with the statistic that
`monitoring.drift` measured, so that its page, its JSON and the decision cannot differ. This is the only module that
knows Evidently; its import takes seconds, so that it happens when a report is written and not before.
"""

import os
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import orjson
import pandas as pd

from core.errors import ReportFailed
from core.reference import Reference
from monitoring.drift import DriftMeasure, FeatureDrift
from monitoring.page import STYLE, ReportSummary, build_summary, order_by_strength, sanitise_names, sanitise_text

MAX_ROWS = 20_000
METHOD = "millrace_calibrated_distance"
METHOD_TITLE = "distance of shares and ranks, calibrated on training data"
# The page may run and show what it carries and load nothing, from anywhere.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "base-uri 'none'; form-action 'none'"
)

_measured: ContextVar[Mapping[str, FeatureDrift]] = ContextVar("measured")


@dataclass(frozen=True)
class ReportFiles:
    """A written report: the page, the JSON beside it, and what that JSON holds (`summary`, `drift`, `evidently`)."""

    html_path: Path
    json_path: Path
    document: dict[str, object]


def sample_reference(reference: Reference, rows: int, seed: int) -> pd.DataFrame:
    """Values that look like the training data, `rows` per feature, for charts.

    A version keeps counts and not rows: values are spread evenly within each bin, from the smallest to the largest
    training value. Features are drawn one by one, so that what they have in common is lost.
    """
    rng = np.random.default_rng(seed)
    shares = (np.arange(rows) + 0.5) / rows
    columns = {}
    for feature in reference.features:
        cumulative = np.cumsum(feature.count_array)[:-1] / feature.rows
        values = np.interp(shares, cumulative, feature.edge_array)
        if feature.is_category:
            values = np.round(values)
        columns[feature.name] = rng.permutation(np.clip(values, feature.minimum, feature.maximum))
    return pd.DataFrame(columns)


def write_report(
    measure: DriftMeasure,
    reference_sample: pd.DataFrame,
    window_sample: pd.DataFrame,
    summary: ReportSummary,
    folder: Path,
) -> ReportFiles:
    """Writes `report.html` and `report.json` into `folder`, which is made if need be.

    Both samples have one column per monitored feature, named as in the measure; at most 20,000 rows of each are used.
    Features without values in either are told of in the summary and have no chart. Names and categories are made
    harmless before Evidently sees them, as it does not escape them; the page loads nothing from elsewhere.

    Raises:
        ReportFailed: Evidently's page has no place for the summary.
        OSError: the folder cannot be written.
    """
    reference, window, shown = _prepare(measure, reference_sample, window_sample)
    section = build_summary(measure, summary)
    page, evidently = _compare(reference, window, shown)
    drift = {**asdict(measure), "is_drifted": measure.is_drifted}
    text = orjson.dumps(
        {"summary": asdict(summary), "drift": drift, "evidently": evidently}, option=orjson.OPT_INDENT_2
    )
    folder.mkdir(parents=True, exist_ok=True)
    files = ReportFiles(folder / "report.html", folder / "report.json", orjson.loads(text))
    files.html_path.write_text(_insert(page, section, summary), encoding="utf-8")
    files.json_path.write_bytes(text)
    return files


def _prepare(
    measure: DriftMeasure, reference_sample: pd.DataFrame, window_sample: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, FeatureDrift]]:
    """Both samples and the features that have values in both, the strongest first, all under harmless names.

    Evidently fails on a column without values and on one that is a number in one sample only.
    """
    originals = [feature.name for feature in measure.features]
    labels = dict(zip(originals, sanitise_names(originals), strict=True))
    samples = [_limit(reference_sample), _limit(window_sample)]
    shown: dict[str, FeatureDrift] = {}
    columns: list[dict[str, pd.Series[float]]] = [{}, {}]
    for feature in order_by_strength(measure):
        if feature.statistic is None or any(feature.name not in sample for sample in samples):
            continue
        is_number = pd.api.types.is_numeric_dtype(samples[0][feature.name])
        cleaned = [_clean(sample[feature.name], is_number) for sample in samples]
        if all(column.notna().any() for column in cleaned):
            label = labels[feature.name]
            shown[label] = feature
            for side, column in zip(columns, cleaned, strict=True):
                side[label] = column
    return pd.DataFrame(columns[0]), pd.DataFrame(columns[1]), shown


def _limit(sample: pd.DataFrame) -> pd.DataFrame:
    """At most MAX_ROWS rows, in their order."""
    if len(sample) > MAX_ROWS:
        sample = sample.sample(MAX_ROWS, random_state=0).sort_index()
    return sample.reset_index(drop=True)


def _clean(column: "pd.Series[float]", is_number: bool) -> "pd.Series[float]":
    """Numbers finite or NaN; text harmless."""
    if is_number:
        return pd.to_numeric(column, errors="coerce").replace([np.inf, -np.inf], np.nan)
    return column.map(sanitise_text, na_action="ignore")


def _compare(
    reference: pd.DataFrame, window: pd.DataFrame, measured: Mapping[str, FeatureDrift]
) -> tuple[str, dict[str, object]]:
    """Evidently's page and JSON; an empty page where there is no column to show."""
    if not measured:
        return "<!DOCTYPE html><html lang='en'><head><meta charset='UTF-8'></head><body></body></html>", {"metrics": []}
    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        # Evidently touches numpy's and pandas' old names, which is nothing a reader of our warnings can change.
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import ValueDrift

        _register_test()
        numerical = [name for name in measured if pd.api.types.is_numeric_dtype(window[name])]
        categorical = [name for name in measured if name not in numerical]
        definition = DataDefinition(numerical_columns=numerical, categorical_columns=categorical)
        # No distance is above 2: what has too few values for a threshold is shown and never called drifted.
        metrics = [
            ValueDrift(column=name, method=METHOD, threshold=2.0 if feature.threshold is None else feature.threshold)
            for name, feature in measured.items()
        ]
        token = _measured.set(measured)
        try:
            snapshot = Report(metrics).run(
                Dataset.from_pandas(window, definition), Dataset.from_pandas(reference, definition)
            )
            page = snapshot.get_html_str(as_iframe=False)
            evidently = cast(dict[str, object], orjson.loads(snapshot.json()))
        finally:
            _measured.reset(token)
    return page, evidently


@cache
def _register_test() -> None:
    from evidently.legacy.calculations.stattests import (
        StatTest,
        register_stattest,
    )
    from evidently.legacy.core import ColumnType

    def answer(
        reference: "pd.Series[float]", window: "pd.Series[float]", kind: ColumnType, threshold: float
    ) -> tuple[float, bool]:
        feature = _measured.get()[str(window.name)]
        if feature.statistic is None:
            raise ReportFailed(f"feature {feature.name!r} was given to Evidently without a statistic")
        return feature.statistic, feature.is_drifted

    register_stattest(
        StatTest(
            name=METHOD,
            display_name=METHOD_TITLE,
            allowed_feature_types=[ColumnType.Numerical, ColumnType.Categorical],
            default_threshold=2.0,
        ),
        answer,
    )


def _insert(page: str, section: str, summary: ReportSummary) -> str:
    """The page with title, content policy and summary before Evidently's part."""
    title = f"<title>Drift of {sanitise_text(summary.model)}, version {summary.version}</title>"
    policy = f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">'
    for mark, addition in (("<head>", policy + title + STYLE), ("<body>", section)):
        before, found, after = page.partition(mark)
        if not found:
            raise ReportFailed(f"the page that Evidently wrote has no {mark}")
        page = before + found + addition + after
    return page.lstrip()
