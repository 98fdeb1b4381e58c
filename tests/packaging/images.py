"""The Dockerfile as the tests read it: its stages, and what a container of each starts with."""

import json
import re
import shlex
from dataclasses import dataclass, field

from tests.packaging.locks import ROOT


@dataclass
class Stage:
    """One `FROM … AS name` and what its instructions say, those of the stage that it begins from included."""

    name: str
    image: str
    environment: dict[str, str] = field(default_factory=dict)
    instructions: list[tuple[str, str]] = field(default_factory=list)
    user: str = "root"
    command: list[str] | None = None
    health: list[str] | None = None


def read_stages() -> dict[str, Stage]:
    """Every stage of the Dockerfile by its name."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    for entry in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        keyword, _, rest = entry.partition(" ")
        if keyword == "FROM":
            origin, name = re.split(r"\s+AS\s+", rest.strip())
            base = stages.get(origin)
            stages[name] = Stage(name, base.image if base else origin, dict(base.environment) if base else {})
            continue
        stage = list(stages.values())[-1]
        stage.instructions.append((keyword, rest.strip()))
        match keyword:
            case "ENV":
                stage.environment |= dict(part.split("=", 1) for part in shlex.split(rest))
            case "USER":
                stage.user = rest.strip()
            case "CMD":
                stage.command = json.loads(rest)
            case "HEALTHCHECK":
                stage.health = json.loads(rest.partition("CMD")[2])
    return stages
