"""Contracts of tests: a series with one feature, a series with two, and a table."""

from core.contract import Column, Contract, Key, Monitored


def build_series(steps: int = 3) -> Contract:
    """Windows of `steps` closes from 0.5 to 1000 USD."""
    return Contract(
        model="closes",
        description="closes",
        kind="sequence",
        columns=(
            Column(name="at", dtype="time"),
            Column(name="close", dtype="float", unit="USD", minimum=0.5, maximum=1000.0),
        ),
        key=Key(time="at"),
        target="close",
        features=("close",),
        steps=steps,
        monitored=(
            Monitored(name="close", column="close", transform="last_value"),
            Monitored(name="return", column="close", transform="last_log_return"),
        ),
    )


def build_pair_series() -> Contract:
    """Windows of 2 rows of `heat` and `load`, unbounded."""
    return Contract(
        model="pairs",
        description="pairs",
        kind="sequence",
        columns=(
            Column(name="at", dtype="time"),
            Column(name="heat", dtype="float"),
            Column(name="load", dtype="float"),
        ),
        key=Key(time="at"),
        target="load",
        features=("load", "heat"),
        steps=2,
    )


def build_table() -> Contract:
    """Rows of `width` (at least 0) and `height` (at most 10, in m), which are to give `area`."""
    return Contract(
        model="areas",
        description="areas",
        kind="tabular",
        columns=(
            Column(name="area", dtype="float"),
            Column(name="height", dtype="float", unit="m", maximum=10.0),
            Column(name="width", dtype="float", minimum=0.0),
        ),
        key=Key(),
        target="area",
        features=("width", "height"),
        monitored=(Monitored(name="height", column="height", transform="value"),),
    )
