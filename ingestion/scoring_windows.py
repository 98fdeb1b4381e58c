"""Windows over rows that arrive in pieces: the last rows of each series are kept for the windows of the next piece."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from core.contract import Contract
from ingestion.faults import RowFault
from ingestion.scoring_rows import ScoringRows

_ORDER = "a series stands in the order of its time, each time once; sort the file"


@dataclass(frozen=True)
class ScoringInputs:
    """What the model is given: `inputs (n, *input_shape)`, and `rows (n,)`, the place of each one's last row.

    `faults` names rows that were left out.
    """

    inputs: NDArray[np.float32]
    rows: NDArray[np.int64]
    faults: tuple[RowFault, ...]


@dataclass(frozen=True)
class _Tail:
    """The last rows of one series: `values (kept, features)`; of each its time, and how many faults came before."""

    values: NDArray[np.float32]
    times_us: NDArray[np.int64]
    faults_before: NDArray[np.int64]


class WindowBuilder:
    """Builds the windows of `steps` rows of each entity that no missing step and no row that was left out breaks.

    A regular series (`step_s`) has a window where its steps follow each other; any other where its rows do.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._step_us = None if contract.step_s is None else round(contract.step_s * 1e6)
        self._tails: dict[object, _Tail] = {}
        self._faults_seen = 0

    def build(self, piece: ScoringRows) -> ScoringInputs:
        """The windows that end in this piece, in the order of the file."""
        contract = self._contract
        times = piece.keys[contract.key.time or ""].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
        faults: list[RowFault] = []
        windows: list[NDArray[np.float32]] = []
        ends: list[NDArray[np.int64]] = []
        faulty = np.array([fault.line for fault in piece.faults], dtype=np.int64)
        faults_before = self._faults_seen + np.searchsorted(faulty, piece.lines)
        self._faults_seen += len(faulty)
        for entity, places in self._group(piece):
            built, last, late = self._build_series(entity, places, piece.values, times, faults_before)
            windows.append(built)
            ends.append(last)
            faults += [
                RowFault(int(piece.lines[at]), contract.key.time or "", str(entity or ""), _ORDER) for at in late
            ]
        if not windows:
            return ScoringInputs(np.empty((0, *contract.input_shape), np.float32), np.empty(0, np.int64), ())
        rows = np.concatenate(ends)
        inputs = windows[0] if len(windows) == 1 else np.concatenate(windows)
        if len(windows) > 1:
            order = np.argsort(rows)
            rows, inputs = rows[order], inputs[order]
        return ScoringInputs(inputs, rows, tuple(faults))

    def _group(self, piece: ScoringRows) -> list[tuple[object, NDArray[np.int64]]]:
        """The rows of each entity in the piece, in its order."""
        entity = self._contract.key.entity
        everything = np.arange(len(piece.lines))
        if not len(everything):
            return []
        if entity is None:
            return [(None, everything)]
        encoded = piece.keys[entity].dictionary_encode()
        codes = encoded.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        names = encoded.dictionary.to_pylist()
        return [(names[codes[part[0]]], part) for part in np.split(order, starts[1:])]

    def _build_series(
        self,
        entity: object,
        places: NDArray[np.int64],
        given: NDArray[np.float32],
        times: NDArray[np.int64],
        faults_before: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Windows and last rows of one series, and the rows that come too late in the file."""
        steps, shape = self._contract.steps, self._contract.input_shape
        tail = self._tails.get(entity)
        if tail is None:
            none = np.empty(0, dtype=np.int64)
            tail = _Tail(np.empty((0, shape[1]), dtype=np.float32), none, none)
        latest_us = tail.times_us[-1] if len(tail.times_us) else np.iinfo(np.int64).min
        is_late = times[places] <= np.maximum.accumulate(np.append(latest_us, times[places]))[:-1]
        late, places = places[is_late], places[~is_late]
        kept = len(tail.times_us)
        values = np.concatenate([tail.values, given[places]])
        own_us = np.concatenate([tail.times_us, times[places]])
        marks = np.concatenate([tail.faults_before, faults_before[places]])
        is_start = np.ones(len(own_us), dtype=np.bool_)
        # A row that was left out shows in a regular series as a missing step; in any other nothing else tells of it.
        is_start[1:] = np.diff(marks) > 0 if self._step_us is None else np.diff(own_us) != self._step_us
        numbers = np.arange(len(own_us))
        run_starts = np.maximum.accumulate(np.where(is_start, numbers, 0))
        ends = np.flatnonzero((numbers - run_starts >= steps - 1) & (numbers >= kept))
        # One row at least, which says how far the series has come.
        first = max(len(own_us) - max(steps - 1, 1), 0)
        self._tails[entity] = _Tail(values[first:].copy(), own_us[first:], marks[first:])
        if not len(ends):
            return np.empty((0, *shape), dtype=np.float32), np.empty(0, dtype=np.int64), late
        view = np.moveaxis(sliding_window_view(values, steps, axis=0), -1, 1)
        return np.ascontiguousarray(view[ends - steps + 1]), places[ends - kept], late
