"""Parts of a snapshot: what a model is fitted to, stopped by and judged on, whatever the workload's kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from core.contract import Contract
from core.data_errors import SnapshotRejected
from workloads.declaration import SplitPolicy

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]
Columns = Mapping[str, NDArray[np.generic]]
"""A snapshot's columns, each `(rows,)`, ordered by the workload's key."""

_HASH_BYTES = 8


@dataclass(frozen=True)
class Part:
    """Rows of one part, as the model takes them.

    `inputs` is `(rows, …input_shape)` float32 in raw units, `targets` `(rows, outputs)` float64: values in the
    target's unit, 0 or 1 for two classes, one of `classes` set to 1 for more. `keys` `(rows,)` text names each row;
    the same row has the same key in every snapshot. `times` and `ends` `(rows,)` datetime64[us] UTC are those of a
    row's first and last target, None where rows have no time; `entities` `(rows,)` text, None where there are none.
    `places` `(rows,)`, from 0 to 1, are what a cut by hash goes by where that is not the row's own key.
    `naive` holds predictions `(rows, outputs)` that need no training, by the name of their baseline.
    """

    inputs: NDArray[np.float32]
    targets: FloatArray
    keys: NDArray[np.str_]
    times: NDArray[np.datetime64] | None = None
    ends: NDArray[np.datetime64] | None = None
    entities: NDArray[np.str_] | None = None
    places: FloatArray | None = None
    naive: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.targets)

    def take(self, chosen: Mask | NDArray[np.int64] | slice) -> "Part":
        """The chosen rows, in their order."""
        return Part(
            inputs=self.inputs[chosen],
            targets=self.targets[chosen],
            keys=self.keys[chosen],
            times=None if self.times is None else self.times[chosen],
            ends=None if self.ends is None else self.ends[chosen],
            entities=None if self.entities is None else self.entities[chosen],
            places=None if self.places is None else self.places[chosen],
            naive={name: values[chosen] for name, values in self.naive.items()},
        )

    def describe(self) -> dict[str, object]:
        """Rows, and the first and last time of a target where there is one, as JSON takes them."""
        if self.times is None or self.ends is None or not self.rows:
            return {"rows": self.rows}
        return {"rows": self.rows, "first_at": str(self.times.min()), "last_at": str(self.ends.max())}


@dataclass(frozen=True)
class Parts:
    """Training, validation and hold-out part, in this order in time where there is one; no row is in two of them."""

    train: Part
    validation: Part
    holdout: Part


@dataclass(frozen=True)
class Seen:
    """What a version's training looked at, to stop it too.

    With time it is every row to `until`; without, every row but those whose hash lies in the first `holdout_share`.
    """

    until: np.datetime64 | None = None
    holdout_share: float = 0.0

    def join(self, other: "Seen") -> "Seen":
        """What either looked at."""
        untils = [until for until in (self.until, other.until) if until is not None]
        return Seen(max(untils, default=None), min(self.holdout_share, other.holdout_share))

    def to_document(self) -> dict[str, object]:
        """As it stands in a version's `evaluation.json`."""
        return {
            "trained_until": None if self.until is None else str(self.until),
            "holdout_share": self.holdout_share,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, object]) -> "Seen":
        """From a version's `evaluation.json`."""
        until = document["trained_until"]
        return cls(
            None if until is None else np.datetime64(str(until), "us"), float(str(document.get("holdout_share", 0.0)))
        )


def describe_seen(parts: Parts, holdout_share: float) -> Seen:
    """What a training on those parts looks at."""
    ends = parts.validation.ends
    return Seen(None, holdout_share) if ends is None else Seen(ends.max())


def find_unseen(part: Part, seen: Seen) -> Mask:
    """Which rows `(rows,)` of the part a version that has looked at `seen` has not."""
    if part.times is None:
        places = hash_keys(part.keys) if part.places is None else part.places
        return np.asarray(places < seen.holdout_share)
    if seen.until is None:
        return np.zeros(part.rows, dtype=np.bool_)
    return np.asarray(part.times > seen.until)


def cut_by_time(part: Part, validation_from: np.datetime64, holdout_from: np.datetime64) -> Parts:
    """Cut by the times of targets: before `validation_from`, from it to before `holdout_from`, and the rest.

    A row whose targets lie on both sides of a border belongs to no part. `part` has times.
    """
    times, ends = part.times, part.ends
    if times is None or ends is None:
        raise ValueError("the part has no times")
    return Parts(
        part.take(np.asarray(ends < validation_from)),
        part.take(np.asarray((times >= validation_from) & (ends < holdout_from))),
        part.take(np.asarray(times >= holdout_from)),
    )


def cut_by_hash(part: Part, policy: SplitPolicy) -> Parts:
    """Cut by the hash of the key: from `start` on `holdout_share` of its range, then `validation_share`, the rest
    trains; after the end of the range comes its beginning.

    A row lies in the same part whatever rows are added or taken away.
    """
    place = place_keys(part.keys, policy)
    is_holdout = place < policy.holdout_share
    is_validation = ~is_holdout & (place < policy.holdout_share + policy.validation_share)
    return Parts(part.take(~is_holdout & ~is_validation), part.take(is_validation), part.take(is_holdout))


def place_keys(keys: NDArray[np.str_], policy: SplitPolicy) -> FloatArray:
    """Each key's place `(rows,)` in the range that the policy cuts: hold-out, validation, training."""
    return (hash_keys(keys) - policy.start) % 1.0


def hash_keys(keys: NDArray[np.str_]) -> FloatArray:
    """Each key's place `(rows,)` in 0 to 1, evenly spread and always the same (BLAKE2b)."""
    digests = b"".join(blake2b(str(key).encode(), digest_size=_HASH_BYTES).digest() for key in keys)
    return np.frombuffer(digests, dtype=">u8").astype(np.float64) / 2.0 ** (8 * _HASH_BYTES)


def find_borders(
    times: NDArray[np.datetime64], validation_share: float, holdout_share: float
) -> tuple[np.datetime64, np.datetime64] | None:
    """The first times of the validation and of the hold-out part, by shares of the rows `times` `(rows,)`.

    None where a part would have no row.
    """
    ordered = np.sort(times)
    holdout, validation = int(len(ordered) * holdout_share), int(len(ordered) * validation_share)
    if min(holdout, validation, len(ordered) - holdout - validation) < 1:
        return None
    return ordered[-holdout - validation], ordered[-holdout]


def check_parts(contract: Contract, parts: Parts, what: str) -> Parts:
    """The parts, where each has a row; else raises SnapshotRejected with `what` there is, in words."""
    if min(parts.train.rows, parts.validation.rows, parts.holdout.rows) < 1:
        raise refuse_parts(contract, what)
    return parts


def refuse_parts(contract: Contract, what: str) -> SnapshotRejected:
    """The error for a snapshot with too few rows to be cut."""
    return SnapshotRejected(
        contract.model, f"{what} are too few for a training, a validation and a hold-out part; import more rows"
    )
