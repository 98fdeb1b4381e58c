"""The journal on disk: whole, torn, damaged, full, and left behind."""

import os
from pathlib import Path

import numpy as np
import pytest

from core.errors import JournalFull, JournalUnwritable
from serving.journal import Journal, adopting, load_left_segments
from serving.records import Entry, RecordDamaged, build_ids, encode_entry, now_us, read_entries

MEGABYTE = 2**20


def build_entry(rows: int = 1, reason: str | None = None) -> Entry:
    generator = np.random.default_rng(rows)
    if reason is not None:
        return Entry(now_us(), "prices", 3, "request-1", build_ids(1), reason=reason)
    return Entry(
        at_us=now_us(),
        model="prices",
        version=3,
        request_id="request-1",
        ids=build_ids(rows),
        inputs=generator.random((rows, 4), dtype=np.float32),
        monitored=generator.random((rows, 2)),
        outputs=generator.random((rows, 1), dtype=np.float32),
    )


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
    segments = journal.load_segments()
    assert sum(len(list(read_entries(segment.path.read_bytes()))) for segment in segments) == 10
    assert [segment.is_closed for segment in segments].count(False) == 1
    journal.release(segments[0])
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
    (segment,) = journal.load_segments()
    assert len(list(read_entries(segment.path.read_bytes()))) == 2
    journal.close()


def test_folder_is_adopted_only_once_its_process_is_gone(tmp_path: Path) -> None:
    living, dead = Journal(tmp_path, MEGABYTE), Journal(tmp_path, MEGABYTE)
    dead.append(build_entry())
    with adopting(tmp_path, living.folder) as folders:
        assert folders == []
    dead.close()
    with adopting(tmp_path, living.folder) as folders:
        assert folders == [dead.folder]
        assert len(load_left_segments(dead.folder)) == 1
        # Nobody else takes it meanwhile.
        with adopting(tmp_path, living.folder) as second:
            assert second == []
    living.close()
    assert not living.folder.exists()
