"""The first part of a report's page: what changed, how sure that is, and what was done about it."""

import html
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from core.findings import Outcome
from monitoring.drift import DriftMeasure, FeatureDrift

MAX_NAME_CHARACTERS = 80
LOOKALIKES = str.maketrans({"<": "‹", ">": "›", "&": "＆", '"': "”", "'": "’", "`": "‘", "\\": "＼"})
_TITLES: dict[Outcome, str] = {
    "fine": "Nothing to do",
    "alert": "Drift found",
    "data_incident": "The data is broken",
    "retrain": "Drift confirmed, retraining started",
}


@dataclass(frozen=True)
class ReportSummary:
    """What a report says beside the measure.

    Attributes:
        model: the registered model.
        version: the version whose predictions were checked.
        outcome: what the check concluded.
        reasons: the sentences that led to it.
        action: what was done because of it, as a sentence.
        target_rate: share of checks on unchanged data that may raise an alarm.
        minimum_effect: smallest shift that counts, in standard deviations.
        minimum_share: smallest share of rows that counts where they moved between categories.
        window_start_at: begin of the window, UTC.
        window_end_at: end of the window, UTC.
        checked_at: when the check ran, UTC.
    """

    model: str
    version: int
    outcome: Outcome
    reasons: tuple[str, ...]
    action: str
    target_rate: float
    minimum_effect: float
    minimum_share: float
    window_start_at: datetime
    window_end_at: datetime
    checked_at: datetime


def choose_title(outcome: Outcome, *, is_drifted: bool) -> str:
    """What a drift check concluded, in a few words."""
    if outcome == "retrain" and not is_drifted:
        return "Realised error worse than promised, retraining started"
    return _TITLES[outcome]


def sanitise_text(text: object) -> str:
    """The text with every character that HTML or a script could act on replaced by one that looks like it.

    Made for texts that other software places in a page without escaping. Control and invisible characters become
    spaces, and long texts are cut.
    """
    plain = "".join(" " if unicodedata.category(sign)[0] in "CZ" else sign for sign in str(text))
    plain = plain.translate(LOOKALIKES)
    return plain if len(plain) <= MAX_NAME_CHARACTERS else f"{plain[: MAX_NAME_CHARACTERS - 1]}…"


def sanitise_names(names: Iterable[object]) -> list[str]:
    """The names, sanitised and still different from each other."""
    taken: set[str] = set()
    sanitised = []
    for name in names:
        plain = sanitise_text(name)
        wanted, number = plain, 2
        while wanted in taken:
            wanted, number = f"{plain} ({number})", number + 1
        taken.add(wanted)
        sanitised.append(wanted)
    return sanitised


def build_summary(measure: DriftMeasure, summary: ReportSummary) -> str:
    """The summary as an HTML section without scripts; every text in it is escaped."""
    window = f"{_show_time(summary.window_start_at)} to {_show_time(summary.window_end_at)}"
    rows = "".join(_build_row(feature, feature.name in measure.missing) for feature in order_by_strength(measure))
    return f"""
<section class="mr" aria-labelledby="mr-title">
<header class="mr-head mr-{summary.outcome}">
<p class="mr-kicker">Drift check of {_show(summary.model)}, version {summary.version}</p>
<h1 id="mr-title">{_show(choose_title(summary.outcome, is_drifted=measure.is_drifted))}</h1>
<p>{_show(_describe_change(measure, summary))}</p>
</header>
<div class="mr-facts">
<div><h2>What changed</h2>{_build_list(summary.reasons)}</div>
<div><h2>How sure</h2><p>{_show(_describe_certainty(measure, summary))}</p></div>
<div><h2>What was done</h2><p>{_show(summary.action)}</p></div>
</div>
<p class="mr-note" id="mr-note">{measure.rows:,} predictions from {window}, {measure.refusals:,} requests refused. \
Checked at {_show_time(summary.checked_at)}.</p>
<div class="mr-scroll" tabindex="0" role="region" aria-label="Every monitored feature">
<table aria-describedby="mr-note">
<thead><tr><th scope="col">Feature</th><th scope="col">Verdict</th><th scope="col">Distance</th>\
<th scope="col">Threshold</th><th scope="col">Against the threshold</th><th scope="col">Shift</th>\
<th scope="col">Mean</th><th scope="col">Deviation</th><th scope="col">Values</th></tr></thead>
<tbody>{rows}</tbody>
</table>
</div>
<details><summary>How to read this</summary>
<p>Distance is how far the served values lie from those of training. Of numbers it is the largest of three, all from the
ranks that served values take among training values: the gap between the cumulative shares (Kolmogorov-Smirnov), how far
the mean rank moved, and how much further from the middle, or nearer to it, the ranks lie (deviation). Of categories it
is the share of predictions that would have to move to another category. The threshold is calibrated on samples of this
window's size, drawn from the version's own training rows.</p>
<p>Shift is how much that matters: of numbers how far values moved on average (Wasserstein-1), in standard deviations
(sd) of the training values. A feature drifts when it passes its threshold and its shift is at least
{summary.minimum_effect:g} sd, of categories {summary.minimum_share:.0%} of the rows. Mean and deviation are those of
training and of what was served, in the feature's unit.</p>
<p>The charts below compare a sample of served values with values redrawn from the training bins: the version keeps
counts, not rows. The decision was made on all predictions of the window, not on the sample.</p></details>
</section>
"""


