"""Commands for monitoring."""

from typing import Annotated

import typer

from cli.actor import find_actor
from cli.output import JsonOption, console, print_json, print_table
from cli.session import platform_session
from core.findings import get_finding
from jobs.checking import run_check
from workloads.catalogue import get_workload


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(check)


def check(
    model: Annotated[str, typer.Argument(help="The model, as in `prices`.")], *, as_json: JsonOption = False
) -> None:
    """Compare what the Production version served lately with its training data, and act on it.

    Writes the report, stores the finding, and requests a training where the workload's policy says so.
    """
    workload = get_workload(model)
    with platform_session() as connections:
        found = run_check(connections, workload, actor=find_actor())
        with connections.engine.connect() as connection:
            finding = get_finding(connection, model, found.id)
        address = connections.settings.serving_address
    if as_json:
        print_json(finding)
        return
    console.print(f"{model} version {finding.version}: {finding.outcome}", style="bold")
    for reason in finding.reasons:
        console.print(f"  {reason}", markup=False)
    features = finding.measure["features"]
    if isinstance(features, list):
        print_table(
            f"{finding.rows} rows",
            ["feature", "statistic", "threshold", "effect (sd)", "drifted"],
            [[f["name"], f["statistic"], f["threshold"], f["effect"], f["is_drifted"]] for f in features],
        )
    console.print(f"Report: {address}/models/{model}/reports/{finding.id}", soft_wrap=True)
    if finding.training_id is not None:
        console.print(f"Training requested: {finding.training_id}")
