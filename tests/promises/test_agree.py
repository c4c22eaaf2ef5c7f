"""Labels that touch at a seam are one object where two tiles agree on them: the definition, by a slow twin."""

import dataclasses
import functools

import dask
import naive
import numpy as np
import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interrupted import contents, interrupt_at, segment, store_in_small_pieces
from strategies import TissueCase, Unsteady, cases, tissue_cases

from blockbuster import tile_process
from blockbuster.report import N_BINS

NO_HALO = 'merge="agree" without a halo'
pytestmark = [
    pytest.mark.usefixtures("one_at_a_time"),
    pytest.mark.filterwarnings("ignore:every chunk of the dask image is computed"),
    pytest.mark.filterwarnings(f"ignore:{NO_HALO}"),
    # Labels at random, joined however little they agree, are what that warning is for.
    pytest.mark.filterwarnings("ignore:runaway merging"),
    # In small images few tiles have two labels, and noise makes pieces of those.
    pytest.mark.filterwarnings("ignore:all objects have the same id"),
]
NOISY = Unsteady(seed=1, noise=0.1, cuts=True, dtype="uint16", largest=60000)
ONE_AXIS = TissueCase((41,), (7,), overlap=2, connectivity=None, fn=NOISY)
CORNERS_OF_SOUP = TissueCase((13, 11, 7), (4, 3, 3), overlap=1, connectivity=3, tiles_per_task=1, fn=NOISY)
HALO_ALONG_ONE_AXIS = TissueCase(
    (12, 13, 9), (5, 4, 4), overlap=(2, 0, 1), connectivity=None, fn=NOISY, tiles_per_task=2, stored=True
)
HALO_BEYOND_THE_NEXT_TILE = TissueCase((3, 29), (2, 4), overlap=9, connectivity=2, fn=NOISY, tissue="cells")
PLANES = TissueCase(
    (5, 17, 16), (1, 6, 5), overlap=(1, 2, 2), connectivity=2, merge_axes="xy", fn=NOISY, tissue="mask", seed=1
)
HUGE_IDS = TissueCase(
    (23, 19), (6, 6), overlap=3, connectivity=1, fn=Unsteady(2, 0.1, 1, True, "uint64", 2**62), tissue="cells"
)


# -- any image, any function


@settings(max_examples=examples(45))
@given(tissue_cases())
@example(ONE_AXIS)
@example(CORNERS_OF_SOUP)
@example(HALO_ALONG_ONE_AXIS)
@example(HALO_BEYOND_THE_NEXT_TILE)
@example(PLANES)
@example(HUGE_IDS)
def test_labels_of_unsteady_functions_are_joined_as_the_definition_says(case):
    labels = case.run()
    assert labels.dtype == np.int32
    assert np.array_equal(labels, case.expected())


def tally(case):
    """Pairs, and those joined, and the histogram of agreement, by the axis along which two tiles are apart."""
    seen = naive.look(case.mask, case.fn, case.lengths, case.halo, case.merged)
    owner = {int(label): tile for tile in seen for label in np.unique(tile.within(tile.core)) if label}
    counts = {}
    found = naive.compare(seen, case.shape, case.halo, case.seen()[4], case.merged)
    joined = naive.joins(found, case.min_agreement, *naive.assemble(seen, case.shape))
    for pair, (agreement, _) in found.items():
        tile, other = (owner[label].index for label in pair)
        apart = [axis for axis, i, j in zip(case.axes, tile, other, strict=True) if i != j]
        kind = apart[0] if len(apart) == 1 else "edges and corners"
        of_kind = counts.setdefault(kind, [0, 0, [0] * N_BINS])
        of_kind[0] += 1
        of_kind[1] += pair in joined
        of_kind[2][min(int(agreement * N_BINS), N_BINS - 1)] += 1
    return counts


@settings(max_examples=examples(10))
@given(tissue_cases())
@example(CORNERS_OF_SOUP)
@example(PLANES)
def test_the_report_counts_what_touches_and_how_far_it_agrees(case):
    _, report = case.run(return_report=True)
    assert {axis.name: [axis.touching, axis.joined, axis.histogram] for axis in report.seams.axes} == tally(case)