def order_by_strength(measure: DriftMeasure) -> list[FeatureDrift]:
    """Missing features first, then drifted ones, then by how near they come to their threshold."""

    def strength(feature: FeatureDrift) -> tuple[bool, bool, float]:
        return feature.name not in measure.missing, not feature.is_drifted, -feature.ratio

    return sorted(measure.features, key=strength)


def _describe_change(measure: DriftMeasure, summary: ReportSummary) -> str:
    if measure.missing:
        names = ", ".join(measure.missing)
        return f"No values to judge for {names}, although there were {measure.rows:,} predictions."
    if not measure.is_conclusive:
        return f"{measure.rows:,} predictions are too few to say anything."
    if summary.outcome == "data_incident":
        return "What came in has to be repaired before drift in it means anything."
    drifted = measure.drifted
    if not drifted:
        return f"All {len(measure.features)} monitored features look as they did in training."
    strongest = drifted[0]
    return (
        f"{len(drifted)} of {len(measure.features)} monitored features differ from training, most of all "
        f"{strongest.name}: {_describe_shift(strongest)}."
    )


def _describe_shift(feature: FeatureDrift) -> str:
    if feature.is_category:
        return f"{feature.effect:.0%} of the rows moved to another category"
    return f"moved by {feature.effect:.2f} standard deviations"


def _describe_certainty(measure: DriftMeasure, summary: ReportSummary) -> str:
    if not measure.is_conclusive:
        return "Not at all: there are too few predictions for the test."
    rate = (
        f"On unchanged data about {100 * summary.target_rate:.2g} of 100 checks raise an alarm over all features "
        "together."
    )
    judged = [feature for feature in measure.features if feature.threshold is not None]
    if not judged:
        return rate
    nearest = max(judged, key=lambda feature: feature.ratio)
    return f"{rate} The strongest distance here, of {nearest.name}, is {nearest.ratio:.1f} times its threshold."


def _build_list(reasons: tuple[str, ...]) -> str:
    return "<ul>" + "".join(f"<li>{_show(reason)}</li>" for reason in reasons) + "</ul>"


def _build_row(feature: FeatureDrift, is_missing: bool) -> str:
    if is_missing:
        verdict, style = "Missing", "mr-bad"
    elif feature.threshold is None:
        verdict, style = "Too few values", "mr-quiet"
    elif feature.is_drifted:
        verdict, style = "Drifted", "mr-warn"
    else:
        verdict, style = "As in training", "mr-good"
    # The mark in the middle of the bar is the threshold; twice the threshold fills it.
    width = min(100.0, 50.0 * feature.ratio)
    role = '<span class="mr-role">what the model answered</span>' if feature.role == "prediction" else ""
    bar = f'<span class="mr-bar {style}"><i style="width:{width:.0f}%"></i></span>'
    return (
        f'<tr><th scope="row">{_show(feature.name)}{role}</th><td><span class="mr-tag {style}">{verdict}</span></td>'
        f"<td>{_number(feature.statistic)}</td><td>{_number(feature.threshold)}</td><td>{bar}</td>"
        f'<td class="mr-one">{_size(feature)}</td><td class="mr-one">{_change(feature.usual_mean, feature.mean)}</td>'
        f'<td class="mr-one">{_change(feature.usual_sd, feature.sd)}</td><td>{feature.rows:,}</td></tr>'
    )


