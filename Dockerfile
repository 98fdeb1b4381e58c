# One target per process: tracking, serving, control, worker, ingest. `docker build --target serving .`
# Each holds only the packages that its process needs, from its own hashed lock.

FROM python:3.11-slim AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    # The file system is read-only but for these two folders.
    HOME=/tmp \
    MILLRACE_HOME=/var/lib/millrace \
    # MLflow looks for git, which is not here.
    GIT_PYTHON_REFRESH=quiet \
    DO_NOT_TRACK=1
RUN groupadd --gid 10001 millrace \
    && useradd --uid 10001 --gid millrace --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin millrace \
    && install --directory --owner millrace --group millrace --mode 0700 /var/lib/millrace \
    && python -m venv /opt/venv
WORKDIR /app

# --- packages: the layer of a lock is built anew only when the lock changes ---------------------------------------

FROM base AS serving-packages
COPY deploy/requirements-serving.lock requirements.lock
RUN pip install --require-hashes --no-deps --requirement requirements.lock
COPY . .
RUN pip install --no-deps --no-build-isolation --no-index --editable .

FROM base AS control-packages
COPY deploy/requirements-control.lock requirements.lock
RUN pip install --require-hashes --no-deps --requirement requirements.lock
COPY . .
RUN pip install --no-deps --no-build-isolation --no-index --editable .

FROM base AS tracking-packages
COPY deploy/requirements-tracking.lock requirements.lock
RUN pip install --require-hashes --no-deps --requirement requirements.lock
COPY . .
RUN pip install --no-deps --no-build-isolation --no-index --editable .

FROM base AS worker-packages
COPY deploy/requirements-worker.lock requirements.lock
RUN pip install --require-hashes --no-deps --requirement requirements.lock
COPY . .
RUN pip install --no-deps --no-build-isolation --no-index --editable .

FROM base AS ingest-packages
COPY deploy/requirements-ingest.lock requirements.lock
RUN pip install --require-hashes --no-deps --requirement requirements.lock
COPY . .
RUN pip install --no-deps --no-build-isolation --no-index --editable .

# --- processes ---------------------------------------------------------------------------------------------------

FROM base AS serving
COPY --from=serving-packages /opt/venv /opt/venv
COPY --from=serving-packages /app /app
USER millrace
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 CMD ["python", "deploy/health.py", "serving"]
CMD ["millrace", "serve"]

FROM base AS control
COPY --from=control-packages /opt/venv /opt/venv
COPY --from=control-packages /app /app
USER millrace
EXPOSE 8001
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 CMD ["python", "deploy/health.py", "control"]
CMD ["millrace", "control"]

FROM base AS tracking
COPY --from=tracking-packages /opt/venv /opt/venv
COPY --from=tracking-packages /app /app
USER millrace
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=10s --start-period=120s --retries=3 CMD ["python", "deploy/health.py", "tracking"]
CMD ["millrace", "tracking"]

FROM base AS worker
COPY --from=worker-packages /opt/venv /opt/venv
COPY --from=worker-packages /app /app
USER millrace
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=3 CMD ["python", "deploy/health.py", "worker"]
CMD ["millrace", "work"]

FROM base AS ingest
COPY --from=ingest-packages /opt/venv /opt/venv
COPY --from=ingest-packages /app /app
USER millrace
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["python", "deploy/health.py", "ingest"]
CMD ["millrace", "ingest", "mqtt"]
