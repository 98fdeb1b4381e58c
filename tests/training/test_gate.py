from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from core.contract import Column, Contract, Key, build_contract
from core.verdicts import Verdict
from training.gate import Evidence, Scores, judge
from workloads.declaration import GatePolicy

ROWS = 400
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
    targets: NDArray[np.float64], challenger: NDArray[np.float64], champion: NDArray[np.float64] | None
) -> Evidence:
    return Evidence(
        targets=targets,
        baseline=miss(targets, 2.0, seed=9),
        challenger=Scores(2, challenger),
        champion=None if champion is None else Scores(1, champion),
        parity=0.1,
        training_rows=1000,
        speaks_against_champion=False,
    )


def ask(contract: Contract, evidence: Evidence, policy: GatePolicy = POLICY) -> Verdict:
    return judge(contract, policy, evidence, seed=3)


def test_first_version_takes_production_on_data_sanity_parity_and_baseline(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    verdict = ask(contract, build_evidence(targets, miss(targets, 1.0), None))
    assert verdict.outcome == "promote"
    assert [check.name for check in verdict.checks] == ["data", "sanity", "parity", "baseline"]
    assert verdict.champion_version is None


def test_challenger_that_is_better_takes_production(contract: Contract, targets: NDArray[np.float64]) -> None:
    verdict = ask(contract, build_evidence(targets, miss(targets, 1.0), miss(targets, 1.5, seed=2)))
    assert verdict.outcome == "promote"
    champion = verdict.checks[-1]
    assert champion.name == "champion"
    assert champion.value is not None and 0.0 < champion.value <= 0.5


def test_promotion_keeps_champion_when_challenger_ties(contract: Contract, targets: NDArray[np.float64]) -> None:
    same = miss(targets, 1.0)
    verdict = ask(contract, build_evidence(targets, same, same))
    assert verdict.outcome == "keep"
    assert verdict.champion_version == 1


def test_promotion_keeps_champion_when_the_difference_may_be_chance(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    generator = np.random.default_rng(4)
    challenger = targets + generator.normal(0, 1.0, ROWS)
    champion = targets + generator.normal(0, 1.02, ROWS)
    assert ask(contract, build_evidence(targets, challenger, champion)).outcome == "keep"


def test_finding_against_the_champion_lets_a_challenger_pass_that_is_not_worse(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    evidence = build_evidence(targets, miss(targets, 1.001), miss(targets, 1.0))
    assert ask(contract, evidence).outcome == "keep"
    assert ask(contract, replace(evidence, speaks_against_champion=True)).outcome == "promote"


def test_tie_keeps_the_champion_though_a_finding_speaks_against_it(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    same = miss(targets, 1.0)
    evidence = replace(build_evidence(targets, same, same), speaks_against_champion=True)
    assert ask(contract, evidence).outcome == "keep"


@pytest.mark.parametrize(("metric", "worse_by", "outcome"), [("mae", 0.03, "keep"), ("rmse", 0.015, "promote")])
def test_non_inferiority_margin_is_a_share_of_the_error_itself(
    contract: Contract, targets: NDArray[np.float64], metric: str, worse_by: float, outcome: str
) -> None:
    evidence = build_evidence(targets, miss(targets, 1.0 + worse_by), miss(targets, 1.0))
    policy = replace(POLICY, metric=metric)
    assert ask(contract, replace(evidence, speaks_against_champion=True), policy).outcome == outcome


def test_finding_against_the_champion_does_not_let_a_worse_challenger_pass(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    evidence = build_evidence(targets, miss(targets, 1.5), miss(targets, 1.0, seed=2))
    assert ask(contract, replace(evidence, speaks_against_champion=True)).outcome == "keep"


def test_too_few_rows_are_insufficient_evidence(contract: Contract, targets: NDArray[np.float64]) -> None:
    few = targets[:99]
    verdict = ask(contract, build_evidence(few, miss(few, 0.1), miss(few, 1.5)))
    assert verdict.outcome == "insufficient_evidence"
    assert "99 hold-out rows" in verdict.reason


def test_no_row_at_all_is_insufficient_evidence(contract: Contract, targets: NDArray[np.float64]) -> None:
    none = targets[:0]
    assert ask(contract, build_evidence(none, none, none)).outcome == "insufficient_evidence"


def test_challenger_beyond_the_baseline_margin_is_refused_though_it_beats_the_champion(
    contract: Contract, targets: NDArray[np.float64]
) -> None:
    verdict = ask(contract, build_evidence(targets, miss(targets, 2.1), miss(targets, 4.0)))
    assert verdict.outcome == "refuse"
    assert "beyond the baseline's plus 2%" in verdict.reason


def test_challenger_within_the_baseline_margin_passes_it(contract: Contract, targets: NDArray[np.float64]) -> None:
    assert ask(contract, build_evidence(targets, miss(targets, 2.03), None)).outcome == "promote"


@pytest.mark.parametrize("fault", [np.nan, np.inf, -1.0, 2e6])
def test_a_prediction_that_is_not_finite_or_out_of_range_is_refused(
    contract: Contract, targets: NDArray[np.float64], fault: float
) -> None:
    challenger = miss(targets, 0.1)
    challenger[7] = fault
    verdict = ask(contract, build_evidence(targets, challenger, None))
    assert verdict.outcome == "refuse"
    assert "not finite or not within 0 to 1e+06" in verdict.reason


def test_a_constant_prediction_is_refused(contract: Contract, targets: NDArray[np.float64]) -> None:
    verdict = ask(contract, build_evidence(targets, np.full(ROWS, 100.0), None), replace(POLICY, baseline_margin=9.0))
    assert verdict.outcome == "refuse"
    assert "the same number" in verdict.reason


def test_a_challenger_without_parity_is_refused(contract: Contract, targets: NDArray[np.float64]) -> None:
    evidence = replace(build_evidence(targets, miss(targets, 0.1), None), parity=1.5)
    verdict = ask(contract, evidence)
    assert verdict.outcome == "refuse"
    assert [check.has_passed for check in verdict.checks if check.name == "parity"] == [False]


def test_equal_models_are_promoted_no_more_often_than_the_interval_allows(contract: Contract) -> None:
    promoted = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        targets = generator.normal(100.0, 5.0, 200)
        challenger, champion = (targets + generator.normal(0, 1.0, 200) for _ in range(2))
        evidence = build_evidence(targets, challenger, champion)
        promoted += ask(contract, evidence).outcome == "promote"
    # A two-sided 95 % interval leaves 2.5 % on this side; 12 of 200 is its upper 99.9 % limit.
    assert promoted <= 12


def test_the_seed_makes_the_verdict_repeatable(contract: Contract, targets: NDArray[np.float64]) -> None:
    evidence = build_evidence(targets, miss(targets, 1.0), miss(targets, 1.02, seed=2))
    assert ask(contract, evidence) == ask(contract, evidence)
