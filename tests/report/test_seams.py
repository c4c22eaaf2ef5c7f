"""What a report says about seams: its numbers, its text, and what is kept of it."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockbuster import RunReport
from blockbuster.identity.sealed import seal
from blockbuster.report import N_BINS, AxisSeams, DoubtfulPair, SeamCounts, SeamReport, WorstSeam

counts = st.integers(0, 10**12)
fractions = st.floats(0, 1)
indices = st.lists(counts, max_size=4)
axis_seams = st.builds(
    AxisSeams, st.text(), counts, counts, st.just([]) | st.lists(counts, min_size=N_BINS, max_size=N_BINS)
)
worst_seams = st.builds(
    WorstSeam, st.lists(indices, min_size=2, max_size=2), st.text(), counts, counts, counts, indices,
    st.none() | fractions,
)  # fmt: skip
doubtful_pairs = st.builds(DoubtfulPair, st.lists(counts, min_size=2, max_size=2), indices, fractions)
two_numbers = st.just([]) | st.lists(st.floats(0, 1e9), min_size=2, max_size=2)
seam_reports = st.builds(
    SeamReport,
    st.sampled_from(["touch", "agree", "none"]),
    st.none() | fractions,
    st.lists(axis_seams, max_size=4),
    counts,
    two_numbers,
    two_numbers,
    st.lists(worst_seams, max_size=4),
    st.lists(doubtful_pairs, max_size=4),
    st.text(),
    counts,
    counts,
    st.none() | st.builds(SeamCounts, *[st.integers(0, 10**6)] * 6),
)


def histogram(agreement):
    return np.histogram(agreement, N_BINS, (0, 1))[0].tolist()


def agreed(*agreements, min_agreement=0.3):
    """A report of pairs with these agreements, one list per axis."""
    axes = [
        AxisSeams(f"axis {number}", len(found), sum(a >= min_agreement for a in found), histogram(found))
        for number, found in enumerate(agreements)
    ]
    return SeamReport("agree", min_agreement, axes)


@given(seam_reports)
def test_a_report_reads_back_what_it_wrote(seams):
    report = RunReport(n_tiles=9, seams=seams)
    read = RunReport.from_json(report.to_json())
    assert read == report
    assert (read.seams.axes, read.seams.worst) == (seams.axes, seams.worst)
    assert str(read.seams) == str(seams)


@given(seam_reports)
def test_what_a_later_version_adds_is_left_out(seams):
    report = RunReport(seams=seams)
    found = json.loads(report.to_json())
    seams = found["seams"]
    for part in (found, seams, *seams["axes"], *seams["worst"], *seams["doubtful_pairs"], seams["counts"] or {}):
        part["unheard_of"] = [1]
    del found["crc"]
    assert RunReport.from_json(json.dumps(seal(found))) == report


def test_a_report_from_before_seams_were_counted_keeps_its_pairs():
    report = RunReport.from_json('{"n_tiles": 4, "n_objects": 3, "n_pairs": 7}')
    assert (report.n_tiles, report.n_pairs, report.seams.joined, report.seams.refused) == (4, 7, 7, 0)
    assert re.search(r"all axes +7 +7 +0 +-", str(report.seams))
    assert RunReport.from_json('{"n_tiles": 4}').seams == SeamReport()


# In the middle of thousandths: on no edge of a bin.
@given(st.lists(st.integers(0, 999).map(lambda number: number / 1000 + 0.0005)))
def test_doubtful_pairs_are_those_between_a_clear_no_and_a_clear_yes(agreements):
    (axis,) = agreed(agreements).axes
    assert axis.doubtful == sum(0.1 < agreement < 0.6 for agreement in agreements)
    assert axis.refused == sum(agreement < 0.3 for agreement in agreements)


def test_counts_of_a_report_are_the_sums_over_its_axes():
    seams = agreed([0.0, 0.2, 0.9], [0.5], [0.1, 1.0, 1.0])
    assert (seams.touching, seams.joined, seams.refused) == (7, 4, 3)
    assert seams.histogram == histogram([0.0, 0.2, 0.9, 0.5, 0.1, 1.0, 1.0])
    assert SeamReport().histogram == []


def test_the_table_has_a_row_per_axis_and_their_sum():
    seams = agreed([0.0, 0.2, 0.9], [0.5])
    rows = [line.split() for line in str(seams).splitlines()[1:5]]
    assert rows == [
        ["seam", "touching", "joined", "refused", "doubtful"],
        ["axis", "0", "3", "1", "2", "1"],
        ["axis", "1", "1", "1", "0", "1"],
        ["all", "4", "2", "2", "2"],
    ]
    assert len({len(line) for line in str(seams).splitlines()[1:5]}) == 1


def test_doubt_is_a_dash_where_agreement_was_not_measured():
    seams = SeamReport(axes=[AxisSeams("y", 5, 5)], worst=[WorstSeam([[0, 0], [1, 0]], "y", 5, 5, 0, [7, 4])])
    assert re.search(r"^y +5 +5 +0 +-$", str(seams), re.M)
    assert re.search(r"^\(0, 0\) \(1, 0\) +y +\(7, 4\) +5 +5 +0 +- +-$", str(seams), re.M)
    assert "agreement  " not in str(seams)


def bars(seams):
    """The lines of the histogram in text: from, to, count, bar, mark."""
    found = re.findall(r"^(0\.\d\d)-([01]\.\d\d) +(\d+) *(#*) *(.*)$", str(seams), re.M)
    return [(float(low), float(high), int(count), len(bar), mark) for low, high, count, bar, mark in found]


@given(st.lists(fractions, min_size=1), fractions)
def test_bars_in_text_are_as_long_as_their_counts_say(agreements, min_agreement):
    lines = bars(agreed(agreements, min_agreement=min_agreement))
    assert [count for _, _, count, _, _ in lines] == histogram(agreements)
    assert max(length for *_, length, _ in lines) == 40
    for _, _, count, length, _ in lines:
        assert (length > 0) == (count > 0)
        assert abs(length - 40 * count / max(histogram(agreements))) < 1


@pytest.mark.parametrize(
    ("min_agreement", "expected"), [(0, 0.0), (0.3, 0.3), (0.349, 0.3), (0.35, 0.35), (0.55, 0.55), (1, 0.95)]
)
def test_the_threshold_is_marked_in_its_bin(min_agreement, expected):
    marked = [(low, mark) for low, *_, mark in bars(agreed([0.5], min_agreement=min_agreement)) if mark]
    assert marked == [(expected, f"<- min_agreement={min_agreement:g}")]


def test_the_text_says_what_crosses_a_seam_where_to_look_and_warns_last():
    seams = agreed([0.2, 0.9])
    seams.n_crossing, seams.labels_per_object, seams.tiles_per_object = 3, [2.5, 7.0], [2.0, 4.0]
    seams.worst = [WorstSeam([[0, 1], [1, 1]], "axis 0", 2, 1, 1, [9, 15], 0.2)]
    seams.runaway = "runaway merging: one object ..."
    lines = str(seams).splitlines()
    assert lines[0] == 'merge="agree", min_agreement=0.3'
    assert (
        "3 objects cross a seam; labels per object: median 2.5, largest 7; tiles per object: median 2, "
        in str(seams)
    )
    assert re.fullmatch(r"\(0, 1\) \(1, 1\) +axis 0 +\(9, 15\) +2 +1 +1 +1 +0\.20", lines[-2])
    assert lines[-1] == "warning: runaway merging: one object ..."


def test_a_report_without_pairs_says_why():
    assert str(SeamReport(matched=True)) == 'merge="touch": no labels touch across a seam'
    assert str(SeamReport("none")) == 'merge="none": no labels were joined across seams'


def test_the_line_of_a_run_counts_refused_pairs_where_some_could_be():
    report = RunReport(n_tiles=2, n_run=2, n_objects=4, seams=agreed([0.0, 0.1, 0.9]))
    assert str(report) == "2 tiles: 2 run, 0 empty; 4 objects; 2 of 3 pairs refused"
    report.seams = SeamReport("touch", axes=[AxisSeams("y", 3, 3)])
    assert "refused" not in str(report)
