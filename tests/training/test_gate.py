from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from core.bootstrap import choose_block_length
from core.contract import Column, Contract, Key, build_contract
from core.verdicts import Check, Verdict
from training.budget import Cost
from training.evaluation import compute_losses
from training.gate import Evidence, Scores, judge
from training.sanity import check_predictions, check_rows
from workloads.declaration import GatePolicy, Slice

ROWS = 400
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST_CHECKS = ["valid", "fresh", "rows", "sanity", "parity", "latency", "size", "baseline"]
POLICY = GatePolicy(metric="mae", baseline_margin=0.02, non_inferiority_margin=0.02, minimum_rows=100)


@pytest.fixture
def contract() -> Contract:
    return build_contract(
        "levels",
        description="a series",
        kind="sequence",
        columns=(Column(name="at", dtype="time"), Column(name="level", dtype="float", minimum=0.0, maximum=1e6)),
        key=Key(time="at"),
        target="level",
        features=("level",),
        steps=5,
    )


@pytest.fixture
def targets() -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(100.0, 5.0, ROWS)


def miss(targets: NDArray[np.float64], size: float, seed: int = 1) -> NDArray[np.float64]:
    """Predictions with a mean absolute error of about `size`."""
    return np.asarray(targets + size * np.random.default_rng(seed).choice([-1.0, 1.0], len(targets)))


def build_evidence(
    contract: Contract,
    targets: NDArray[np.float64],
    challenger: NDArray[np.float64],
    champion: NDArray[np.float64] | None,
    metric: str = "mae",
) -> Evidence:
    def lose(predictions: NDArray[np.float64]) -> NDArray[np.float64]:
        return compute_losses(contract, metric, targets[:, None], predictions[:, None])

    keys = np.arange(len(targets)).astype(np.str_)
    return Evidence(
        validity=Check("valid", True, 1.0, 1.0, "every row is valid"),
        newest_at=NOW - timedelta(hours=10),
        judged_at=NOW,
        baseline_name="persistence",
        baseline=lose(miss(targets, 2.0, seed=9)),
        challenger=Scores(2, keys, lose(challenger)),
        champion=None if champion is None else Scores(1, keys, lose(champion)),
        sanity=check_predictions(contract, targets[:, None], challenger[:, None]),
        cost=Cost(latency_ms=1.0, size_mb=2.0),
        slices=[],
        block_length=choose_block_length(len(targets)),
        parity=0.1,
        training_rows=1000,
        speaks_against_champion=False,
    )


def ask(contract: Contract, evidence: Evidence, policy: GatePolicy = POLICY) -> Verdict:
    return judge(contract.model, policy, evidence, seed=3)


