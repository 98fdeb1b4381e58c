"""One row of the 24x4 LSTM(32) over HTTP, one worker, everything on; FastAPI, MLflow and MLServer in the same run.

Last line: `p50_ms= p99_ms= req_per_s= echo_share= ratio_mlflow= ratio_mlserver=`. The first two are at 1 connection,
the third at 32, where the shares are taken too. Ours and the echo are measured in turns, and the medians compared,
because a machine that others use changes from one second to the next.
"""

import statistics

from benchmarks import load, peers
from benchmarks.load import Measured, build_body, measure
from benchmarks.platform import START_S, build_rows, ensure_model, running_platform, running_serving, wait_for
from core.promotion import promote

MODEL = "bench"
SECONDS = 5.0
ROUNDS = 3


def main() -> None:
    """Measure and print."""
    rows = build_rows(1)
    _, onnx_path = ensure_model()
    print(f"load: {load.GENERATOR}, {SECONDS:g} s a measurement", flush=True)
    with running_platform(MODEL, versions=1) as (connections, (version,)):
        promote(connections.engine, connections.registry, MODEL, version, actor="bench", cause="hand")
        settings = connections.settings
        with running_serving(settings, connections.database_url) as process:
            wait_for(f"{process.address}/health/ready", process.popen, until="version 1 serves", timeout_s=START_S)
            url = f"{process.address}/models/{MODEL}/predict"
            measure(url, build_body(rows[0]), connections=4, seconds=2)
            ones, echoes, ours = [], [], []
            with peers.running_echo() as echo:
                for _ in range(ROUNDS):
                    ones.append(
                        report("millrace, 1", measure(url, build_body(rows[0]), connections=1, seconds=SECONDS))
                    )
                    ours.append(
                        report("millrace, 32", measure(url, build_body(rows[0]), connections=32, seconds=SECONDS))
                    )
                    echoes.append(
                        report("echo, 32", measure(echo, build_body(rows[0]), connections=32, seconds=SECONDS))
                    )
        address = settings.tracking_address
        with peers.running_mlflow(f"models:/{MODEL}/{version}", address) as url:
            body = peers.build_mlflow_body(rows)
            report("mlflow, 1", measure(url, body, connections=1, seconds=SECONDS))
            mlflow = report("mlflow, 32", measure(url, body, connections=32, seconds=2 * SECONDS))
    mlserver = None
    with peers.running_mlserver(onnx_path) as found:
        if found is not None:
            body = peers.build_mlserver_body(rows)
            report("mlserver, 1", measure(found, body, connections=1, seconds=SECONDS))
            mlserver = report("mlserver, 32", measure(found, body, connections=32, seconds=SECONDS))
    req_per_s = statistics.median(measured.req_per_s for measured in ours)
    echo_share = req_per_s / statistics.median(measured.req_per_s for measured in echoes)
    ratio_mlserver = f"{req_per_s / mlserver.req_per_s:.1f}" if mlserver is not None else "absent"
    print(
        f"p50_ms={statistics.median(measured.p50_ms for measured in ones):.3f} "
        f"p99_ms={statistics.median(measured.p99_ms for measured in ones):.3f} "
        f"req_per_s={req_per_s:.0f} echo_share={echo_share:.3f} "
        f"ratio_mlflow={req_per_s / mlflow.req_per_s:.0f} ratio_mlserver={ratio_mlserver}"
    )


def report(name: str, measured: Measured) -> Measured:
    """Print one measurement; raises RuntimeError where a request failed."""
    print(
        f"{name:14} p50 {measured.p50_ms:8.3f} ms  p99 {measured.p99_ms:8.3f} ms  "
        f"{measured.req_per_s:8.1f} requests/s  failed {measured.failed}",
        flush=True,
    )
    if measured.failed:
        raise RuntimeError(f"{name}: {measured.failed} requests failed")
    return measured


if __name__ == "__main__":
    main()
