"""A journal gives back what was written whole, whatever happened to the rest."""

import os
import time

import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockbuster.rundir.journal import JOURNAL, Journal, read_journal

RECORDS = [{"task": n, "counts": [n, 0, 7], "crc": f"{n:08x}"} for n in range(6)]


def write(folder, records=RECORDS):
    with Journal(str(folder)) as journal:
        for record in records:
            journal.append(record)
    return folder / JOURNAL


def read(folder):
    return list(read_journal(folder))


def test_records_come_back_in_their_order(tmp_path):
    write(tmp_path)
    assert read(tmp_path) == RECORDS


def test_there_are_no_records_where_there_is_no_journal(tmp_path):
    assert read(tmp_path) == []
    assert read(tmp_path / "nowhere") == []


def test_a_journal_that_is_opened_again_goes_on(tmp_path):
    write(tmp_path, RECORDS[:2])
    write(tmp_path, RECORDS[2:])
    assert read(tmp_path) == RECORDS


@pytest.mark.parametrize("n_bytes_lost", [2, 3, 10, 30])
def test_F9_a_torn_last_line_counts_as_never_written_and_spoils_no_later_one(n_bytes_lost, tmp_path):
    path = write(tmp_path)
    os.truncate(path, path.stat().st_size - n_bytes_lost)
    assert read(tmp_path) == RECORDS[:-1]
    write(tmp_path, [{"task": 99}])
    assert read(tmp_path) == [*RECORDS[:-1], {"task": 99}]


def test_F9_a_record_that_lost_its_end_of_line_alone_is_whole_once_the_journal_goes_on(tmp_path):
    path = write(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    assert read(tmp_path) == RECORDS[:-1]
    write(tmp_path, [{"task": 99}])
    assert read(tmp_path) == [*RECORDS, {"task": 99}]


def test_F10_a_line_with_any_bit_flipped_counts_as_never_written(tmp_path):
    path = write(tmp_path, RECORDS[:3])
    whole = path.read_bytes()
    first, last = len(whole) // 3, 2 * len(whole) // 3
    assert whole.count(b"\n", 0, first) == 1
    assert whole.count(b"\n", 0, last) == 2
    for place in range(first, last - 1):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            assert read(tmp_path) == [RECORDS[0], RECORDS[2]]


def test_F10_a_lost_end_of_line_spoils_two_lines_and_no_other(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\x0b", 1))
    assert read(tmp_path) == RECORDS[2:]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=examples(60)
)
@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=4))
def test_lines_that_nobody_wrote_are_passed_over(tmp_path, rubbish):
    path = write(tmp_path, [])
    path.write_bytes(b"".join(line + b"\n" for line in rubbish))
    write(tmp_path)
    assert read(tmp_path) == RECORDS
    path.unlink()


@pytest.mark.parametrize("line", [b"00000000 \n", b"00000000\n", b"\n", b" \n", b"1\n", b"\0\0\0\0\n", b"{}\n"])
def test_short_lines_are_no_records(line, tmp_path):
    (tmp_path / JOURNAL).write_bytes(line)
    assert read(tmp_path) == []


def test_any_text_can_be_in_a_record(tmp_path):
    records = [{"failed": [[[0, 1], 'fn raised "x"\n\tat größe \U0001f52c \ud800']]}]
    write(tmp_path, records)
    assert read(tmp_path) == records


def test_a_record_is_in_the_file_as_soon_as_it_is_added(tmp_path):
    with Journal(str(tmp_path)) as journal:
        journal.append({"task": 1})
        assert read(tmp_path) == [{"task": 1}]
        journal.flush()
        assert read(tmp_path) == [{"task": 1}]


def test_records_of_one_kind_are_read_alone(tmp_path):
    with Journal(tmp_path) as journal:
        for record in ({"task": 1}, {"task": 2, "grown": {"a": 0}}, {"name": "grown"}, {"grown": {"b": 1}}):
            journal.append(record)
    assert list(read_journal(tmp_path, "grown")) == [{"task": 2, "grown": {"a": 0}}, {"grown": {"b": 1}}]
    assert len(list(read_journal(tmp_path))) == 4


def test_a_record_costs_as_much_in_a_long_journal_as_in_a_short_one(tmp_path):
    def seconds(journal, n):
        # Of this thread: other processes do not lengthen it.
        start = time.thread_time()
        for number in range(n):
            journal.append({"task": number, "counts": [3] * 16, "crc": "01234567"})
        return time.thread_time() - start

    with Journal(str(tmp_path)) as journal:
        early = min(seconds(journal, 500) for _ in range(5))
        seconds(journal, 20_000)
        late = min(seconds(journal, 500) for _ in range(5))
    assert late < 3 * early
    assert sum(1 for _ in read_journal(tmp_path)) == 25_000