def test_first_version_takes_production_on_every_check_but_those_of_a_champion(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    verdict = ask(contract, build_evidence(contract, targets, miss(targets, 1.0), None))
    assert verdict.outcome == "promote"
    assert [check.name for check in verdict.checks] == FIRST_CHECKS
    assert verdict.champion_version is None


def test_challenger_that_is_better_takes_production(contract: Contract, targets: NDArray[np.float64]) -> None:
    verdict = ask(contract, build_evidence(contract, targets, miss(targets, 1.0), miss(targets, 1.5, seed=2)))
    assert verdict.outcome == "promote"
    champion = verdict.checks[-1]
    assert champion.name == "champion"
    assert champion.value is not None and 0.0 < champion.value <= 0.5


def test_promotion_keeps_champion_when_challenger_ties(contract: Contract, targets: NDArray[np.float64]) -> None:
    same = miss(targets, 1.0)
    verdict = ask(contract, build_evidence(contract, targets, same, same))
    assert verdict.outcome == "keep"
    assert verdict.champion_version == 1


def test_promotion_keeps_champion_when_the_difference_may_be_chance(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    generator = np.random.default_rng(4)
    challenger = targets + generator.normal(0, 1.0, ROWS)
    champion = targets + generator.normal(0, 1.02, ROWS)
    assert ask(contract, build_evidence(contract, targets, challenger, champion)).outcome == "keep"


def test_finding_against_the_champion_lets_a_challenger_pass_that_is_not_worse(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    evidence = build_evidence(contract, targets, miss(targets, 1.001), miss(targets, 1.0))
    assert ask(contract, evidence).outcome == "keep"
    assert ask(contract, replace(evidence, speaks_against_champion=True)).outcome == "promote"


def test_tie_keeps_the_champion_though_a_finding_speaks_against_it(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    same = miss(targets, 1.0)
    evidence = replace(build_evidence(contract, targets, same, same), speaks_against_champion=True)
    assert ask(contract, evidence).outcome == "keep"


@pytest.mark.parametrize(("metric", "worse_by", "outcome"), [("mae", 0.03, "keep"), ("rmse", 0.015, "promote")])
def test_non_inferiority_margin_is_a_share_of_the_error_itself(
    contract: Contract, targets: NDArray[np.float64], metric: str, worse_by: float, outcome: str
) -> None:
    evidence = build_evidence(contract, targets, miss(targets, 1.0 + worse_by), miss(targets, 1.0), metric)
    policy = replace(POLICY, metric=metric)
    assert ask(contract, replace(evidence, speaks_against_champion=True), policy).outcome == outcome


def test_finding_against_the_champion_does_not_let_a_worse_challenger_pass(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    evidence = build_evidence(contract, targets, miss(targets, 1.5), miss(targets, 1.0, seed=2))
    assert ask(contract, replace(evidence, speaks_against_champion=True)).outcome == "keep"


def test_too_few_rows_are_insufficient_evidence(contract: Contract, targets: NDArray[np.float64]) -> None:
    few = targets[:99]
    verdict = ask(contract, build_evidence(contract, few, miss(few, 0.1), miss(few, 1.5)))
    assert verdict.outcome == "insufficient_evidence"
    assert "99 hold-out rows" in verdict.reason


def test_no_row_at_all_is_insufficient_evidence(contract: Contract, targets: NDArray[np.float64]) -> None:
    none = targets[:0]
    assert ask(contract, build_evidence(contract, none, none, none)).outcome == "insufficient_evidence"


def test_challenger_beyond_the_baseline_margin_is_refused_though_it_beats_the_champion(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    verdict = ask(contract, build_evidence(contract, targets, miss(targets, 2.1), miss(targets, 4.0)))
    assert verdict.outcome == "refuse"
    assert "beyond the baseline's plus 2%" in verdict.reason


def test_challenger_within_the_baseline_margin_passes_it(contract: Contract, targets: NDArray[np.float64]) -> None:
    assert ask(contract, build_evidence(contract, targets, miss(targets, 2.03), None)).outcome == "promote"


@pytest.mark.parametrize("fault", [np.nan, np.inf, -1.0, 2e6])
def test_a_prediction_that_is_not_finite_or_out_of_range_is_refused(
    contract: Contract, targets: NDArray[np.float64], fault: float
) -> None:
    challenger = miss(targets, 0.1)
    challenger[7] = fault
    verdict = ask(contract, build_evidence(contract, targets, challenger, None))
    assert verdict.outcome == "refuse"
    assert "not finite or not within 0 to 1e+06" in verdict.reason


def test_a_constant_prediction_is_refused(contract: Contract, targets: NDArray[np.float64]) -> None:
    verdict = ask(
        contract, build_evidence(contract, targets, np.full(ROWS, 100.0), None), replace(POLICY, baseline_margin=9.0)
    )
    assert verdict.outcome == "refuse"
    assert "the same number" in verdict.reason


def test_a_challenger_without_parity_is_refused(contract: Contract, targets: NDArray[np.float64]) -> None:
    evidence = replace(build_evidence(contract, targets, miss(targets, 0.1), None), parity=1.5)
    verdict = ask(contract, evidence)
    assert verdict.outcome == "refuse"
    assert [check.has_passed for check in verdict.checks if check.name == "parity"] == [False]


def test_equal_models_are_promoted_no_more_often_than_the_interval_allows(contract: Contract) -> None:
    promoted = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        targets = generator.normal(100.0, 5.0, 200)
        challenger, champion = (targets + generator.normal(0, 1.0, 200) for _ in range(2))
        evidence = build_evidence(contract, targets, challenger, champion)
        promoted += ask(contract, evidence).outcome == "promote"
    # A two-sided 95 % interval leaves 2.5 % on this side; 12 of 200 is its upper 99.9 % limit.
    assert promoted <= 12


def test_the_seed_makes_the_verdict_repeatable(contract: Contract, targets: NDArray[np.float64]) -> None:
    evidence = build_evidence(contract, targets, miss(targets, 1.0), miss(targets, 1.02, seed=2))
    assert ask(contract, evidence) == ask(contract, evidence)


# --- data, budgets, slices ---------------------------------------------------------------------------------------


def get_check(verdict: Verdict, name: str) -> Check:
    return next(check for check in verdict.checks if check.name == name)


@pytest.mark.parametrize(("limit_h", "outcome"), [(9.9, "refuse"), (10.0, "promote"), (None, "promote")])
def test_data_older_than_the_declared_limit_is_refused(
    contract: Contract, targets: NDArray[np.float64], limit_h: float | None, outcome: str
) -> None:
    evidence = build_evidence(contract, targets, miss(targets, 1.0), None)
    verdict = ask(contract, evidence, replace(POLICY, maximum_age_h=limit_h))
    assert verdict.outcome == outcome
    fresh = get_check(verdict, "fresh")
    assert fresh.value == pytest.approx(10.0)
    assert fresh.threshold == limit_h


def test_rows_that_the_contract_refuses_are_refused_though_the_model_is_good(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    levels = targets.copy()
    levels[3] = -5.0
    levels[4] = np.nan
    times = np.arange(ROWS).astype("datetime64[D]").astype("datetime64[us]")
    check = check_rows(contract, {"at": times, "level": levels})
    assert not check.has_passed
    assert check.value == pytest.approx(1 - 2 / ROWS)
    assert "level" in check.reason
    assert check_rows(contract, {"at": times, "level": targets}).has_passed
    evidence = replace(build_evidence(contract, targets, miss(targets, 1.0), None), validity=check)
    assert ask(contract, evidence).outcome == "refuse"


@pytest.mark.parametrize(
    ("cost", "failing"), [(Cost(51.0, 2.0), "latency"), (Cost(1.0, 300.0), "size"), (Cost(49.0, 255.0), None)]
)
def test_version_beyond_its_budget_is_refused(
    contract: Contract, targets: NDArray[np.float64], cost: Cost, failing: str | None
) -> None:
    verdict = ask(contract, replace(build_evidence(contract, targets, miss(targets, 1.0), None), cost=cost))
    assert [check.name for check in verdict.checks if not check.has_passed] == ([failing] if failing else [])
    assert verdict.outcome == ("refuse" if failing else "promote")


def test_versions_scored_on_different_rows_are_not_compared(contract: Contract, targets: NDArray[np.float64]) -> None:
    evidence = build_evidence(contract, targets, miss(targets, 1.0), miss(targets, 1.5, seed=2))
    champion = evidence.champion
    assert champion is not None
    other = replace(champion, keys=np.roll(champion.keys, 1))
    verdict = ask(contract, replace(evidence, champion=other))
    assert verdict.outcome == "refuse"
    assert not get_check(verdict, "same_holdout").has_passed


def judge_on_slice(
    contract: Contract, targets: NDArray[np.float64], rows_in: int, worse: float, margin: float = 0.1
) -> Verdict:
    """A challenger that is better than the champion, but `worse` times as bad on the first `rows_in` rows."""
    challenger, champion = miss(targets, 1.0), miss(targets, 1.5, seed=2)
    rows = np.arange(ROWS) < rows_in
    challenger[rows] = targets[rows] + worse * (champion - targets)[rows]
    one = Slice("early", "level", maximum=1.0, margin=margin, minimum_rows=30)
    evidence = build_evidence(contract, targets, challenger, champion)
    return ask(contract, replace(evidence, slices=[(one, rows)]))


def test_challenger_that_is_better_but_worse_on_a_slice_keeps_the_champion(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    verdict = judge_on_slice(contract, targets, 60, 1.3)
    assert get_check(verdict, "champion").has_passed
    assert verdict.outcome == "keep"
    check = get_check(verdict, "slice early")
    assert not check.has_passed
    assert check.threshold == pytest.approx(-0.15, rel=0.02)
    assert check.reason == verdict.reason


@pytest.mark.parametrize(("rows_in", "worse", "margin"), [(60, 1.05, 0.1), (60, 1.3, 0.5), (29, 3.0, 0.1)])
def test_slice_within_its_margin_or_with_too_few_rows_does_not_stop_a_better_challenger(
    contract: Contract, targets: NDArray[np.float64], rows_in: int, worse: float, margin: float
) -> None:
    verdict = judge_on_slice(contract, targets, rows_in, worse, margin)
    assert verdict.outcome == "promote"
    assert get_check(verdict, "slice early").has_passed


def test_every_check_keeps_value_and_threshold_or_says_why_it_has_none(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    for check in judge_on_slice(contract, targets, 60, 1.0).checks:
        assert check.reason
        if check.name != "fresh":
            assert check.value is not None and check.threshold is not None, check
