"""The versions that are loaded: for each model the one that serves, the one before it, and some asked for by number."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from serving.loading import LoadedVersion

_MAX_ASKED_FOR = 8


@dataclass(frozen=True)
class Slot:
    """What serves a model, and what served it before and is kept loaded for an instant rollback."""

    serving: LoadedVersion | None = None
    previous: LoadedVersion | None = None


class ModelPool:
    """One swap is one assignment: a request takes its version once and finishes on it, whatever is swapped meanwhile.

    Only the follower swaps; any thread reads.
    """

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}
        self._asked_for: OrderedDict[tuple[str, int], LoadedVersion] = OrderedDict()
        self._asked_for_lock = threading.Lock()

    def find_serving(self, model: str) -> LoadedVersion | None:
        """The version that serves the model."""
        slot = self._slots.get(model)
        return slot.serving if slot else None

    def get_slot(self, model: str) -> Slot:
        return self._slots.get(model, Slot())

    def find_loaded(self, model: str, version: int) -> LoadedVersion | None:
        """The version, if it is loaded for whatever reason."""
        slot = self.get_slot(model)
        for loaded in (slot.serving, slot.previous):
            if loaded and loaded.version == version:
                return loaded
        with self._asked_for_lock:
            asked_for = self._asked_for.get((model, version))
            if asked_for:
                self._asked_for.move_to_end((model, version))
            return asked_for

    def swap(self, loaded: LoadedVersion) -> None:
        """Let `loaded` serve its model from the next request on."""
        slot = self.get_slot(loaded.model)
        self._slots[loaded.model] = Slot(loaded, slot.serving or slot.previous)

    def clear(self, model: str) -> None:
        """Let nothing serve the model; what served it stays loaded."""
        slot = self.get_slot(model)
        self._slots[model] = Slot(None, slot.serving or slot.previous)

    def keep_asked_for(self, loaded: LoadedVersion) -> None:
        """Keep a version that a request asked for by number; the one unused for longest goes where there are many."""
        with self._asked_for_lock:
            self._asked_for[loaded.model, loaded.version] = loaded
            while len(self._asked_for) > _MAX_ASKED_FOR:
                self._asked_for.popitem(last=False)
