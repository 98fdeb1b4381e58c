"""NDCG@10 of workload `books` on real ratings, beside popularity and the ALS of the library `implicit`.

A fifth of the pairs of reader and book is held out by hash; ratings of 4 and 5 are what a reader liked. Ours fits to
three quarters and stops by a twentieth; ALS fits to both. Readers' ratings outside of the hold-out are known to all
three when they answer, and none answers what a reader has. `implicit` is no dependency of the platform: `make
bench-books` installs it into an environment of its own, where this file runs once more to fit ALS (`--als`).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FACTORS, REGULARISATION, ALPHA, ROUNDS = 64, 1.0, 5.0, 15
"""The best of a small search by hand: factors 32 to 128, regularisation 0.01 to 1, alpha 1 to 10."""


def fit_als(path: Path) -> None:
    """Read liked pairs from the file and write the users' and items' factors beside them."""
    from implicit.als import AlternatingLeastSquares  # type: ignore[import-not-found]  # In an environment of its own.
    from scipy.sparse import csr_matrix

    given = np.load(path)
    users, codes = given["users"], given["codes"]
    liked = csr_matrix((np.ones(len(users), dtype=np.float32), (users, codes)), shape=given["shape"])
    model = AlternatingLeastSquares(
        factors=FACTORS, regularization=REGULARISATION, alpha=ALPHA, iterations=ROUNDS, random_state=7
    )
    model.fit(liked, show_progress=False)
    np.savez(path, user_factors=model.user_factors, item_factors=model.item_factors)


def run(data: Path, als_python: Path) -> None:
    """Fit all three and print their figures."""
    from core.inference import OnnxModel
    from ingestion.reading import read_columns
    from training.export import export_onnx
    from training.fit import fit_model
    from training.kinds import get_kind
    from training.ranking import POPULARITY
    from workloads.catalogue import get_workload

    workload = get_workload("books")
    parameters = workload.resolve_parameters()
    declared = workload.build_contract(parameters)
    kind = get_kind(declared)
    columns = read_columns(declared, data, max_bytes=100_000_000)
    contract = kind.learn_contract(declared, columns, workload.split)
    parts = kind.split_columns(contract, columns, workload.split)
    holdout, most = parts.holdout, contract.outputs // 2
    print(f"{parts.train.rows} readers, {len(contract.vocabularies['book_id'])} books, {holdout.rows} to answer")

    started_at = time.perf_counter()
    fitted = fit_model(workload, contract, parameters, parts.train, parts.validation)
    print(f"fitted in {time.perf_counter() - started_at:.0f} s, best epoch {fitted.best_epoch}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(fitted.model, path)
        model = OnnxModel.load(path)
        size_mb = path.stat().st_size / 1e6
        pairs = Path(folder) / "pairs.npz"
        # Everything outside of the hold-out that was liked, users in the order of the hold-out's rows.
        users, places = np.nonzero((holdout.inputs[:, :, 0] > 0) & (holdout.inputs[:, :, 1] >= 4))
        codes = holdout.inputs[users, places, 0].astype(np.int64) - 1
        items = len(contract.vocabularies["book_id"])
        np.savez(pairs, users=users, codes=codes, shape=(holdout.rows, items))
        subprocess.run([als_python, __file__, "--als", str(pairs)], check=True)
        factors = np.load(pairs)
        scores = factors["user_factors"] @ factors["item_factors"].T
    answers = model.predict(holdout.inputs).astype(np.float64)
    times_ms = []
    for row in holdout.inputs[:200]:
        started_at = time.perf_counter()
        model.predict(row[None])
        times_ms.append((time.perf_counter() - started_at) * 1e3)
    print(f"{size_mb:.1f} MB of ONNX, one reader in {np.median(times_ms):.2f} ms")

    als = np.zeros_like(answers)
    for row, history in enumerate(holdout.inputs):
        scores[row, history[history[:, 0] > 0, 0].astype(np.int64) - 1] = -np.inf
        best = np.argsort(-scores[row])[:most]
        als[row] = [*(best + 1.0), *scores[row, best]]
    popular = kind.predict_baselines(contract, parts.train, holdout)[POPULARITY]
    figures = {}
    for name, given in (("popularity", popular), ("als", als), ("ours", answers)):
        measured = kind.measure(contract, holdout.targets, given)
        figures[name] = measured["ndcg_at_10"]
        print(name, " ".join(f"{metric}={value:.4f}" for metric, value in measured.items()))
    beside_popularity, beside_als = (figures["ours"] / figures[name] for name in ("popularity", "als"))
    print(
        f"ndcg_popularity={figures['popularity']:.4f} ndcg_als={figures['als']:.4f} ndcg_ours={figures['ours']:.4f} "
        f"ratio_popularity={beside_popularity:.3f} ratio_als={beside_als:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/book_ratings.csv"))
    parser.add_argument("--als-python", type=Path, help="a Python that has implicit")
    parser.add_argument("--als", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.als is not None:
        fit_als(given.als)
    elif not given.data.is_file():
        print(f"skipped: there is no {given.data}")
    else:
        run(given.data, given.als_python or Path(sys.executable))


if __name__ == "__main__":
    main()
