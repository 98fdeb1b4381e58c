"""Ids of predictions: none is given out twice, whoever asks."""

import itertools
import os
import threading
from uuid import UUID

from serving.prediction_ids import draw_ids


def test_ids_are_random_uuids_of_their_own() -> None:
    drawn = [*itertools.chain.from_iterable(draw_ids(1) for _ in range(501)), *draw_ids(1000)]
    assert len(set(drawn)) == 1501
    assert {(found.version, found.variant) for found in drawn} == {(4, UUID(int=0, version=4).variant)}


def test_threads_are_given_different_ids() -> None:
    found: list[UUID] = []

    def draw() -> None:
        for _ in range(5000):
            found.extend(draw_ids(1))

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 40_000


def test_forked_process_hands_out_other_ids_than_its_parent() -> None:
    draw_ids(1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"".join(draw_ids(1)[0].bytes for _ in range(64)))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading, "rb") as file:  # noqa: PTH123  a pipe has no path
        content = file.read()
    drawn = {UUID(bytes=content[start : start + 16]) for start in range(0, len(content), 16)}
    assert len(drawn) == 64
    assert drawn.isdisjoint(draw_ids(1)[0] for _ in range(64))