@settings(max_examples=examples(6))
@given(tissue_cases(), st.sampled_from([1, 3, 7, None]), st.sampled_from(["synchronous", "threads"]))
@example(CORNERS_OF_SOUP, None, "threads")
def test_tasks_schedulers_and_storage_change_nothing(case, tiles_per_task, scheduler):
    other = dataclasses.replace(case, tiles_per_task=tiles_per_task, stored=not case.stored)
    with dask.config.set(scheduler=scheduler, num_workers=3):
        first, second = case.run(), other.run()
    assert first.dtype == second.dtype
    assert first.tobytes() == second.tobytes()


@settings(max_examples=examples(6))
@given(tissue_cases())
def test_sequential_ids_are_the_ranks_of_the_others(case):
    assert np.array_equal(case.run(sequential_labels=True), case.expected(sequential=True))


# -- what follows from the definition


@settings(max_examples=examples(8))
@given(tissue_cases())
def test_with_no_agreement_asked_for_all_that_touches_is_joined(case):
    case = dataclasses.replace(case, connectivity=case.connectivity or len(case.shape))
    labels = case.run(min_agreement=0)
    assert np.array_equal(labels, case.run(merge="touch"))
    assert np.array_equal(labels, case.expected(merge="touch"))


@settings(max_examples=examples(5))
@given(tissue_cases())
def test_B20_nothing_is_joined_where_nothing_is_to_be(case):
    seen = naive.look(case.mask, case.fn, case.lengths, case.halo, case.merged)
    provisional, _ = naive.assemble(seen, case.shape)
    assert np.array_equal(case.run(merge="none"), provisional)
    assert np.array_equal(case.run(merge="none", sequential_labels=True), provisional)


@settings(max_examples=examples(12))
@given(cases(), st.integers(1, 3))
def test_tiles_of_a_local_function_agree_entirely(case, halo):
    case = dataclasses.replace(case, overlap=(halo,) * len(case.shape))
    fn = functools.partial(naive.label, connectivity=case.connectivity)
    labels = case.run(fn, merge="agree", min_agreement=1)
    assert naive.partition_fault(labels, fn(case.mask)) == ""


# -- tiles without labels, axes, tries


@settings(max_examples=examples(8))
@given(tissue_cases((1, 2, 3)))
@pytest.mark.filterwarnings("ignore:All .* tiles were skipped")
def test_skipped_tiles_have_nothing_to_agree_on(case):
    def skipping(tile):
        return case.fn(tile) if tile.max() > 1 else np.zeros(tile.shape, np.int64)

    labels = case.run(skip_empty=True, empty_threshold=1)
    assert np.array_equal(labels, case.expected(fn=skipping))


@settings(max_examples=examples(6))
@given(tissue_cases((2, 3)), st.integers(0, 99))
@pytest.mark.filterwarnings("ignore:.* tiles? failed")
def test_failed_tiles_have_nothing_to_agree_on(case, seed):
    def fails(tile):
        return Unsteady(seed, noise=1.0)(tile).flat[0] > 50

    def failing(tile):
        if fails(tile):
            raise ArithmeticError("no luck")
        return case.fn(tile)

    def skipping(tile):
        return np.zeros(tile.shape, np.int64) if fails(tile) else case.fn(tile)

    assert np.array_equal(case.run(failing, on_error="skip"), case.expected(fn=skipping, is_failed=fails))


def test_tiles_that_were_tried_again_agree_as_others_do():
    case = dataclasses.replace(CORNERS_OF_SOUP, tiles_per_task=None)
    tried = set()

    def failing_once(tile):
        name = tile.tobytes()
        if name not in tried:
            tried.add(name)
            raise ArithmeticError("no luck yet")
        return case.fn(tile)

    assert np.array_equal(case.run(failing_once, retries=1), case.expected())


@pytest.mark.parametrize("tiles_per_task", [None, 1, 4])
def test_tiles_agree_on_labels_that_have_no_channels(tiles_per_task):
    image = np.random.default_rng(0).integers(0, 2, (3, 19, 17), np.uint8)
    fn = Unsteady(noise=0.05)
    labels = tile_process(
        image,
        lambda tile: fn(tile.sum(axis=0)),
        tile_shape=(6, 5),
        overlap=2,
        axes="cyx",
        channel=None,
        merge="agree",
        tiles_per_task=tiles_per_task,
    )
    one = image.sum(axis=0)
    assert np.array_equal(labels, naive.stitch(one, fn, naive.cut(one.shape, (6, 5)), (2, 2), 2, merge="agree"))


