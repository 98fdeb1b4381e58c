"""Start of serving in the environment of its own lock: time to ready and memory, with 5 and with 500 cached models.

Last line: `start_s= rss_mb= rss500_mb=`. Ready is `GET /health/ready` with 200 and all five models served. Tracking
server and control are away, the database is there, the versions are in the cache. Memory is the proportional share
(PSS) of the process and its child, after one prediction of every model.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.load import build_body
from benchmarks.platform import (
    FOLDER,
    ROOT,
    Process,
    build_rows,
    fill_cache,
    find_free_port,
    make_token,
    started,
    wait_for,
)
from core.connections import open_connections
from core.local_platform import open_database
from core.settings import load_settings
from deploy.lock import find_image_lock

ROUNDS = 3


def main() -> None:
    """Measure and print."""
    python = ensure_serving_environment()
    few = sorted(measure_start(python, 5) for _ in range(ROUNDS))
    start_s, rss_mb = few[ROUNDS // 2]
    many_s, rss500_mb = measure_start(python, 500)
    print(f"5 models: {[round(seconds, 2) for seconds, _ in few]} s; 500 models: ready after {many_s:.1f} s")
    print(f"start_s={start_s:.2f} rss_mb={rss_mb:.0f} rss500_mb={rss500_mb:.0f}")


def ensure_serving_environment() -> Path:
    """The Python of an environment with what the serving lock names, made where it is missing."""
    folder = FOLDER / "serving"
    python = folder / "bin" / "python"
    lock = find_image_lock("serving")
    if not python.exists() or python.stat().st_mtime < lock.stat().st_mtime:
        print("making the environment of serving", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = ["install", "--quiet", "--require-hashes", "--no-deps", "-r", str(lock)]
        subprocess.run([str(python), "-m", "pip", *install], check=True)
    return python


def measure_start(python: Path, models: int) -> tuple[float, float]:
    """Seconds from the start of `millrace serve` to ready, and its megabytes."""
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as name:
        home = Path(name)
        home.chmod(0o755)
        port, away = find_free_port(), f"http://127.0.0.1:{find_free_port()}"
        settings = load_settings(home=home, serving_port=port, tracking_uri=away)
        names = [f"model_{number}" for number in range(models)]
        fill_cache(settings, names)
        with open_database(settings) as url, open_connections(settings, url) as connections:
            token = make_token(connections.engine)
            environment = os.environ | {
                "MILLRACE_HOME": str(home),
                "DATABASE_URL": url,
                "MLFLOW_TRACKING_URI": away,
                "MILLRACE_SERVING_PORT": str(port),
                "PYTHONPATH": str(ROOT),
            }
            started_s = time.perf_counter()
            with started([str(python), "-m", "cli.main", "serve"], environment, FOLDER / "start.log") as popen:
                process = Process(settings.serving_address, popen)
                wait_for(f"{process.address}/health/ready", popen, until=f'{names[-1]}","state":"ok"')
                took_s = time.perf_counter() - started_s
                body = build_body(build_rows(1)[0])
                with httpx.Client(base_url=process.address, headers={"Authorization": f"Bearer {token}"}) as client:
                    for model in names:
                        client.post(f"/models/{model}/predict", content=body).raise_for_status()
                time.sleep(5.0)
                return took_s, process.measure_rss_mb()


if __name__ == "__main__":
    main()
