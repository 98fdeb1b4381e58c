"""The journal on disk: whole, torn, damaged, full, and left behind."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import orjson
import pytest

from core.serving_errors import JournalFull, JournalUnwritable
from serving.journal import Journal, JournalFolder, Segment, holding_folders, remove_segment
from serving.prediction_ids import draw_ids
from serving.records import Entry, RecordDamaged, encode_entry, now_us, read_entries

MEGABYTE = 2**20


def build_entry(rows: int = 1, reason: str | None = None) -> Entry:
    generator = np.random.default_rng(rows)
    if reason is not None:
        return Entry(now_us(), "prices", 3, "request-1", draw_ids(1), reason=reason)
    return Entry(
        at_us=now_us(),
        model="prices",
        version=3,
        request_id="request-1",
        ids=draw_ids(rows),
        inputs=generator.random((rows, 4), dtype=np.float32),
        monitored=generator.random((rows, 2)),
        outputs=generator.random((rows, 1), dtype=np.float32),
    )


def load_segments(journal: Journal) -> list[Segment]:
    return JournalFolder(journal.folder, is_left=False).load_segments()


@pytest.mark.parametrize("entry", [build_entry(), build_entry(1000), build_entry(reason="too few values")])
def test_record_gives_back_the_entry(entry: Entry) -> None:
    record = encode_entry(entry)
    ((found, end),) = read_entries(record)
    assert end == len(record)
    assert (found.at_us, found.model, found.version, found.request_id) == (entry.at_us, "prices", 3, "request-1")
    assert found.ids == entry.ids
    assert len(set(found.ids)) == len(entry.ids)
    assert found.reason == entry.reason
    for name in ("inputs", "monitored", "outputs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(entry, name))


def test_record_of_a_failure_says_so_and_one_of_the_release_before_is_none() -> None:
    failure = build_entry(reason="not finite")
    failure.is_failure = True
    ((found, _),) = read_entries(encode_entry(failure))
    assert (found.is_failure, found.reason) == (True, "not finite")

    payload = encode_entry(build_entry())[8:]
    (length,) = struct.unpack_from(">I", payload)
    described = orjson.loads(payload[4 : 4 + length])
    del described["is_failure"]
    shortened = orjson.dumps(described)
    earlier = struct.pack(">I", len(shortened)) + shortened + payload[4 + length :]
    ((found, _),) = read_entries(struct.pack(">II", len(earlier), zlib.crc32(earlier)) + earlier)
    assert not found.is_failure


def test_every_torn_tail_ends_the_records_before_it() -> None:
    whole = encode_entry(build_entry(2))
    torn = encode_entry(build_entry(1))
    for length in range(len(torn)):
        assert [end for _, end in read_entries(whole + torn[:length])] == [len(whole)]


def test_every_flipped_byte_is_noticed() -> None:
    record = encode_entry(build_entry(1))
    for position in range(4, len(record)):
        damaged = bytearray(record)
        damaged[position] ^= 1
        with pytest.raises(RecordDamaged):
            list(read_entries(bytes(damaged)))


def test_full_journal_refuses_and_records_nothing_of_it(tmp_path: Path) -> None:
    record_bytes = len(encode_entry(build_entry()))
    journal = Journal(tmp_path, max_bytes=10 * record_bytes)
    for _ in range(10):
        journal.append(build_entry())
    with pytest.raises(JournalFull):
        journal.append(build_entry())
    segments = load_segments(journal)
    assert sum(len(list(read_entries(segment.path.read_bytes()))) for segment in segments) == 10
    assert [segment.is_closed for segment in segments].count(False) == 1
    remove_segment(segments[0].path)
    journal.measure()
    journal.append(build_entry())
    journal.close()


def test_what_others_left_counts_towards_the_bound(tmp_path: Path) -> None:
    record_bytes = len(encode_entry(build_entry()))
    first = Journal(tmp_path, max_bytes=10 * record_bytes)
    for _ in range(10):
        first.append(build_entry())
    first.close()
    second = Journal(tmp_path, max_bytes=10 * record_bytes)
    with pytest.raises(JournalFull):
        second.append(build_entry())
    second.close()


def test_disk_that_is_full_refuses_and_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, max_bytes=MEGABYTE)
    journal.append(build_entry())
    write = os.write
    # The disk itself is what is replaced: it takes a part of the record.
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
        with pytest.raises(JournalUnwritable):
            journal.append(build_entry())
    journal.append(build_entry())
    (segment,) = load_segments(journal)
    assert len(list(read_entries(segment.path.read_bytes()))) == 2
    journal.close()


def test_folder_is_adopted_only_once_its_process_is_gone(tmp_path: Path) -> None:
    living, dead = Journal(tmp_path, MEGABYTE), Journal(tmp_path, MEGABYTE)
    dead.append(build_entry())
    with holding_folders(tmp_path) as folders:
        assert [folder.is_left for folder in folders] == [False, False]
    dead.close()
    with holding_folders(tmp_path) as folders:
        assert {folder.path: folder.is_left for folder in folders} == {living.folder: False, dead.folder: True}
        (segment,) = JournalFolder(dead.folder, is_left=True).load_segments()
        assert segment.is_closed
        # Nobody else takes it meanwhile.
        with holding_folders(tmp_path) as second:
            assert not any(folder.is_left for folder in second)
    living.close()
    assert not living.folder.exists()
