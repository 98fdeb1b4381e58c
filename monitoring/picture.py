"""The picture of a finding: how far each feature strayed, in units of its threshold."""

from io import BytesIO

from core.findings import Finding
from monitoring.drift import read_measure
from monitoring.page import sanitise_names

_MAX_FEATURES = 20
_FAIR_COLOUR, _DRIFTED_COLOUR, _INK_COLOUR = "#0b6e99", "#c0392b", "#1f2933"


def draw_finding(finding: Finding) -> bytes | None:
    """A PNG with one bar a feature, the furthest on top; None for a finding that measured no feature."""
    from matplotlib.figure import Figure

    if "features" not in finding.measure:
        return None
    judged = [feature for feature in read_measure(finding.measure).features if feature.threshold is not None]
    if not judged:
        return None
    shown = sorted(judged, key=lambda feature: feature.ratio)[-_MAX_FEATURES:]
    figure = Figure(figsize=(7, 1.2 + 0.32 * len(shown)), layout="constrained")
    axes = figure.subplots()
    colours = [_DRIFTED_COLOUR if feature.is_drifted else _FAIR_COLOUR for feature in shown]
    places = range(len(shown))
    axes.barh(places, [feature.ratio for feature in shown], color=colours)
    axes.set_yticks(places, [name.replace("$", "＄") for name in sanitise_names(feature.name for feature in shown)])
    axes.axvline(1.0, color=_INK_COLOUR, linewidth=1, linestyle="--")
    axes.set_xlabel("distance from training, in units of the alarm's threshold")
    axes.set_title(
        f"{finding.model} version {finding.version}, {finding.rows} predictions, {finding.found_at:%Y-%m-%d %H:%M} UTC"
    )
    content = BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
