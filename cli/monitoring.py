"""Commands for monitoring."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from cli.actor import find_actor
from cli.output import JsonOption, console, print_json, print_table
from cli.session import platform_session
from core.connections import Connections
from core.contracts import load_contract
from core.errors import ReportNotFound
from core.findings import Finding, get_finding, load_findings
from core.names import check_name
from jobs.checking import run_check
from monitoring.page import frame_page
from workloads.catalogue import get_workload

_MAX_REPORT_BYTES = 64 * 2**20


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(check)
    app.command()(report)


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
    if finding.report_uri is not None:
        console.print(f"Report: {address}/models/{model}/reports/{finding.id}", soft_wrap=True)
    if finding.training_id is not None:
        console.print(f"Training: {finding.training_id}")


def report(
    model: Annotated[str, typer.Argument(help="The model, as in `prices`.")],
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write the page.")] = None,
    is_opened: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Fetch the newest report of the model as a page that needs nothing else."""
    with platform_session(is_reading=True) as connections:
        finding = _find_reported(connections, model)
        if finding is None or finding.report_uri is None:
            raise ReportNotFound(model, "the newest")
        run_id, _, path = finding.report_uri.removeprefix("runs:/").partition("/")
        content = connections.tracking.find_artifact(run_id, path, _MAX_REPORT_BYTES)
        if content is None:
            raise ReportNotFound(model, str(finding.id))
        target = output or connections.settings.home / "reports" / f"{model}-{finding.id}.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(frame_page(f"{model}: report of {finding.found_at:%Y-%m-%d %H:%M} UTC", content.decode()))
    console.print(f"{model} version {finding.version}, {finding.found_at:%Y-%m-%d %H:%M} UTC: {finding.outcome}")
    console.print(str(target), soft_wrap=True, markup=False)
    if is_opened and not webbrowser.open(target.absolute().as_uri()):
        console.print("No browser was found; open the file yourself.")


def _find_reported(connections: Connections, model: str) -> Finding | None:
    with connections.engine.connect() as connection:
        load_contract(connection, check_name("model", model))
        return next(iter(load_findings(connection, model, has_report=True, limit=1)), None)