@pytest.mark.parametrize(("n_times", "tiles_per_task"), [(1, None), (1, 1), (2, 3)])
def test_time_points_are_joined_by_no_agreement(n_times, tiles_per_task):
    image = np.random.default_rng(0).integers(0, 3, (5, 19, 17), np.uint8)
    options = {
        "overlap": 2,
        "axes": "tyx",
        "merge": "agree",
        "min_agreement": 0.2,
        "tiles_per_task": tiles_per_task,
    }
    labels = tile_process(image, NOISY, tile_shape=(n_times, 6, 5), **options)
    lengths = naive.cut(image.shape, (n_times, 6, 5))
    expected = naive.stitch(image, NOISY, lengths, (0, 2, 2), 3, (1, 2), merge="agree", min_agreement=0.2)
    assert np.array_equal(labels, expected)
    assert len(np.unique(labels)) > 5


# -- the same bytes

CELLS = TissueCase((41, 37), (7, 9), (3, 2), fn=HUGE_IDS.fn, tissue="cells")
STORED = {"image": CELLS.mask, "merge": "agree", "overlap": CELLS.overlap, "tile_shape": CELLS.tile_shape}


@pytest.fixture
def clean(tmp_path):
    """What a run writes that is not disturbed, one tile per task, in one thread."""
    segment(CELLS.fn, write_to=tmp_path / "clean.zarr", **STORED)
    return contents(tmp_path / "clean.zarr")


@pytest.mark.parametrize("tiles_per_task", [1, 3])
def test_worker_processes_write_the_same_bytes(tiles_per_task, clean, pool, tmp_path):
    with dask.config.set(scheduler="processes", pool=pool, num_workers=2):
        segment(CELLS.fn, write_to=tmp_path / "out.zarr", **STORED | {"tiles_per_task": tiles_per_task})
    assert contents(tmp_path / "out.zarr") == clean


@pytest.mark.parametrize("point", [("task journalled", 5), ("seams matched", 1), ("box journalled", 2)])
@pytest.mark.parametrize("tiles_per_task", [1, 2])
def test_resumed_runs_write_the_same_bytes(point, tiles_per_task, tmp_path, monkeypatch):
    store_in_small_pieces(monkeypatch)
    options = STORED | {"tiles_per_task": tiles_per_task}
    segment(CELLS.fn, write_to=tmp_path / "clean.zarr", **STORED)
    interrupt_at(point[0], CELLS.fn, point[1], write_to=tmp_path / "out.zarr", **options)
    segment(CELLS.fn, resume=True, write_to=tmp_path / "out.zarr", **options)
    assert contents(tmp_path / "out.zarr") == contents(tmp_path / "clean.zarr")


@pytest.mark.parametrize("name", ["completed.npy", "completed-*.tiles"])
@pytest.mark.parametrize("damaged", [b"", None])
def test_F9_F11_what_completes_objects_is_found_again_where_it_is_damaged(name, damaged, clean, tmp_path):
    interrupt_at("seams matched", CELLS.fn, 1, write_to=tmp_path / "out.zarr", **STORED)
    (stage,) = tmp_path.glob("out.zarr.*-stage")
    paths = sorted(stage.glob(name))
    assert paths
    for path in paths:
        if damaged is None:
            path.unlink()
        else:
            path.write_bytes(damaged)
    segment(CELLS.fn, resume=True, write_to=tmp_path / "out.zarr", **STORED)
    assert contents(tmp_path / "out.zarr") == clean


def test_a_kept_stage_has_nothing_of_a_match_that_was_interrupted(tmp_path, monkeypatch):
    """More workers have more and smaller tasks: what those of the first run left has other names."""

    def stop(*_):
        raise KeyboardInterrupt

    options = STORED | {"tiles_per_task": 1, "keep_stage": True}
    with monkeypatch.context() as patch:
        patch.setattr("blockbuster.merge.completion.complete_brick", stop)
        with dask.config.set(scheduler="threads", num_workers=40), pytest.raises(KeyboardInterrupt):
            segment(CELLS.fn, write_to=tmp_path / "out.zarr", **options)
    (stage,) = tmp_path.glob("out.zarr.*-stage")
    assert len(list(stage.glob("ends-*.tiles"))) > 1
    (stage / "completed-99.tiles").touch()
    segment(CELLS.fn, resume=True, write_to=tmp_path / "out.zarr", **options)
    segment(CELLS.fn, write_to=tmp_path / "clean.zarr", **options)
    (clean_stage,) = tmp_path.glob("clean.zarr.*-stage")
    left, expected = ({path.name for path in folder.glob("*.tiles")} for folder in (stage, clean_stage))
    assert left == expected


