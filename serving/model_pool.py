"""The versions that are loaded: for each model the one that serves, the one before it, and some asked for by number."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from core.contract import Contract
from serving.loading import LoadedVersion

_MAX_ASKED_FOR = 8


@dataclass(frozen=True)
class Slot:
    """What serves a model, and what served it before and is kept loaded for an instant rollback.

    `serving` and `previous` are None where the version of that number is unloaded at the moment: it is loaded again
    from the cache when it is asked for.
    """

    version: int | None = None
    contract: Contract | None = None
    serving: LoadedVersion | None = None
    previous_version: int | None = None
    previous: LoadedVersion | None = None


class ModelPool:
    """One swap is one assignment: a request takes its version once and finishes on it, whatever is swapped meanwhile.

    At most `most_loaded` versions, with files of at most `most_bytes` together, are loaded: beyond that those that were
    used longest ago are unloaded, all but the newest. Their memory returns when the last request that holds them has
    finished. Any thread may call anything.
    """

    def __init__(self, most_loaded: int, most_bytes: int) -> None:
        self._most_loaded = most_loaded
        self._most_bytes = most_bytes
        self._slots: dict[str, Slot] = {}
        self._asked_for: dict[tuple[str, int], LoadedVersion] = {}
        self._lock = threading.Lock()

    def find_serving(self, model: str) -> LoadedVersion | None:
        """The version that serves the model, if it is loaded."""
        slot = self._slots.get(model)
        if slot is None or slot.serving is None:
            return None
        slot.serving.used_at_s = time.monotonic()
        return slot.serving

    def get_slot(self, model: str) -> Slot:
        return self._slots.get(model, Slot())

    def find_loaded(self, model: str, version: int) -> LoadedVersion | None:
        """The version, if it is loaded for whatever reason."""
        slot = self.get_slot(model)
        asked_for = self._asked_for.get((model, version))
        for loaded in (slot.serving, slot.previous, asked_for):
            if loaded and loaded.version == version:
                loaded.used_at_s = time.monotonic()
                return loaded
        return None

    def count_loaded(self) -> int:
        """How many versions are loaded."""
        return len(list(self._iterate()))

    def get_numbers(self) -> set[tuple[str, int]]:
        """Model and number of every version that serves, or that a rollback would bring back."""
        with self._lock:
            slots = self._slots.items()
            numbers = {(model, number) for model, slot in slots for number in (slot.version, slot.previous_version)}
        return {(model, number) for model, number in numbers if number is not None}

    def swap(self, loaded: LoadedVersion) -> None:
        """Let `loaded` serve its model from the next request on."""
        with self._lock:
            slot = self.get_slot(loaded.model)
            is_back = slot.version == loaded.version
            kept = slot if is_back else self._build_cleared(slot)
            self._slots[loaded.model] = replace(kept, version=loaded.version, contract=loaded.contract, serving=loaded)
            self._asked_for.pop((loaded.model, loaded.version), None)
            self._unload_beyond(loaded)

    def clear(self, model: str) -> None:
        """Let nothing serve the model; what served it stays loaded."""
        with self._lock:
            self._slots[model] = self._build_cleared(self.get_slot(model))

    def keep_asked_for(self, loaded: LoadedVersion) -> None:
        """Keep a version that was loaded because a request asked for it."""
        with self._lock:
            slot = self.get_slot(loaded.model)
            if slot.version == loaded.version:
                self._slots[loaded.model] = replace(slot, serving=loaded)
            elif slot.previous_version == loaded.version:
                self._slots[loaded.model] = replace(slot, previous=loaded)
            else:
                self._asked_for[loaded.model, loaded.version] = loaded
                while len(self._asked_for) > _MAX_ASKED_FOR:
                    self._unload(min(self._asked_for.values(), key=_get_used_at_s))
            self._unload_beyond(loaded)

    @staticmethod
    def _build_cleared(slot: Slot) -> Slot:
        if slot.version is None:
            return slot
        return Slot(previous_version=slot.version, previous=slot.serving)

    def _unload_beyond(self, newest: LoadedVersion) -> None:
        others = sorted((loaded for loaded in self._iterate() if loaded is not newest), key=_get_used_at_s)
        count, size = 1 + len(others), newest.model_bytes + sum(loaded.model_bytes for loaded in others)
        for loaded in others:
            if count <= self._most_loaded and size <= self._most_bytes:
                break
            self._unload(loaded)
            count, size = count - 1, size - loaded.model_bytes

    def _unload(self, loaded: LoadedVersion) -> None:
        self._asked_for.pop((loaded.model, loaded.version), None)
        slot = self.get_slot(loaded.model)
        if slot.serving is loaded:
            self._slots[loaded.model] = replace(slot, serving=None)
        elif slot.previous is loaded:
            self._slots[loaded.model] = replace(slot, previous=None)

    def _iterate(self) -> Iterator[LoadedVersion]:
        for slot in list(self._slots.values()):
            yield from (loaded for loaded in (slot.serving, slot.previous) if loaded)
        yield from list(self._asked_for.values())


def _get_used_at_s(loaded: LoadedVersion) -> float:
    return loaded.used_at_s
