"""Reports over HTTP: real bytes from a real tracking server, kept apart from the site that shows them."""

from pathlib import Path

from core.findings import attach_report, store_finding
from tests.control.running import Controlled
from tests.control.test_findings import build_finding

_PAGE = "<!doctype html><meta charset=utf-8><title>drift</title><p>caf\u00e9 <script>document.title='ran'</script>"


def _store(tracked: Controlled, page: bytes, tmp_path: Path, uri_path: str | None = None) -> str:
    finding = build_finding()
    tracking = tracked.connections.tracking
    run_id = tracking.start_run("prices", None, {})
    path = tmp_path / "report.html"
    path.write_bytes(page)
    tracking.log_artifact(run_id, path, f"reports/{finding.id}")
    with tracked.connections.engine.begin() as connection:
        store_finding(connection, finding)
        attach_report(
            connection, finding.id, f"runs:/{run_id}/{uri_path or f'reports/{finding.id}/report.html'}", {"metrics": []}
        )
    return f"/models/prices/reports/{finding.id}"


def test_report_is_served_as_written_and_sandboxed(tracked: Controlled, tmp_path: Path) -> None:
    response = tracked.client.get(_store(tracked, _PAGE.encode(), tmp_path))
    assert response.status_code == 200
    assert response.content == _PAGE.encode()
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = [part.strip() for part in response.headers["content-security-policy"].split(";")]
    assert "sandbox allow-scripts" in policy
    assert "default-src 'none'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


def test_report_that_the_store_has_lost_is_not_found(tracked: Controlled, tmp_path: Path) -> None:
    for lost in ("reports/gone.html", "gone/report.html", "reports"):
        response = tracked.client.get(_store(tracked, b"x", tmp_path, uri_path=lost))
        assert response.status_code == 404, (lost, response.text)
        assert response.headers["content-type"] == "application/problem+json"


def test_report_of_a_run_that_is_gone_is_not_found(tracked: Controlled) -> None:
    finding = build_finding()
    with tracked.connections.engine.begin() as connection:
        store_finding(connection, finding)
        attach_report(connection, finding.id, f"runs:/{'0' * 32}/reports/report.html", {})
    response = tracked.client.get(f"/models/prices/reports/{finding.id}")
    assert response.status_code == 404
    assert response.json()["type"] == "/problems/report-not-found"
