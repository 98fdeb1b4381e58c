"""The one typed settings object, read from the environment and `.env`; unsafe values are refused at the start."""

import ipaddress
import re
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import SettingsRejected, show_value
from core.principals import Role
from core.schedules import parse_schedules

Port = Annotated[int, Field(ge=1, le=65535)]
S3_SCHEME = "s3://"
MINIMUM_PASSWORD_CHARS = 12
MQTT_SCHEMES = ("mqtt", "mqtts")
_SECRET_NAMES = ("DATABASE_URL", "MQTT_URL", "SMTP_URL", "WEBHOOK_URL", "SLACK_URL", "SECRET")
DATABASE_SCHEMES = ("postgresql", "postgresql+psycopg")


SMTP_SCHEMES = ("smtp", "smtps", "smtp+plain")
WEBHOOK_SECRET_PREFIX = "whsec_"  # noqa: S105  what such secrets begin with
_MINIMUM_WEBHOOK_SECRET_BYTES = 24
_MAIL_ADDRESS = r"^[^\s@,<>]{1,64}@[^\s@,<>]{1,255}$"


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
    """Address that serving listens on; control and tracking do only where it is loopback or a private network's."""
    private_network: bool = Field(False, alias="MILLRACE_PRIVATE_NETWORK")
    """Says that `host` can be reached from a private network (containers) alone; control and tracking listen there."""
    plain_http: bool = Field(False, alias="MILLRACE_PLAIN_HTTP")
    """Says that `host` may be reached from elsewhere over plain HTTP: a proxy with TLS stands before it, or passwords
    and tokens may be read on the way."""
    trusted_proxies: str = Field("127.0.0.1,::1", alias="MILLRACE_TRUSTED_PROXIES")
    """Addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are believed, commas between."""
    serving_port: Port = Field(8000, alias="MILLRACE_SERVING_PORT")
    control_port: Port = Field(8001, alias="MILLRACE_CONTROL_PORT")
    tracking_port: Port = Field(5000, alias="MILLRACE_TRACKING_PORT")
    control_url: str | None = Field(None, alias="MILLRACE_CONTROL_URL")
    """Where serving forwards what it does not own; by default this machine's `control_port`."""

    oidc_issuer: str | None = Field(None, alias="MILLRACE_OIDC_ISSUER")
    """OpenID Connect provider whose tokens are taken beside our own."""
    oidc_audience: str | None = Field(None, alias="MILLRACE_OIDC_AUDIENCE")
    """What its tokens must be meant for; needed with an issuer."""
    oidc_role_claim: str = Field("roles", alias="MILLRACE_OIDC_ROLE_CLAIM")
    """The claim with its names of roles; dots lead into claims (`realm_access.roles`)."""
    oidc_roles: str = Field("", alias="MILLRACE_OIDC_ROLES")
    """What it calls our roles: `viewer=NAME,operator=NAME,administrator=NAME`; without it as we do."""
    oidc_name_claim: str = Field("preferred_username", alias="MILLRACE_OIDC_NAME_CLAIM")
    """The claim that records name as the actor."""

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
    schedules: str = Field("", alias="MILLRACE_SCHEDULES")
    """When workloads are trained in place of their declared schedules: `books=0 3 * * * Europe/Berlin; prices=off`."""
    sample_data: bool = Field(True, alias="MILLRACE_SAMPLE_DATA")
    """Whether `millrace up` brings in the sample data of workloads that have no observation yet."""
    project_backend: str = Field("local", alias="MILLRACE_PROJECT_BACKEND")
    """The MLflow Projects backend that trainings run on."""
    project_backend_config: Path | None = Field(None, alias="MILLRACE_PROJECT_BACKEND_CONFIG")
    training_attempts: int = Field(3, ge=1, le=10, alias="MILLRACE_TRAINING_ATTEMPTS")
    """How often a training, and any other job, is begun before it has failed."""
    training_timeout_s: float = Field(6 * 3600.0, gt=0, alias="MILLRACE_TRAINING_TIMEOUT_S")
    """How long one attempt at a training may take; a workload may declare its own limit."""
    check_timeout_s: float = Field(1800.0, gt=0, alias="MILLRACE_CHECK_TIMEOUT_S")
    job_memory_max_bytes: int | None = Field(None, gt=0, alias="MILLRACE_JOB_MEMORY_MAX_BYTES")
    """Memory that all processes of one training or check may use together; without it what the machine has."""
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

    smtp_url: SecretStr | None = Field(None, alias="MILLRACE_SMTP_URL")
    """The mail server for alerts: `smtp://user:password@host:587` (STARTTLS), `smtps://…:465`, or without TLS and
    without a password `smtp+plain://host:25`."""
    smtp_ca_file: Path | None = Field(None, alias="MILLRACE_SMTP_CA_FILE")
    """Certificates (PEM) that the mail server is trusted by; by default those of the system."""
    alert_from: str = Field("millrace@localhost", alias="MILLRACE_ALERT_FROM", pattern=_MAIL_ADDRESS)
    alert_mail_to: str = Field("", alias="MILLRACE_ALERT_MAIL_TO")
    """Who gets alerts by mail, commas between."""
    alert_webhook_url: SecretStr | None = Field(None, alias="MILLRACE_ALERT_WEBHOOK_URL")
    alert_webhook_secret: SecretStr | None = Field(None, alias="MILLRACE_ALERT_WEBHOOK_SECRET")
    """What webhooks are signed with: `whsec_` and at least 24 bytes in base64."""
    alert_slack_url: SecretStr | None = Field(None, alias="MILLRACE_ALERT_SLACK_URL")
    """An incoming webhook of Slack, or of what takes the same (Mattermost, Rocket.Chat)."""
    public_url: str | None = Field(None, alias="MILLRACE_PUBLIC_URL")
    """Where people reach the platform, for links in messages; by default this machine's `serving_port`."""

    kept_versions: int = Field(20, ge=1, alias="MILLRACE_KEPT_VERSIONS")
    """Versions of a model that are kept, the newest; what serves or may be rolled back to is kept beside them."""
    run_days: int = Field(90, ge=1, alias="MILLRACE_RUN_DAYS")
    """How long runs without a version are kept, and snapshots that no kept run or version names."""
    report_days: int = Field(365, ge=1, alias="MILLRACE_REPORT_DAYS")
    """How long the pages of reports are kept; findings stay."""
    log_days: int = Field(90, ge=1, alias="MILLRACE_LOG_DAYS")
    """How long logs of trainings and searches are kept, and damaged segments of the journal."""
    source_days: int | None = Field(None, ge=1, alias="MILLRACE_SOURCE_DAYS")
    """How long the raw bytes of what was brought in are kept; without it for ever."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", alias="MILLRACE_LOG_LEVEL")
    log_format: Literal["json", "text"] = Field("json", alias="MILLRACE_LOG_FORMAT")

    @field_validator("home", "watch_folder")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @field_validator("schedules")
    @classmethod
    def _readable_schedules(cls, value: str) -> str:
        parse_schedules(value)
        return value

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

    @field_validator("smtp_url")
    @classmethod
    def _smtp(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        allowed = (
            "allowed are smtp://user:password@host:587, smtps://user:password@host:465 and smtp+plain://host:25, "
            "the last without a password"
        )
        try:
            parts = urlsplit(value.get_secret_value())
            is_address = parts.scheme in SMTP_SCHEMES and bool(parts.hostname) and parts.port != 0
        except ValueError:
            # Its own words may show the password.
            raise ValueError(allowed) from None
        has_secret = parts.scheme == "smtp+plain" and parts.password is not None
        if not is_address or has_secret or parts.path.strip("/") or parts.query:
            raise ValueError(allowed)
        return value

    @field_validator("alert_mail_to")
    @classmethod
    def _mail_addresses(cls, value: str) -> str:
        for address in filter(None, (part.strip() for part in value.split(","))):
            if not re.fullmatch(_MAIL_ADDRESS, address):
                raise ValueError(f"{show_value(address)} is no mail address; allowed are addresses with commas between")
        return value

    @field_validator("alert_webhook_url", "alert_slack_url")
    @classmethod
    def _webhook(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.match(r"https?://[^\s/?#@]+", value.get_secret_value()):
            raise ValueError("allowed is the http:// or https:// address of the receiver")
        return value

    @field_validator("alert_webhook_secret")
    @classmethod
    def _webhook_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        encoded = value.get_secret_value().removeprefix(WEBHOOK_SECRET_PREFIX)
        allowed = f"allowed is {WEBHOOK_SECRET_PREFIX} and at least {_MINIMUM_WEBHOOK_SECRET_BYTES} bytes in base64"
        try:
            decoded = b64decode(encoded, validate=True)
        except ValueError:
            raise ValueError(allowed) from None
        if len(decoded) < _MINIMUM_WEBHOOK_SECRET_BYTES or not value.get_secret_value().startswith(
            WEBHOOK_SECRET_PREFIX
        ):
            raise ValueError(allowed)
        return value

    @field_validator("tracking_uri", "control_url", "public_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in ("http", "https"):
            raise ValueError("allowed is the http:// or https:// address of the server")
        return value.rstrip("/") if value else value

    @field_validator("oidc_issuer")
    @classmethod
    def _issuer(cls, value: str | None) -> str | None:
        allowed = "allowed is the https:// address that the provider's tokens name, http:// on this machine alone"
        parts = urlsplit(value or "")
        if value is not None and (parts.query or parts.fragment or not parts.hostname):
            raise ValueError(allowed)
        if (
            value is not None
            and parts.scheme != "https"
            and not (parts.scheme == "http" and _is_loopback(parts.hostname or ""))
        ):
            raise ValueError(allowed)
        return value

    @field_validator("oidc_roles")
    @classmethod
    def _role_names(cls, value: str) -> str:
        parse_role_names(value)
        return value

    @model_validator(mode="after")
    def _provider(self) -> "Settings":
        if self.oidc_issuer is not None and not self.oidc_audience:
            raise ValueError(
                "MILLRACE_OIDC_ISSUER needs MILLRACE_OIDC_AUDIENCE: without it a token that was issued for any other "
                "application would be taken here"
            )
        return self

    @model_validator(mode="after")
    def _listen_privately(self) -> "Settings":
        if not self.private_network and not self.plain_http and not _is_loopback(self.host):
            raise ValueError(
                f"MILLRACE_HOST={self.host!r} would take passwords and tokens over plain HTTP, which can be read on "
                "the way; allowed is a loopback address with a proxy that speaks TLS before it. Set "
                "MILLRACE_PLAIN_HTTP=true where such a proxy is on another machine, or the way is safe; or "
                "MILLRACE_PRIVATE_NETWORK=true where the address can be reached only from a private network"
            )
        return self

    @model_validator(mode="after")
    def _signed_webhook(self) -> "Settings":
        if self.alert_webhook_url is not None and self.alert_webhook_secret is None:
            raise ValueError("MILLRACE_ALERT_WEBHOOK_URL needs MILLRACE_ALERT_WEBHOOK_SECRET, which it is signed with")
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
    def private_host(self) -> str:
        """Where control and tracking listen: never where others than this platform's processes could reach them."""
        return self.host if self.is_local or self.private_network else "127.0.0.1"

    @property
    def is_local(self) -> bool:
        """Whether this machine alone reaches the platform."""
        return _is_loopback(self.host)

    @property
    def oidc_role_names(self) -> Mapping[str, Role]:
        """Our roles by the provider's names for them."""
        return parse_role_names(self.oidc_roles)

    @property
    def tracking_address(self) -> str:
        return self.tracking_uri or _build_address(self.private_host, self.tracking_port)

    @property
    def control_address(self) -> str:
        return self.control_url or _build_address(self.private_host, self.control_port)

    @property
    def serving_address(self) -> str:
        return _build_address(self.host, self.serving_port)

    @property
    def public_address(self) -> str:
        return self.public_url or self.serving_address

    @property
    def mail_recipients(self) -> tuple[str, ...]:
        """The addresses in `alert_mail_to`."""
        return tuple(address for part in self.alert_mail_to.split(",") if (address := part.strip()))

    @property
    def pulled_models(self) -> tuple[str, ...]:
        """The models named by `pulls`."""
        return tuple(name for part in self.pulls.split(",") if (name := part.strip()))

    @property
    def training_schedules(self) -> Mapping[str, tuple[str, str] | None]:
        """By model the cron expression and time zone of `schedules`; None where it is turned off."""
        return parse_schedules(self.schedules)

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
    def known_tokens_file(self) -> Path:
        """Hashes of the valid tokens, for a start of serving with everything away."""
        return self.home / "tokens.json"

    @property
    def versions_folder(self) -> Path:
        """Local cache of model versions, one folder a version."""
        return self.home / "versions"


def _build_address(host: str, port: int) -> str:
    """Where this machine reaches what listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def parse_role_names(names: str) -> dict[str, Role]:
    """Our roles by a provider's names for them, from `viewer=NAME,…`; raises ValueError."""
    roles = {}
    for part in filter(None, (part.strip() for part in names.split(","))):
        ours, _, theirs = (word.strip() for word in part.partition("="))
        role = Role.find(ours)
        if role is None or not theirs:
            raise ValueError("allowed is viewer=NAME,operator=NAME,administrator=NAME")
        roles[theirs] = role
    return roles or {role.word: role for role in Role}


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
    is_secret = name.upper().endswith(_SECRET_NAMES)
    value = "(hidden)" if is_secret else show_value(fault["input"])
    return f"Setting {name}={value} is refused: {str(fault['msg']).removeprefix('Value error, ')}."