def _size(feature: FeatureDrift) -> str:
    if feature.effect is None:
        return "–"
    return f"{feature.effect:.1%} of rows" if feature.is_category else f"{feature.effect:.2f} sd"


def _change(usual: float | None, found: float | None) -> str:
    return "–" if usual is None or found is None else f"{usual:.4g}<br>→ {found:.4g}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _show(text: object) -> str:
    return html.escape(sanitise_lines(str(text)))


def sanitise_lines(text: str) -> str:
    """The text without control and invisible characters, which could reverse or hide parts of a sentence."""
    return "".join(sign if sign == " " or unicodedata.category(sign)[0] not in "CZ" else " " for sign in text)


def _show_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


STYLE = """
<style>
.mr{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:#1b2430;max-width:1120px;
margin:24px auto;padding:0 16px;box-sizing:border-box}
.mr *{box-sizing:border-box;overflow-wrap:anywhere}
.mr-head{border-left:8px solid;border-radius:8px;padding:16px 20px;background:#f5f7f9}
.mr-head h1{font-size:1.75rem;line-height:1.2;margin:2px 0 6px;font-weight:650}
.mr-head p{margin:0}.mr .mr-kicker{font-size:.875rem;color:#46515e}
.mr-fine{border-color:#1d7a4c;background:#eef7f1}.mr-alert{border-color:#b35c00;background:#fdf4e7}
.mr-retrain{border-color:#2257b8;background:#edf3fd}.mr-data_incident{border-color:#b3261e;background:#fdefee}
.mr-facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(260px,100%),1fr));gap:12px;margin:12px 0}
@media(min-width:900px){.mr-facts{grid-template-columns:2fr 1fr 1fr}}
.mr-facts>div{border:1px solid #d5dbe1;border-radius:8px;padding:12px 16px}
.mr h2{font-size:1rem;margin:0 0 4px;font-weight:650}.mr ul{margin:0;padding-left:1.1em}.mr-facts p{margin:0}
.mr-scroll{overflow-x:auto;border:1px solid #d5dbe1;border-radius:8px}
.mr table{border-collapse:collapse;width:100%;min-width:1020px;font-size:.9375rem}
.mr .mr-note{margin:16px 0 6px;color:#46515e;font-size:.875rem}
.mr th,.mr td{padding:8px 12px;border-top:1px solid #e3e8ec;text-align:left;font-variant-numeric:tabular-nums}
.mr thead th{border-top:0;font-size:.8125rem;
color:#46515e;font-weight:600;overflow-wrap:normal}.mr tbody th{font-weight:600;min-width:12rem}
.mr-role{display:block;font-size:.8125rem;font-weight:400;color:#46515e}
.mr .mr-one{white-space:nowrap}
.mr tbody tr:first-child>*{border-top-color:#d5dbe1}
.mr-tag{display:inline-block;border-radius:999px;padding:1px 10px;font-size:.8125rem;white-space:nowrap}
.mr-tag.mr-good{background:#e0f1e7;color:#125534}.mr-tag.mr-warn{background:#fbe3c0;color:#6f3a00}
.mr-tag.mr-bad{background:#f9d7d4;color:#7f1710}.mr-tag.mr-quiet{background:#e8ecef;color:#3c4650}
.mr-bar{display:block;position:relative;width:100%;min-width:90px;height:12px;background:#e8ecef;border-radius:6px}
.mr-bar i{display:block;height:100%;border-radius:6px;background:#1d7a4c}.mr-bar.mr-warn i{background:#b35c00}
.mr-bar::after{content:"";position:absolute;left:50%;top:-3px;bottom:-3px;width:2px;background:#1b2430}
.mr details{margin:12px 0;color:#333d48}.mr summary{cursor:pointer;font-weight:600}
</style>
"""


def frame_page(title: str, page: str) -> str:
    """A page that shows another one with an origin of its own: its scripts run and reach nothing, also from a file.

    Source: HTML Standard, "The iframe element", attributes `sandbox` and `srcdoc`.
    """
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='UTF-8'>"
        f"<title>{html.escape(title)}</title>"
        "<style>html,body,iframe{margin:0;width:100%;height:100%;border:0;display:block}</style></head><body>"
        f'<iframe sandbox="allow-scripts" title="{html.escape(title)}" srcdoc="{html.escape(page)}"></iframe>'
        "</body></html>"
    )
