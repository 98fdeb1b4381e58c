"""Settings and logs of a command at a terminal."""

from core.logs import configure_logs
from core.settings import Settings, load_settings


def load_command_settings() -> Settings:
    """Settings of a command at a terminal: its logs are plain text, and warnings only unless asked for more."""
    settings = load_settings()
    quiet = {"log_format": "text", "log_level": "WARNING"}
    given = settings.model_fields_set
    configure_logs(settings.model_copy(update={k: v for k, v in quiet.items() if k not in given}), "millrace")
    return settings