# -- drawn by hand: what is defined where there is little to agree on


def drawn(text):
    """Labels from a drawing; a dot is background."""
    return np.array([[".abcdefghijklmnop".index(letter) for letter in row] for row in text.split()])


def join_drawn(shape, tile_shape, overlap, *drawings, **options):
    """Ids of tiles that are labelled as drawn, with all that is in their halo; the slow twin gives the same."""
    image = np.arange(np.prod(shape)).reshape(shape)
    lengths = naive.cut(shape, tile_shape)
    regions = [image[region] for *_, region in naive.tiles(lengths, overlap)]
    known = {region.tobytes(): drawn(text) for region, text in zip(regions, drawings, strict=True)}
    assert len(known) == len(regions)
    options = {"merge": "agree", "connectivity": image.ndim, "tiles_per_task": 1} | options

    def fn(tile):
        return known[tile.tobytes()]

    labels = tile_process(image, fn, tile_shape=tile_shape, overlap=overlap, **options)
    assert np.array_equal(
        labels,
        tile_process(image, fn, tile_shape=tile_shape, overlap=overlap, **options | {"tiles_per_task": None}),
    )
    del options["tiles_per_task"]
    assert np.array_equal(labels, naive.stitch(image, fn, lengths, overlap, **options))
    return labels.tolist()


def test_two_tiles_that_differ_by_a_voxel_on_a_line_as_thin_as_that_refuse_to_join_it():
    tiles = (
        """
        ......
        aaaaaa
        ......""",
        """
        aaaaaa
        ......
        ......""",
    )
    refused = [[0, 0, 0, 0, 2, 2, 2, 2], [1, 1, 1, 1, 0, 0, 0, 0], [0] * 8]
    joined = [[0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0], [0] * 8]
    run = functools.partial(join_drawn, (3, 8), (3, 4), (0, 2), *tiles)
    assert run() == run(min_agreement=0.001) == refused
    assert run(min_agreement=0) == run(merge="touch") == joined
    assert run(min_agreement=0, connectivity=1) == refused


def test_a_thicker_line_that_two_tiles_see_a_voxel_apart_is_joined_by_what_they_share():
    """Of the two rows that each of them saw they share one."""
    tiles = (
        """
        ......
        aaaaaa
        aaaaaa""",
        """
        aaaaaa
        aaaaaa
        ......""",
    )
    run = functools.partial(join_drawn, (3, 8), (3, 4), (0, 2), *tiles)
    assert run(min_agreement=0.5) == [[0, 0, 0, 0, 1, 1, 1, 1], [1] * 8, [1, 1, 1, 1, 0, 0, 0, 0]]
    assert run(min_agreement=0.51) == [
        [0, 0, 0, 0, 2, 2, 2, 2],
        [1, 1, 1, 1, 2, 2, 2, 2],
        [1, 1, 1, 1, 0, 0, 0, 0],
    ]


def test_an_object_that_ends_at_a_seam_is_not_joined_to_its_neighbour_beyond():
    tiles = (
        """
        .aaabb
        .aaabb""",
        """
        ccdddd
        ccdddd""",
    )
    run = functools.partial(join_drawn, (2, 8), (2, 4), (0, 2), *tiles)
    assert run(min_agreement=0.001) == [[0, 1, 1, 1, 2, 2, 2, 2]] * 2
    assert run(merge="touch") == [[0, 1, 1, 1, 1, 1, 1, 1]] * 2


def test_an_object_that_one_tile_alone_sees_ends_at_the_seam():
    tiles = (
        """
        ..aaaa
        ..aaaa""",
        """
        ......
        ......""",
    )
    assert join_drawn((2, 8), (2, 4), (0, 2), *tiles, min_agreement=0) == [[0, 0, 1, 1, 0, 0, 0, 0]] * 2


def test_an_object_that_one_tile_alone_saw_whole_is_completed():
    tiles = (
        """
        ..aaa.
        ..aaa.""",
        """
        ......
        ......""",
    )
    run = functools.partial(join_drawn, (2, 8), (2, 4), (0, 2), *tiles)
    assert run() == run(min_agreement=1) == [[0, 0, 1, 1, 1, 0, 0, 0]] * 2
    assert run(min_agreement=0) == run(merge="touch") == [[0, 0, 1, 1, 0, 0, 0, 0]] * 2
    flipped = [tile.replace("..aaa.", ".aaa..") for tile in reversed(tiles)]
    assert join_drawn((2, 8), (2, 4), (0, 2), *flipped) == [[0, 0, 0, 1, 1, 1, 0, 0]] * 2


