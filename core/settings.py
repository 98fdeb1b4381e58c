"""The one typed settings object, read from the environment and `.env`; unsafe values are refused at the start."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import SettingsRejected, show_value

Port = Annotated[int, Field(ge=1, le=65535)]
S3_SCHEME = "s3://"
MINIMUM_PASSWORD_CHARS = 12
MQTT_SCHEMES = ("mqtt", "mqtts")
DATABASE_SCHEMES = ("postgresql", "postgresql+psycopg")


class Settings(BaseSettings):
    """Every setting of every process.

    Each field is read from the environment variable in its `alias`, else from `.env`, else has the default below. A
    variable that is empty counts as not set. Fields are not read by their own names: `home` would then be HOME.
    """

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, allow_inf_nan=False
    )

    home: Path = Field(Path(".millrace"), alias="MILLRACE_HOME")
    """Folder of the embedded database, logs, journals and caches."""
    artifacts: str = Field("mlruns", alias="MILLRACE_ARTIFACTS")
    """Where MLflow's artifacts and the snapshots are kept: a local folder or `s3://bucket/prefix`."""
    database_url: SecretStr | None = Field(None, alias="DATABASE_URL")
    """PostgreSQL to use; without it the embedded server under `home` is."""
    mlflow_database_url: SecretStr | None = Field(None, alias="MLFLOW_DATABASE_URL")
    """MLflow's backend store; by default the database `mlflow` on the same server."""
    tracking_uri: str | None = Field(None, alias="MLFLOW_TRACKING_URI")
    """Address of the tracking server; by default this machine's `tracking_port`."""

    host: str = Field("127.0.0.1", alias="MILLRACE_HOST")
    """Address that serving, control and tracking listen on."""
    private_network: bool = Field(False, alias="MILLRACE_PRIVATE_NETWORK")
    """Says that `host` can be reached only from a private network (containers); without it only loopback is allowed."""
    serving_port: Port = Field(8000, alias="MILLRACE_SERVING_PORT")
    control_port: Port = Field(8001, alias="MILLRACE_CONTROL_PORT")
    tracking_port: Port = Field(5000, alias="MILLRACE_TRACKING_PORT")
    control_url: str | None = Field(None, alias="MILLRACE_CONTROL_URL")
    """Where serving forwards what it does not own; by default this machine's `control_port`."""

    mqtt_url: SecretStr | None = Field(None, alias="MILLRACE_MQTT_URL")
    """The MQTT broker: `mqtt://user:password@host:port`, with TLS `mqtts://`; else the embedded one."""
    mqtt_port: Port = Field(1883, alias="MILLRACE_MQTT_PORT")
    """Where `millrace up` lets its embedded broker listen."""
    mqtt_ca_file: Path | None = Field(None, alias="MILLRACE_MQTT_CA_FILE")
    """Certificates (PEM) that a broker with TLS is trusted by; by default those of the system."""
    mqtt_client_id: str = Field("millrace-ingest", alias="MILLRACE_MQTT_CLIENT_ID", pattern=r"^[0-9A-Za-z_.-]{1,64}$")
    """Under this name the broker keeps what the subscriber has not acknowledged: one running subscriber a name."""

    auto_train_on_startup: bool = Field(False, alias="AUTO_TRAIN_ON_STARTUP")
    """Train every workload that has data and no Production version when the worker starts."""
    sample_data: bool = Field(True, alias="MILLRACE_SAMPLE_DATA")
    """Whether `millrace up` brings in the sample data of workloads that have no observation yet."""
    project_backend: str = Field("local", alias="MILLRACE_PROJECT_BACKEND")
    """The MLflow Projects backend that trainings run on."""
    project_backend_config: Path | None = Field(None, alias="MILLRACE_PROJECT_BACKEND_CONFIG")
    training_attempts: int = Field(3, ge=1, le=10, alias="MILLRACE_TRAINING_ATTEMPTS")
    training_timeout_s: float = Field(6 * 3600.0, gt=0, alias="MILLRACE_TRAINING_TIMEOUT_S")
    worker_timeout_s: float = Field(30.0, ge=1, alias="MILLRACE_WORKER_TIMEOUT_S")
    """A worker without a heartbeat for this long is dead; its jobs are taken over."""

    tracking_allowed_hosts: str | None = Field(None, alias="MILLRACE_TRACKING_ALLOWED_HOSTS")
    """Host headers that the tracking server answers to beside this machine's own, with ports, commas between."""

    max_body_bytes: int = Field(16 * 2**20, gt=0, alias="MILLRACE_MAX_BODY_BYTES")
    """Largest body of a prediction request, and of rows as one JSON document."""
    invocations_model: str | None = Field(None, alias="MILLRACE_INVOCATIONS_MODEL")
    """The model that `/invocations` answers for, where several are served; MLflow's own clients cannot name one."""
    max_upload_bytes: int = Field(512 * 2**20, gt=0, alias="MILLRACE_MAX_UPLOAD_BYTES")
    """Largest file that an upload or an import may bring."""
    watch_folder: Path | None = Field(None, alias="MILLRACE_WATCH_FOLDER")
    """Folder whose sub-folders, one a model, the worker looks into for files to import."""
    pulls: str = Field("", alias="MILLRACE_PULLS")
    """Models whose declared sources the worker pulls by their schedule, commas between; without it none is."""
    pull_private: bool = Field(False, alias="MILLRACE_PULL_PRIVATE")
    """Whether addresses in private networks, this machine's own among them, may be pulled."""
    serving_workers: int = Field(1, ge=1, le=64, alias="MILLRACE_SERVING_WORKERS")
    """Processes that `millrace serve` answers with, on one port."""
    max_concurrent_requests: int = Field(256, ge=1, alias="MILLRACE_MAX_CONCURRENT_REQUESTS")
    """Predictions that one serving process reads or computes at once; beyond that it answers 429."""
    request_timeout_s: float = Field(30.0, gt=0, alias="MILLRACE_REQUEST_TIMEOUT_S")
    """How long a prediction may take, from its first byte to the end of its answer."""
    max_loaded_versions: int = Field(1000, ge=2, alias="MILLRACE_MAX_LOADED_VERSIONS")
    """Versions that one serving process holds in memory; beyond that the one used longest ago is unloaded."""
    max_loaded_bytes: int = Field(4 * 2**30, gt=0, alias="MILLRACE_MAX_LOADED_BYTES")
    """The same by the size of their files, which the memory of large models grows with."""
    version_cache_max_bytes: int = Field(10 * 2**30, gt=0, alias="MILLRACE_VERSION_CACHE_MAX_BYTES")
    """Size of the local cache of versions; what serves stays in it whatever the size."""
    journal_max_bytes: int = Field(2**30, gt=0, alias="MILLRACE_JOURNAL_MAX_BYTES")
    journal_fsync: bool = Field(False, alias="MILLRACE_JOURNAL_FSYNC")
    """Whether each journal write reaches the disk before the answer (survives power loss, costs milliseconds)."""
    follow_interval_s: float = Field(1.0, gt=0, le=2.0, alias="MILLRACE_FOLLOW_INTERVAL_S")
    """How often serving looks at the registry for transitions that the platform did not make."""

    prediction_days: int | None = Field(None, ge=1, alias="MILLRACE_PREDICTION_DAYS")
    """How long predictions are kept; without it for ever. Counts for monitoring stay."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", alias="MILLRACE_LOG_LEVEL")
    log_format: Literal["json", "text"] = Field("json", alias="MILLRACE_LOG_FORMAT")

    @field_validator("home", "watch_folder")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @field_validator("artifacts")
    @classmethod
    def _artifact_root(cls, value: str) -> str:
        if value.startswith(S3_SCHEME):
            if not urlsplit(value).netloc:
                raise ValueError("an S3 address needs a bucket, as in s3://bucket/prefix")
            return value.rstrip("/")
        if "://" in value:
            raise ValueError("allowed are a local folder or s3://bucket/prefix")
        return str(Path(value).expanduser().absolute())

    @field_validator("database_url", "mlflow_database_url")
    @classmethod
    def _postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        allowed = "allowed is postgresql://user:password@host:port/database, its password percent-encoded"
        try:
            parts = urlsplit(value.get_secret_value())
        except ValueError:
            # Its own words may show the password.
            raise ValueError(allowed) from None
        if parts.scheme not in DATABASE_SCHEMES:
            raise ValueError(allowed)
        query = parse_qs(parts.query)
        if "password" in query:
            raise ValueError(f"the password belongs before the host; {allowed}")
        hosts = [parts.hostname, *query.get("host", [])]
        is_local_socket = all(not host or host.startswith("/") for host in hosts)
        if not is_local_socket and len(unquote(parts.password or "")) < MINIMUM_PASSWORD_CHARS:
            raise ValueError(f"the password must have at least {MINIMUM_PASSWORD_CHARS} characters")
        return value

    @field_validator("mqtt_url")
    @classmethod
    def _mqtt(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        allowed = "allowed is mqtt://user:password@host:port or mqtts://…, the password percent-encoded"
        try:
            parts = urlsplit(value.get_secret_value())
            is_address = parts.scheme in MQTT_SCHEMES and bool(parts.hostname) and parts.port != 0
        except ValueError:
            # Its own words may show the password.
            raise ValueError(allowed) from None
        if not is_address or parts.path.strip("/") or parts.query:
            raise ValueError(allowed)
        return value

    @field_validator("tracking_uri", "control_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in ("http", "https"):
            raise ValueError("allowed is the http:// or https:// address of the server")
        return value.rstrip("/") if value else value

    @model_validator(mode="after")
    def _listen_privately(self) -> "Settings":
        if not self.private_network and not _is_loopback(self.host):
            raise ValueError(
                f"MILLRACE_HOST={self.host!r} would open the platform to the network while it has no accounts; "
                "allowed is a loopback address, or set MILLRACE_PRIVATE_NETWORK=true where the address can be "
                "reached only from a private network"
            )
        return self

    @model_validator(mode="after")
    def _own_ports(self) -> "Settings":
        ports = {
            "MILLRACE_SERVING_PORT": self.serving_port,
            "MILLRACE_CONTROL_PORT": self.control_port,
            "MILLRACE_TRACKING_PORT": self.tracking_port,
            "MILLRACE_MQTT_PORT": self.mqtt_port,
        }
        if len(set(ports.values())) < len(ports):
            shown = ", ".join(f"{name}={port}" for name, port in ports.items())
            raise ValueError(f"{shown}: each needs a port of its own")
        return self

    @property
    def tracking_address(self) -> str:
        return self.tracking_uri or self._build_address(self.tracking_port)

    @property
    def control_address(self) -> str:
        return self.control_url or self._build_address(self.control_port)

    @property
    def serving_address(self) -> str:
        return self._build_address(self.serving_port)

    def _build_address(self, port: int) -> str:
        """Where this machine reaches what listens on `host`."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def pulled_models(self) -> tuple[str, ...]:
        """The models named by `pulls`."""
        return tuple(name for part in self.pulls.split(",") if (name := part.strip()))

    @property
    def logs_folder(self) -> Path:
        return self.home / "logs"

    @property
    def journal_folder(self) -> Path:
        return self.home / "journal"

    @property
    def metrics_folder(self) -> Path:
        """Where several serving workers share their metrics."""
        return self.home / "metrics"

    @property
    def versions_folder(self) -> Path:
        """Local cache of model versions, one folder a version."""
        return self.home / "versions"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment and `.env`; `overrides` name fields and win.

    Raises SettingsRejected naming the variable, the value and what is allowed. Values of secrets are not shown.
    """
    try:
        return Settings.model_validate({str(Settings.model_fields[name].alias): overrides[name] for name in overrides})
    except ValidationError as error:
        raise SettingsRejected(" ".join(_word(fault) for fault in error.errors(include_url=False))) from None


def _word(fault: object) -> str:
    if not isinstance(fault, dict):
        raise TypeError(fault)
    name = ".".join(str(part) for part in fault["loc"])
    if not name:
        return f"{str(fault['msg']).removeprefix('Value error, ')}."
    is_secret = name.upper().endswith(("DATABASE_URL", "MQTT_URL"))
    value = "(hidden)" if is_secret else show_value(fault["input"])
    return f"Setting {name}={value} is refused: {str(fault['msg']).removeprefix('Value error, ')}."
