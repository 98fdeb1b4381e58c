"""Interactions as a snapshot's columns."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.contract import Column, Contract, Key, Monitored, Ranking


def build_contract(steps: int = 4, most: int = 3, items: Sequence[str] = ()) -> Contract:
    """Plays of songs by listeners; 4 stars are liked."""
    return Contract(
        model="songs",
        description="songs",
        kind="ranking",
        columns=(
            Column(name="listener", dtype="text"),
            Column(name="song", dtype="text"),
            Column(name="stars", dtype="integer", minimum=1, maximum=5),
            Column(name="at", dtype="time", is_nullable=True),
        ),
        key=Key(entity="listener"),
        target="stars",
        features=("song", "stars"),
        steps=steps,
        ranking=Ranking(liked_from=4, time="at", most=most),
        vocabularies={"song": tuple(items)} if items else {},
        monitored=(Monitored(name="mean_stars", column="stars", transform="mean_of_history"),),
    )


def build_columns(rows: Sequence[tuple[str, str, int]], times: Sequence[str] = ()) -> Mapping[str, NDArray[np.generic]]:
    """Listener, song and stars of each row, and its time where `times` has them."""
    columns: dict[str, NDArray[np.generic]] = {
        "listener": np.array([row[0] for row in rows], dtype=object),
        "song": np.array([row[1] for row in rows], dtype=object),
        "stars": np.array([row[2] for row in rows], dtype=np.int64),
    }
    given = [*times] or ["NaT"] * len(rows)
    columns["at"] = np.array(given, dtype="datetime64[us]")
    return columns


def read_interactions(path: Path) -> Mapping[str, NDArray[np.generic]]:
    """The columns of a CSV file of whole numbers, each `(rows,)`, as a snapshot gives them."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([int(row[name]) for row in rows], dtype=np.int64) for name in rows[0]}