def test_an_object_that_its_tile_saw_cut_off_is_not_completed():
    tiles = "..aaaa", "......"
    assert join_drawn((1, 8), (1, 4), (0, 2), *tiles) == [[0, 0, 1, 1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("found", "row"),
    [
        (".........", [0, 0, 0, 1, 1, 1, 1, 1, 0, 0]),
        ("......b..", [0, 0, 0, 1, 1, 0, 0, 2, 0, 0]),
        (".....bb..", [0, 0, 0, 1, 1, 0, 2, 2, 0, 0]),
    ],
)
def test_an_object_is_completed_where_the_other_tile_found_nothing(found, row):
    """The end has three voxels in the other tile: around an object of its own there it would be a ring."""
    assert join_drawn((1, 10), (1, 5), (0, 4), "...aaaaa.", found) == [row]


@pytest.mark.parametrize(
    ("first", "last", "row"),
    [
        ("...aaaa.", ".cccc...", [0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 0, 0]),
        ("...aaa..", ".cccc...", [0, 0, 0, 1, 1, 2, 2, 2, 2, 0, 0, 0]),
    ],
)
def test_of_two_ends_the_larger_one_is_completed_and_of_equal_ones_that_in_front(first, last, row):
    """The tile between them found nothing."""
    assert join_drawn((1, 12), (1, 4), (0, 4), first, "." * 12, last) == [row]


SEEN_WHOLE = np.arange(8)[None], {0: [0, 0, 1, 1, 1, 0], 2: [0] * 6}


def complete_drawn(fn=None, **options):
    """Labels of two tiles of which the first sees an object whole that the second does not see."""
    image, known = SEEN_WHOLE
    fn = fn or (lambda tile: np.array([known[tile.flat[0]]]))
    return tile_process(image, fn, tile_shape=(1, 4), overlap=(0, 2), merge="agree", **options).tolist()


def test_nothing_is_completed_in_a_tile_that_failed():
    def fn(tile):
        if tile.flat[0]:
            raise ArithmeticError("no luck")
        return np.array([SEEN_WHOLE[1][0]])

    with pytest.warns(UserWarning, match="1 tiles failed"):
        assert complete_drawn(fn, on_error="skip") == [[0, 0, 1, 1, 0, 0, 0, 0]]
    assert complete_drawn() == [[0, 0, 1, 1, 1, 0, 0, 0]]


def test_a_tile_that_was_skipped_as_empty_is_background():
    """What its neighbour saw of it is more than nothing."""
    image = np.array([[9, 9, 1, 1, 1, 1, 1, 1]])
    labels, report = tile_process(
        image,
        lambda tile: np.array([SEEN_WHOLE[1][0]]),
        tile_shape=(1, 4),
        overlap=(0, 2),
        merge="agree",
        skip_empty=True,
        empty_threshold=8,
        return_report=True,
    )
    assert (labels.tolist(), report.n_skipped) == ([[0, 0, 1, 1, 1, 0, 0, 0]], 1)


def test_nothing_is_completed_along_axes_that_are_not_merged():
    assert complete_drawn(axes="yx", merge_axes="y") == [[0, 0, 1, 2, 0, 0, 0, 0]]


def test_the_report_counts_ends_that_were_completed(tmp_path):
    tile = {"tile_shape": (1, 4), "overlap": (0, 2), "merge": "agree"}
    _, report = tile_process(
        SEEN_WHOLE[0], lambda tile: np.array([SEEN_WHOLE[1][tile.flat[0]]]), return_report=True, **tile
    )
    assert report.seams.completed == 1
    assert "1 end of an object was completed" in str(report.seams)


def test_an_object_of_which_a_tile_sees_its_own_half_alone_agrees_by_half():
    tiles = (
        """
        ..aaaa
        ..aaaa""",
        """
        ..cc..
        ..cc..""",
    )
    run = functools.partial(join_drawn, (2, 8), (2, 4), (0, 2), *tiles)
    assert run(min_agreement=0.5) == [[0, 0, 1, 1, 1, 1, 0, 0]] * 2
    assert run(min_agreement=0.501) == [[0, 0, 1, 1, 2, 2, 0, 0]] * 2


def test_pieces_agree_where_whole_labels_do_not():
    """What lies elsewhere in the halo, or joins beyond it, is not asked."""
    tiles = (
        """
        aaaaaa
        a.....
        a.aa.a
        a.....
        aaaaaa""",
        """
        aaaa..
        ......
        ......
        ......
        bbbbb.""",
    )
    labels = join_drawn((5, 8), (5, 4), (0, 2), *tiles, min_agreement=1)
    assert labels == [
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 1, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 0],
    ]


