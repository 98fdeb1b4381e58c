"""A registry in a folder, with the interface that serving uses of the real one. It stands for the outside network."""

import json
import os
import shutil
import time
from pathlib import Path

from core.errors import ModelVersionNotFound, TrackingUnavailable
from tests.serving.onnx_models import STEPS, Answers, build_contract, write_version


class FolderRegistry:
    """Versions are folders `<model>/<version>`, Production is a file; any process may read and write it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # --- what serving uses ---------------------------------------------------------------------------------------

    def load_production_versions(self) -> dict[str, int]:
        self._check("tracking")
        path = self.folder / "production.json"
        production: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        return production

    def download(self, model: str, version: int, folder: Path) -> None:
        self._check("tracking")
        self._check("artifacts")
        while (self.folder / f"{model}.stalled").exists():
            time.sleep(0.02)
        source = self.folder / model / str(version)
        if not source.is_dir():
            raise ModelVersionNotFound(model, str(version), sorted(p.name for p in source.parent.glob("[0-9]*")))
        shutil.copytree(source, folder, dirs_exist_ok=True)

    # --- what tests do to it -------------------------------------------------------------------------------------

    def add(self, model: str, version: int, *, answers: Answers, steps: int = STEPS) -> None:
        write_version(self.folder / model / str(version), build_contract(model, steps), answers)

    def set_production(self, model: str, version: int | None) -> None:
        production = {name: number for name, number in self.load_production_versions().items() if name != model}
        if version is not None:
            production[model] = version
        partial = self.folder / f".production-{os.getpid()}"
        partial.write_text(json.dumps(production))
        partial.replace(self.folder / "production.json")

    def set_away(self, what: str, is_away: bool) -> None:
        """Let `tracking` or `artifacts` be away, or back."""
        path = self.folder / f"{what}.away"
        path.touch() if is_away else path.unlink(missing_ok=True)

    def set_stalled(self, model: str, is_stalled: bool) -> None:
        """Let downloads of the model take until this is taken back."""
        path = self.folder / f"{model}.stalled"
        path.touch() if is_stalled else path.unlink(missing_ok=True)

    def _check(self, what: str) -> None:
        if (self.folder / f"{what}.away").exists():
            raise TrackingUnavailable("http://tracking", f"{what} is away by the test's wish")
