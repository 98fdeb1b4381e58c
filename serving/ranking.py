"""Rankings: what is asked for in a path and its query, which of a model's items are answered, and the answer."""

from dataclasses import dataclass
from urllib.parse import parse_qsl
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from core.contract import Contract, Route
from core.errors import Fault, RequestRejected, show_value
from serving.answers import describe_version, fill, name_items
from serving.histories import History

DEFAULT_K = 10
_LONGEST_USER = 200
_LARGEST_ID = 2**63 - 1


@dataclass(frozen=True)
class Asked:
    """Whom to rank for, and how many items are wanted."""

    user: int | str
    k: int


@dataclass(frozen=True)
class Ranked:
    """Codes and scores of the answered items `(items,)`, best first.

    `is_personal` says that the model knew something that the user likes, `is_whole` that the user's history could be
    read to its end.
    """

    contract: Contract
    version: int
    codes: NDArray[np.int64]
    scores: NDArray[np.float32]
    is_personal: bool
    is_whole: bool
    prediction_id: UUID


def parse_ranking(contract: Contract, user: str, query: bytes) -> Asked:
    """The user, in the type of its column, and `k`, 10 by default; raises RequestRejected."""
    most = contract.ranking.most if contract.ranking else 0
    faults: list[Fault] = []
    given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    names = [name for name, _ in given]
    for name in sorted({name for name in names if name != "k" or names.count(name) > 1}):
        faults.append(Fault("query", show_value(name), "only k is known, once"))
    k = dict(given).get("k", str(min(DEFAULT_K, most)))
    if not (k.isascii() and k.isdigit() and len(k) <= len(str(most)) and 1 <= int(k) <= most):
        faults.append(Fault("k", show_value(k), f"a whole number from 1 to {most} is expected"))
    known: int | str = user
    if contract.column(contract.key.entity or "").dtype == "integer":
        digits = user.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) < len(str(_LARGEST_ID)):
            known = int(user)
        else:
            faults.append(Fault("user", show_value(user), "a whole number is expected"))
    elif len(user) > _LONGEST_USER or "\0" in user:
        faults.append(Fault("user", show_value(user), f"at most {_LONGEST_USER} plain characters are expected"))
    if faults:
        raise RequestRejected(contract.model, faults)
    return Asked(known, int(k))


def choose_items(
    contract: Contract, outputs: NDArray[np.float32], history: History, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The first `k` codes and scores of an answer `(2 · most,)` that the user does not have.

    The graph excludes what it was given; what of a long history did not fit into it is excluded here.
    """
    most = len(outputs) // 2
    codes, scores = outputs[:most].astype(np.int64), outputs[most:]
    names = contract.codes[contract.features[0]]
    has = [names.get(str(item), 0) for item in history.items]
    chosen = np.flatnonzero((codes > 0) & ~np.isin(codes, has))[:k]
    return codes[chosen], scores[chosen]


def knows_likes(contract: Contract, history: NDArray[np.float32]) -> bool:
    """Whether an input `(steps, 2)` has an item that the user likes."""
    liked_from = contract.ranking.liked_from if contract.ranking else 0.0
    return bool(((history[:, 0] > 0) & (history[:, 1] >= liked_from)).any())


def encode_ranking(ranked: Ranked, asked: Asked, route: Route) -> bytes:
    """The JSON answer of a documented route."""
    fields = describe_version(ranked.contract, ranked.version) | {
        "$user": asked.user,
        "$items": name_items(ranked.contract, ranked.codes, ranked.scores),
        "$source": "personal" if ranked.is_personal else "popular",
        "$history": "whole" if ranked.is_whole else "unavailable",
        "$prediction_id": ranked.prediction_id,
    }
    return fill(route, fields)