FACES = (
    """
    aa
    aa
    aa
    ..
    .b
    bb""",
    """
    ..
    ..
    cc
    cc
    d.
    d.""",
)


@pytest.mark.parametrize(("min_agreement", "second"), [(0.5, 1), (0.6, 3)])
def test_without_a_halo_the_faces_of_labels_agree(min_agreement, second):
    labels = join_drawn((6, 4), (6, 2), (0, 0), *FACES, min_agreement=min_agreement)
    c = second
    assert labels == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, c, c], [0, 0, c, c], [0, 2, 2, 0], [2, 2, 2, 0]]


def test_without_a_halo_the_pieces_of_faces_agree():
    tiles = (
        """
        aa
        a.
        aa""",
        """
        bb
        ..
        ..""",
    )
    assert join_drawn((3, 4), (3, 2), (0, 0), *tiles, min_agreement=1) == [
        [1, 1, 1, 1],
        [1, 0, 0, 0],
        [1, 1, 0, 0],
    ]


def test_without_a_halo_a_warning_asks_for_one():
    image = np.ones((4, 6), np.uint8)
    with pytest.warns(UserWarning, match="without a halo.*overlap") as caught:
        tile_process(image, naive.label, tile_shape=(2, 3), merge="agree")
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_without_a_halo_tiles_that_meet_at_a_corner_have_nothing_to_agree_on():
    eye = np.eye(4, dtype=np.uint8)
    fn = functools.partial(naive.label, connectivity=2)
    run = functools.partial(tile_process, eye, fn, tile_shape=(2, 2), merge="agree")
    assert np.array_equal(run(overlap=0, min_agreement=0.001), np.diag([1, 1, 2, 2]))
    # Aside by a voxel, the faces that are laid on each other share nothing.
    assert np.array_equal(run(overlap=(0, 1), min_agreement=0.001), np.diag([1, 1, 2, 2]))
    assert np.array_equal(run(overlap=0, min_agreement=0), eye)
    assert np.array_equal(run(overlap=1, min_agreement=1), eye)
    assert np.array_equal(run(overlap=1, min_agreement=0, connectivity=1), np.diag([1, 1, 2, 2]))


@pytest.mark.parametrize("overlap", [1, 2, 4])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("tiles_per_task", [None, 1])
def test_a_rake_of_twelve_teeth_is_one_object_on_either_side_of_its_spine(overlap, flipped, tiles_per_task):
    rake = np.zeros((23, 12), np.uint8)
    rake[::2] = rake[:, 0] = 1
    rake = rake[:, ::-1] if flipped else rake
    found = naive.agreements(rake, naive.label, ((23,), (6, 6)), (0, overlap), 1)
    assert list(found.values()) == [1.0] * 12
    labels = tile_process(
        rake,
        naive.label,
        tile_shape=(23, 6),
        overlap=(0, overlap),
        merge="agree",
        min_agreement=1,
        tiles_per_task=tiles_per_task,
    )
    assert np.array_equal(labels, rake)


def test_a_thin_last_tile_agrees_within_what_it_sees():
    """The last tile has one voxel, and a halo of two: of its three voxels the other tile has two in its label."""
    tiles = "aaaaaa", "bbbbbbc", "ddd"
    run = functools.partial(join_drawn, (1, 9), (1, 4), (0, 2), *tiles)
    assert run(min_agreement=0.66) == [[1] * 9]
    assert run(min_agreement=0.67) == [[1] * 8 + [3]]


def test_tiles_that_see_the_same_beyond_a_neighbour_are_not_compared():
    tiles = "aaaaa", "......", "aaaaa"
    assert join_drawn((1, 6), (1, 2), (0, 3), *tiles, min_agreement=0) == [[1, 1, 0, 0, 2, 2]]


def test_three_tiles_are_joined_by_the_one_that_agrees_with_both():
    """Along the middle the second tile agrees with the first and the third, which do not touch."""
    tiles = "aaab", "abbbba", "baaa"
    labels = join_drawn((1, 6), (1, 2), (0, 2), *tiles)
    assert labels == [[1, 1, 1, 1, 1, 1]]
