"""Pairs of labels that are worth a look: what they were, where, and under which ids they are found."""

import naive
import numpy as np
import pytest
import zarr
from examples import examples
from hypothesis import given, settings
from strategies import tissue_cases

from blockbuster import read_report, relabel_sequential_zarr, tile_process
from blockbuster.report import MAX_DOUBTFUL, MIN_DOUBTFUL

pytestmark = [
    pytest.mark.filterwarnings('ignore:merge="agree" without a halo'),
    pytest.mark.filterwarnings("ignore:runaway merging"),
    pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed"),
    pytest.mark.filterwarnings("ignore:all objects have the same id"),
]


@settings(max_examples=examples(15))
@given(tissue_cases())
def test_doubtful_pairs_are_those_of_the_slow_twin_with_the_ids_of_the_labels(case):
    labels, report = case.run(return_report=True)
    seen = naive.look(case.mask, case.fn, case.lengths, case.halo, case.merged)
    found = naive.compare(seen, case.shape, case.halo, case.seen()[4], case.merged)
    doubt = [agreement for agreement, _ in found.values() if MIN_DOUBTFUL <= agreement < MAX_DOUBTFUL]
    nearest = sorted(doubt, key=lambda agreement: abs(agreement - case.min_agreement))
    pairs = report.doubtful(1000)
    assert len(pairs) == min(100, len(doubt))
    distances = [abs(pair.agreement - case.min_agreement) for pair in pairs]
    assert distances == [abs(agreement - case.min_agreement) for agreement in nearest[: len(pairs)]]
    assert report.doubtful(2) == pairs[:2]
    for pair in pairs:
        around = tuple(slice(max(0, i - 1), i + 2) for i in pair.at)
        assert set(pair.labels) <= set(np.unique(labels[around]).tolist())


def test_ids_are_renumbered_with_the_labels(tmp_path):
    image = np.random.default_rng(0).integers(0, 3, (40, 40), np.uint8)

    def fn(tile):
        return naive.label(tile + (tile.shape[0] * np.indices(tile.shape)[0] % 7 == 0))

    options = {"tile_shape": (9, 9), "overlap": 3, "merge": "agree", "write_to": tmp_path / "a.zarr"}
    tile_process(image, fn, **options)
    before = zarr.open_array(tmp_path / "a.zarr/labels")[:]
    pairs = read_report(tmp_path / "a.zarr").doubtful()
    assert pairs
    relabel_sequential_zarr(tmp_path / "a.zarr")
    after = zarr.open_array(tmp_path / "a.zarr/labels")[:]
    renumbered = dict(zip(before.ravel().tolist(), after.ravel().tolist(), strict=True))
    assert renumbered != {n: n for n in renumbered}
    expected = [[renumbered[label] for label in pair.labels] for pair in pairs]
    assert [pair.labels for pair in read_report(tmp_path / "a.zarr").doubtful()] == expected
