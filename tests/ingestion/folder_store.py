"""A store of files for tests."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class FolderStore:
    """A store of files in a folder; `stored` lists the names in order."""

    folder: Path
    stored: list[str] = field(default_factory=list)

    def store_file(self, local: Path, name: str) -> str:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local, target)
        self.stored.append(name)
        return str(target)

    def fetch_file(self, uri: str, local: Path) -> None:
        shutil.copyfile(uri, local)
