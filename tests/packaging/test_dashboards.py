"""Dashboards and alert rules name metrics that the platform exposes, and nothing else."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import yaml

from control.metrics import ModelCollector
from core.model_states import ModelState, SubjectState
from serving.metrics import Metrics
from tests.packaging.locks import ROOT

_OF_PROMETHEUS = {"up"}
_DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
_RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
# What is followed by a brace, a bracket, a comparison or an end, and is no function or label.
_NAME = re.compile(r"\b(up|[a-z][a-z_]{3,})\b(?!\s*\()")
_WORDS = {
    "model",
    "status",
    "kind",
    "subject",
    "severity",
    "state",
    "instance",
    "version",
    "outcome",
    "failed",
    "warning",
    "critical",
    "millrace",
    "serving",
    "control",
}


def _find_expressions() -> Iterator[tuple[str, str]]:
    for path in _DASHBOARDS:
        board = json.loads(path.read_text(encoding="utf-8"))
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
        for variable in board["templating"]["list"]:
            yield f"{path.stem}: {variable['name']}", variable["query"]["query"]
    for group in yaml.safe_load(_RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield f"rules: {rule['alert']}", rule["expr"]


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    """Names of every sample that serving and control expose once everything has happened."""
    metrics = Metrics()
    metrics.observe_request("prices", 200, 0.01)
    metrics.count_error("prices", "overloaded")
    metrics.observe_load("prices", 0.1)
    metrics.observe_swap("prices", 2, 1, 0.1)
    lines = metrics.render().decode().splitlines()
    names = {re.split(r"[{ ]", line, maxsplit=1)[0] for line in lines if not line.startswith("#")}
    now = datetime.now(UTC)
    state = ModelState(
        subjects={"drift": SubjectState(0.1, 0.2, 100, "fine", now)},
        rows_received_at=now,
        trained_at=now,
        promoted_at=now,
    )
    names |= {sample.name for family in ModelCollector({"prices": state}).collect() for sample in family.samples}
    return names | _OF_PROMETHEUS


@pytest.mark.parametrize(("place", "expression"), list(_find_expressions()))
def test_every_metric_that_is_named_is_exposed(place: str, expression: str, exposed: set[str]) -> None:
    without_texts = re.sub(r'"[^"]*"', '""', expression)
    named = set(_NAME.findall(without_texts)) - _WORDS
    assert named, f"{place} names no metric"
    assert named <= exposed


def test_every_metric_of_a_model_is_shown_or_watched(exposed: set[str]) -> None:
    everywhere = " ".join(expression for _, expression in _find_expressions())
    of_models = {name for name in exposed if name.startswith("millrace_")}
    unseen = {name for name in of_models if not re.search(rf"\b{re.sub('_(bucket|created)$', '', name)}", everywhere)}
    assert unseen == set()


def test_every_rule_has_one_severity_and_a_sentence() -> None:
    rules = [rule for group in yaml.safe_load(_RULES.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        is_of_expression = re.search(r"by \([^)]*\bseverity\b", rule["expr"]) is not None
        severity = rule.get("labels", {}).get("severity")
        # A label over that of the expression would make alerts of two severities one, which Prometheus refuses.
        assert (severity is None) if is_of_expression else (severity in ("info", "warning", "critical")), rule["alert"]
        assert rule["annotations"]["summary"].endswith(".")


def test_dashboards_ask_the_datasource_that_is_provisioned() -> None:
    path = ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    known = {source["uid"] for source in yaml.safe_load(path.read_text())["datasources"]}
    for path in _DASHBOARDS:
        board = json.loads(path.read_text(encoding="utf-8"))
        used = {target["datasource"]["uid"] for panel in board["panels"] for target in panel["targets"]}
        assert used <= known
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
