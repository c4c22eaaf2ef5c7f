"""Every benchmark runs at its smallest size, and measures what it says; no speed is asserted."""

import importlib.util
import itertools
import json
import os
import shlex
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import naive
import numpy as np
import pytest
import zarr
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from blockbuster.grid import TileGrid

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("BLOCKBUSTER_BENCH") != "small", reason="BLOCKBUSTER_BENCH=small is not set: no benchmarks"
    ),
]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def load():
    """Import a module of the benchmarks, which live beside the package and are not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        patch.setenv("BLOCKBUSTER_BENCH", "small")
        yield lambda name: importlib.import_module(f"benchmarks.{name}")


def run(*arguments, **options):
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def table_rows(text):
    """The cells of every table in the text, by the first cell of their row; a name may have several rows."""
    rows = {}
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| --"):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rows.setdefault(name, []).append(cells)
    return rows


@pytest.fixture(scope="module")
def engine_run(tmp_path_factory):
    """The text and the JSON of the smallest run of the engine's table, and the folder of its images."""
    folder = tmp_path_factory.mktemp("engine")
    text = run("benchmarks.engine", "--small", "--data", str(folder), "--json", str(folder / "rows.json"))
    return text, json.loads((folder / "rows.json").read_text()), folder


def test_engine_table_has_a_row_for_each_setting_and_part(engine_run, load):
    rows = table_rows(engine_run[0])
    for setting in load("settings").settings(small=True):
        ratio, memory, least = rows[setting.name]
        assert (len(ratio), len(memory), len(least)) == (7, 3, 5)
        assert ratio[-1] == memory[-1] == "not judged"


def test_engine_table_counts_the_objects_of_the_whole_image(engine_run, load):
    text, _, folder = engine_run
    for setting in load("settings").settings(small=True):
        pixels = zarr.open_array(setting.image.stored_in(folder), mode="r")[...]
        assert int(table_rows(text)[setting.name][0][0].replace(",", "")) == ndimage.label(pixels)[1]


def test_engine_json_has_the_seconds_of_every_call(engine_run):
    content = engine_run[1]
    assert content["machine"]["blockbuster-tiles"]
    for row in content["rows"]:
        assert len(row["loop_seconds"]) == len(row["engine_seconds"]) == 1
        assert row["ratio"] == row["engine_seconds"][0] / row["loop_seconds"][0]


def test_full_sizes_have_the_bounds_that_were_agreed(load):
    bounds = {s.name: (s.ratio_bound, s.memory_bound_bytes) for s in load("settings").settings(small=False)}
    assert bounds == {
        "16384^2 tile 1024 overlap 32": (0.8, None),
        "16384^2 tile 256 overlap 16": (0.24, 1e9),
        "8192^2 tile 128 overlap 16": (0.1, None),
        "512^3 tile 64 overlap 8": (0.5, None),
        "512^3 tile 32 overlap 8": (0.18, None),
    }


def test_small_work_has_a_row_for_each_measurement():
    rows = table_rows(run("benchmarks.small_work", "--small"))
    assert set(rows) == {
        "what",
        "python -c pass",
        "import blockbuster",
        "first use of tile_process",
        "16 calls of fn",
        "tile_process in 16 tiles",
        "difference of each pair",
    }


def test_durability_has_a_row_for_each_measurement_and_part(load):
    module = load("durability")
    rows = table_rows(run("benchmarks.durability", "--small"))
    for setting in load("settings").settings(small=True)[:2]:
        whole, *shares = rows[setting.name]
        assert (len(whole), whole[-1]) == (6, "not judged")
        assert [cells[0] for cells in shares] == [*module.PARTS, "all of these"]
    assert all(len(rows[name][0]) == 7 for name in ("journal and add up", "read back"))


def test_seam_cost_has_a_row_for_each_case_in_both_tables(load):
    rows = table_rows(run("benchmarks.seam_cost", "--small"))
    for case in load("seam_cost").cases(small=True):
        time, weight = rows[case.name]
        assert (len(time), time[-1]) == (7, "not judged")
        assert (len(weight), weight[-1]) == (7, "not judged")
        assert int(time[0].replace(",", "")) > 0
        assert float(weight[4]) > 0


def test_pyramid_compares_label_images_with_lone_arrays(load):
    rows = table_rows(run("benchmarks.pyramid", "--small"))
    for case in load("pyramid").cases(small=True):
        ((_, array, *_, peak, _, verdict),) = rows[case.name]
        assert float(array) > 0 < float(peak)
        assert verdict == "not judged"


def test_scaling_has_a_row_for_each_size_and_scheduler():
    rows = table_rows(run("benchmarks.scaling", "--small"))
    for scheduler in ("threads", "cluster"):
        for n in (16, 64, 256):
            assert any(float(cells[0]) > 0 for cells in rows[f"{n} on {scheduler}"])
        assert all(float(rows[f"{n} on {scheduler}"][-1][0]) > 0 for n in (25, 50))
        # Blocks of 2 x 2 pixels with a pixel between them, of which some lie across seams.
        _, (labels, objects, *_) = rows[f"64 on {scheduler}"]
        assert (labels, objects) == (f"{88 * 88:,}", f"{86 * 86:,}")


def test_phases_add_up_to_the_whole_run_and_have_each_a_least(load):
    module, rows = load("phases"), table_rows(run("benchmarks.phases", "--small"))
    for setting in load("settings").settings(small=True):
        found = {part: cells for part, *cells in rows[setting.name]}
        assert list(found) == [*module.PARTS, "waiting", "whole"]
        assert all(float(cells[0]) >= 0 for cells in found.values())
        assert all(float(found[part][2]) >= 0 for part in module.PARTS)
        sums = sum(float(cells[0]) for part, cells in found.items() if part != "whole")
        assert sums == pytest.approx(float(found["whole"][0]), abs=0.01)


def test_a_clock_takes_no_second_twice(load, monkeypatch):
    clock = load("phases").Clock()
    inner = clock.timed("inner", lambda: None)
    outer = clock.timed("outer", lambda: [inner(), inner()])
    # A second from one look at the time to the next.
    monkeypatch.setattr("benchmarks.phases.time", SimpleNamespace(perf_counter=itertools.count().__next__))
    outer()
    assert clock.seconds == {"inner": 2, "outer": 3}


def test_dask_chunks_has_a_row_for_each_image():
    rows = table_rows(run("benchmarks.dask_chunks", "--small"))["64"]
    assert [layers for layers, *_ in rows] == ["1", "64"]
    assert all(0 < float(peak) <= float(bound) for *_, peak, bound, _ in rows)


def test_workers_are_compared_with_threads():
    rows = table_rows(run("benchmarks.workers", "--small"))
    for name in ("free, 512^2 tile 256 overlap 16", "held, 512^2 tile 256 overlap 16"):
        ((threads, processes, *_, verdict),) = rows[name]
        assert float(threads) > 0 < float(processes)
        assert verdict == "not judged"


def test_python_labels_as_scipy_does(load):
    image = np.random.default_rng(3).random((40, 50)) < 0.5
    labels = load("workers").label_in_python(image)
    assert naive.partition_fault(labels, ndimage.label(image)[0]) == ""


def test_each_part_of_the_durability_can_be_switched_off_and_comes_back(load, tmp_path, monkeypatch):
    module, runs, setting = load("durability"), load("runs"), load("settings").settings(small=True)[0]
    path, labels = setting.image.stored_in(tmp_path), {}
    appended = []
    append = module.Journal.append
    monkeypatch.setattr(module.Journal, "append", lambda *given: appended.append(append(*given)))
    for off in [(), *((part,) for part in module.PARTS), tuple(module.PARTS)]:
        appended.clear()
        with module.without(*off):
            runs.run_engine(path, setting, tmp_path / "-".join(["off", *off]))
        assert bool(appended) == ("journal" not in off)
        labels[off] = zarr.open_array(tmp_path / "-".join(["off", *off]) / "labels.zarr/labels", mode="r")[...]
    for found in labels.values():
        np.testing.assert_array_equal(found, labels[()])


def test_seam_accuracy_shows_agree_equal_to_the_whole_image_where_touch_fuses_cells(load):
    rows = table_rows(run("benchmarks.seam_accuracy", "--small"))
    plane, volume, sparse = load("seam_cases").generated_cases(small=True)
    for case in (plane, volume, sparse):
        _, whole_halo, _, unstable = rows[case.name]
        n_objects = len(np.unique(case.fn(case.load()))) - (case is sparse)
        assert whole_halo[1:5:2] + unstable[4:5] == ["1", str(n_objects), "no"]
        assert whole_halo[4:5] + whole_halo[10:] == ["yes", "1.0000", "1.0000", "0", "0", "no"]
    touch = {case.kind + str(case.ndim): rows[case.name][1][5:10] for case in (plane, volume, sparse)}
    assert touch["sparse2"] == ["1.0000", "1.0000", "0", "0", "no"]
    assert float(touch["dense3"][0]) < float(touch["dense2"][0]) < 0.95
    assert [touch[kind][-1] for kind in ("dense2", "dense3")] == ["no", "yes"]
    gains = [float(cells[10]) - float(cells[5]) for case in (plane, volume) for cells in rows[case.name][2:]]
    assert min(gains) >= 0.02
    assert rows["2-D"][1][:2] + rows["2-D"][1][3:] == ["stable", "1"] + 6 * ["1.0000"]


def test_laboratory_of_seams_compares_all_rules_with_what_joins_could_reach():
    rows = table_rows(run("benchmarks.judged.seams", "--small"))
    rules = rows.pop("case")[0]
    assert rules[-5:] == ["pieces", "mutual", "agree", "seam oracle", "oracle"]
    # The first table has F1 at 0.5.
    f1 = {case: dict(zip(rules, map(float, found[0]), strict=True)) for case, found in rows.items()}
    assert len(f1) == 19
    assert all(max(scores.values()) == scores["oracle"] for scores in f1.values())
    assert f1["columns p 0.05"]["pieces"] + 0.2 < f1["columns p 0.05"]["agree"]
    stable = [scores for case, scores in f1.items() if " stable" in case]
    assert all(scores["pieces"] == scores["agree"] == 1 > scores["touch"] for scores in stable)


def test_outlines_are_timed_in_every_format():
    rows = table_rows(run("benchmarks.judged.polygons", "--small"))
    assert rows.pop("setting")[0][0] == "objects"
    assert len(rows) > 1
    assert all(int(cells[0].replace(",", "")) > 10 and cells[-1] == "not judged" for (cells,) in rows.values())


def test_tables_of_objects_are_timed_and_weighed():
    rows = table_rows(run("benchmarks.judged.measuring", "--small"))
    assert rows.pop("setting")[0][0] == "objects"
    judged = [found[0] for name, found in rows.items() if "without reading" not in name]
    assert len(judged) == 4
    assert all(int(cells[0]) > 10 and cells[-1] == "not judged" for cells in judged)
    rows = table_rows(run("benchmarks.judged.measuring", "--small", "--memory"))
    assert {"42,025"} < rows.keys()


def test_a_pretended_device_is_kept_busy_in_both_ways():
    rows = table_rows(run("benchmarks.judged.pipeline", "--small"))
    assert rows.pop("decode, batch")[0][0] == "least s"
    ((least, before, ours, *_, judged),) = rows["5 ms, 4"]
    assert float(least) == pytest.approx(20 * (0.02 + 0.005 / 4), rel=0.01)
    assert min(float(before), float(ours)) > float(least)
    assert judged == "not judged"


def test_self_error_judges_every_second_run_and_says_what_it_cannot_know():
    rows = table_rows(run("benchmarks.judged.seams.self_error", "--small"))
    assert rows["all"][0][0] == "3"
    assert int(rows["sure"][0][0]) + int(rows["not sure"][0][0]) == 3
    assert rows["columns p 0.05"][0][0] == rows["stack of nuclei"][0][0] == "none"
    predicted, true = rows["wrong alike"][0]
    assert float(predicted.split()[0]) > 0.99
    assert float(true) < 0.1


def test_laboratory_of_seams_counts_at_seams_what_a_run_does(load):
    tile_image, rule = load("seam_accuracy").tile_image, load("judged.seams.rules").Agree()
    for case in load("judged.seams.cases").cases(small=True):
        expected = load("judged.seams.self_error").measure(case).seams
        with warnings.catch_warnings(record=True):
            _, report = tile_image(case.image, case.fn, case.tile, case.halo, merge=rule.name)
        assert report.seams.counts == expected, case.name


@pytest.mark.parametrize(("rule", "merge"), [("Touch", "touch"), ("Agree", "agree")])
def test_laboratory_of_seams_merges_as_the_package_does(load, rule, merge):
    tile_image, laboratory = load("seam_accuracy").tile_image, load("judged.seams.rules")
    for case in load("judged.seams.cases").cases(small=True):
        found = load("judged.seams.predictions").Predictions(case.image, case.fn, case.tile, case.halo)
        chosen = getattr(laboratory, rule)()
        labels = laboratory.merge(found, chosen.joins(found), chosen.completes(found))
        with warnings.catch_warnings(record=True):
            expected, _ = tile_image(case.image, case.fn, case.tile, case.halo, merge=merge)
        assert naive.partition_fault(labels, np.asarray(expected)) == "", case.name


def test_no_image_of_the_laboratory_is_in_both_halves(load):
    cases = load("judged.seams.cases")
    halves = [
        {(case.name, case.image.tobytes()) for case in cases.cases(small=True, half=half)}
        for half in cases.HALVES
    ]
    assert {name for name, _ in halves[0]} == {name for name, _ in halves[1]}
    # Without fusions the columns are the same ones.
    assert {name for name, _ in halves[0] & halves[1]} == {"columns p 0"}


def test_functions_of_the_laboratory_see_the_same_voxels_the_same(load):
    for case in load("judged.seams.cases").cases(small=True, half="tuned"):
        np.testing.assert_array_equal(case.fn(case.image), case.fn(case.image.copy(order="F")))


def test_no_joins_put_more_voxels_into_the_right_object_than_the_oracle(load):
    """Over all subsets, in small images. In F1 some do: pieces left over cost less when glued to anything."""
    oracle, score = load("judged.seams.oracle"), load("judged.seams.comparison").score_labels
    gaps, more = [], 0
    for found, truth in small_predictions(load, 50):
        merge = partial(load("judged.seams.rules").merge, found)
        subsets = itertools.product((False, True), repeat=len(found.contacts))
        merged = [merge(itertools.compress(sorted(found.contacts), chosen)) for chosen in subsets]
        by_seams, by_any = (merge(kind(truth).joins(found)) for kind in (oracle.SeamOracle, oracle.Oracle))
        assert max(n_voxels_right(truth, labels) for labels in merged) <= n_voxels_right(truth, by_any)
        scores = [score(truth, labels) for labels in merged]
        more += max(one.matched[0.5] for one in scores) - score(truth, by_seams).matched[0.5]
        gaps.append(max(one.f1() for one in scores) - score(truth, by_seams).f1())
    assert more <= 1
    assert 0.01 < np.mean(gaps) < 0.02
    assert 0.05 < np.max(gaps) < 0.15


def n_voxels_right(truth, labels):
    """Voxels in common with the right object, the objects matched one to one as well as can be."""
    shared = np.zeros((truth.max() + 1, labels.max() + 1), int)
    np.add.at(shared, (truth, labels), 1)
    return shared[1:, 1:][linear_sum_assignment(-shared[1:, 1:])].sum()


def small_predictions(load, n):
    """The first images of two tiles and up to ten contacts, and what is right there."""
    watersheds, dense_image = load("watersheds"), load("tissue").dense_image
    fn = watersheds.DenseWatershed(10)
    for seed in itertools.count(1):
        image = dense_image((24, 26), 10, seed)
        unstable = watersheds.Unstable(fn, 0.3)
        found = load("judged.seams.predictions").Predictions(image, unstable, (14, 26), (4, 4))
        if 2 <= len(found.contacts) <= 10:
            yield found, fn(image)
            n -= 1
        if not n:
            return


def test_straight_cuts_are_faces_at_seams_less_those_inside_of_tiles(load):
    straight_cuts = load("judged.seams.scores").straight_cuts
    labels = np.zeros((8, 16), int)
    labels[2:6, 4:8] = 1
    grid = TileGrid.regular(labels.shape, (8, 8), (8, 8))
    # 4 of 16 faces at the seam, and as many at voxel 4, where 3 of the 9 places inside of the tile are.
    assert straight_cuts(labels, grid) == pytest.approx(100 * 4 / 16 * (1 - 3 / 9))
    labels[2:6, 12:16] = 2
    # Another one beyond reach of the planes does not count; within reach it has no face there.
    near = TileGrid.regular(labels.shape, (8, 8), (3, 3))
    assert straight_cuts(labels, near) == pytest.approx(100 * 4 / 16 * (1 - 3 / 9))
    wide = TileGrid.regular(labels.shape, (8, 8), (12, 12))
    assert straight_cuts(labels, wide) == pytest.approx(100 * 4 / 16 * (1 - 3 / 9) / 2)
    assert np.isnan(straight_cuts(labels, TileGrid.regular(labels.shape, (1, 16), (0, 0))))


def test_objects_are_the_same_up_to_a_voxel_in_a_hundred(load):
    scores = load("judged.seams.scores")
    one = np.repeat([[1, 2, 3, 4]], 300, axis=0).repeat([100, 1, 1, 1], axis=1)
    other = np.where(one == 1, 7, one)
    other[:99, 100] = 7
    other[:99, 101] = 0
    other[:, 102] = 9
    assert scores.same_objects(one, one[::-1]) == 1
    assert scores.same_objects(one, other) == pytest.approx(2 * 2 / 8)


def test_shifted_grid_begins_with_half_a_tile_where_there_are_seams(load):
    shifted = load("judged.seams.scores").shifted
    grid = shifted(TileGrid.regular((10, 9), (4, 9), (1, 1)))
    assert (grid.lengths, grid.halo) == (((2, 4, 4), (9,)), (1, 1))
    assert shifted(TileGrid.regular((5, 9), (1, 9), (0, 0))) is None


def test_interior_score_leaves_objects_at_the_border_out(load):
    expected, found = np.array([[1, 1, 0, 2, 2, 0, 3, 3]]), np.array([[4, 4, 0, 5, 5, 0, 6, 0]])
    inner = (slice(None), slice(1, 7))
    assert load("scoring").compare_interior(expected, found, inner) == (2, 3)


@pytest.mark.parametrize(("shape", "diameter"), [((61, 83), 9), ((23, 31, 29), 8)])
def test_voronoi_tissue_fills_space_with_connected_cells_of_its_seed(load, shape, diameter):
    draw = load("tissue").voronoi_labels
    labels = draw(shape, diameter, 1)
    assert (labels.shape, labels.min(), labels.dtype) == (shape, 1, "int32")
    np.testing.assert_array_equal(labels, draw(shape, diameter, 1))
    assert (labels != draw(shape, diameter, 2)).any()
    numbers = range(1, labels.max() + 1)
    assert [ndimage.label(labels == number)[1] for number in numbers] == [1] * len(numbers)
    assert labels.size / diameter ** len(shape) < labels.max() < 3 * labels.size / diameter ** len(shape)


def asv_cases(module):
    """Every method of the classes that asv would call, with each parameter."""
    public = {name: kind for name, kind in vars(module).items() if not name.startswith("_")}
    for name, kind in public.items():
        methods = [key for key in dir(kind) if key.startswith(("time_", "timeraw_", "peakmem_"))]
        for method, values in itertools.product(methods, itertools.product(*getattr(kind, "params", ()))):
            yield f"{name}.{method}", kind, method, values


def test_asv_classes_cover_the_loop_and_the_engine_at_every_size(load):
    cases = list(asv_cases(load("bench_engine")))
    sizes = {setting.name for setting in load("settings").settings(small=True)}
    for method in ("time_plain_loop", "time_tile_process", "peakmem_tile_process"):
        assert {values[0] for _, _, called, values in cases if called == method} == sizes


def test_every_asv_method_runs_and_cleans_up(load, tmp_path, monkeypatch):
    module = load("bench_engine")
    monkeypatch.chdir(tmp_path)
    for name, kind, method, values in asv_cases(module):
        benchmark = kind()
        if method.startswith("timeraw"):
            run_code(getattr(benchmark, method)())
            continue
        cached = (benchmark.setup_cache(),) if hasattr(benchmark, "setup_cache") else ()
        benchmark.setup(*cached, *values)
        getattr(benchmark, method)(*cached, *values)
        if cached:
            written = (benchmark.scratch / "labels.zarr").exists()
            assert written == (not method.endswith("plain_loop")), name
            benchmark.teardown(*cached, *values)
            assert not benchmark.scratch.exists(), name


def test_every_asv_method_of_parts_runs_and_cleans_up(load, temporary):
    for _, kind, method, values in asv_cases(load("bench_parts")):
        benchmark = kind()
        getattr(benchmark, "setup", lambda *given: None)(*values)
        code = getattr(benchmark, method)(*values)
        if method.startswith("timeraw"):
            run_code(code)
        getattr(benchmark, "teardown", lambda *given: None)(*values)
        assert list(temporary.iterdir()) == []


def run_code(code):
    """Run what asv times in a process of its own; with a setup, that is the second of two texts."""
    lines = [code] if isinstance(code, str) else reversed(code)
    subprocess.run([sys.executable, "-c", "".join(lines)], cwd=ROOT, check=True)


@pytest.mark.skipif(importlib.util.find_spec("asv") is None, reason="asv is not installed")
def test_asv_accepts_the_configuration_and_the_classes(tmp_path):
    environment = os.environ | {"HOME": str(tmp_path), "BLOCKBUSTER_BENCH": "small"}
    text = run("asv", "check", "--python=same", "--config", "benchmarks/asv.conf.json", env=environment)
    assert "No problems found" in text


@pytest.mark.skipif(importlib.util.find_spec("asv") is None, reason="asv is not installed")
@pytest.mark.parametrize("page", ["benchmarks/README.md", "docs/benchmarks.md"])
def test_asv_learns_the_machine_by_the_command_of_the_page(page, tmp_path):
    (command,) = (line for line in (ROOT / page).read_text().splitlines() if line.startswith("asv machine"))
    run(*shlex.split(command, comments=True), env=os.environ | {"HOME": str(tmp_path)})
    assert (tmp_path / ".asv-machine.json").is_file()


@pytest.mark.parametrize(("draw", "length"), [("disc_rows", 107), ("blob_planes", 43)])
def test_image_drawn_in_slabs_is_the_image_drawn_at_once(load, draw, length):
    function = getattr(load("images"), draw)
    cuts = [0, 11, 24, 31, length]
    slabs = [function(length, *pair) for pair in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(slabs), function(length, 0, length))


def test_discs_are_10_to_24_pixels_wide_and_round(load):
    discs = load("images").disc_rows(24 * 20, 0, 24 * 20)
    cells = discs.reshape(20, 24, 20, 24).transpose(0, 2, 1, 3).reshape(400, 24, 24)
    widths = cells.any(axis=1).sum(axis=1)
    assert set(widths) == set(range(10, 25))
    np.testing.assert_array_equal(widths, cells.any(axis=2).sum(axis=1))
    np.testing.assert_allclose(cells.sum(axis=(1, 2)), np.pi * widths**2 / 4, rtol=0.08)


def test_stored_image_has_its_values_chunks_and_type(load, tmp_path):
    path = load("images").Image("discs", 100, 32, "uint8").stored_in(tmp_path)
    array = zarr.open_array(path, mode="r")
    assert (array.shape, array.chunks, array.dtype) == ((100, 100), (32, 32), "uint8")
    assert np.unique(array[...]).tolist() == [0, 200]
    assert os.listdir(tmp_path) == [path.name]


def test_loop_reads_the_regions_that_blockbuster_reads(load):
    grid = TileGrid.regular((37, 23), (11, 7), (5, 5))
    ours = [grid.region(tile) for tile in grid.indices()]
    assert list(load("settings").boxes((37, 23), (11, 7), 5)) == ours


@pytest.mark.parametrize(
    ("value", "bound", "said"),
    [(0.3, 0.42, "pass"), (0.42, 0.42, "pass"), (0.43, 0.42, "FAIL"), (9, None, "not judged")],
)
def test_verdict_compares_with_the_bound(load, value, bound, said):
    assert load("table").verdict(value, bound) == said


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0004567, "0.000457"), (0.1, "0.1"), (12.345, "12.3"), (1234.5, "1230"), (-0.00213, "-0.00213")],
)
def test_short_times_are_not_shown_as_none(load, value, shown):
    assert load("table").significant(value) == shown


def test_peak_memory_is_that_of_the_new_process_alone(load, tmp_path):
    held = np.ones(5 * 10**8, "uint8")
    path = load("settings").settings(small=True)[0].image.stored_in(tmp_path)
    peak = load("own_process").call_in_own_process("engine.peak_bytes", path, 0, True)
    assert peak < held.nbytes < load("runs").peak_memory_bytes()


def test_chosen_thresholds_of_empty_tiles_lose_less_than_otsus_and_nothing_without_a_warning():
    rows = {name: row for name, (row,) in table_rows(run("benchmarks.empty_tiles", "--small")).items()}
    titles = rows.pop("image, tiles of 64")
    assert len(rows) == 17
    losses = [(int(row[3]), int(row[6]), row[7]) for row in rows.values() if row[3] != "-"]
    assert titles[-1] == "warned"
    assert all(lost <= by_otsu for by_otsu, lost, _ in losses)
    assert sum(by_otsu > lost for by_otsu, lost, _ in losses) >= 3
    assert {said for _, lost, said in losses if lost} == {"yes"}
    assert {said for _, lost, said in losses if not lost} == {"no"}


def test_tools_are_compared_on_the_same_labels(load, tmp_path):
    """Those of others have environments of their own, which are not made here."""
    compare = load("compare")
    for workload in compare.workloads(small=True):
        folder = tmp_path / workload.image.kind
        folder.mkdir()
        call = compare.call_tool(sys.executable, compare.OURS, workload, tmp_path, folder)
        pixels = zarr.open_array(workload.image.stored_in(tmp_path), mode="r")[...]
        assert naive.partition_fault(zarr.open_array(call.labels, mode="r")[...], ndimage.label(pixels)[0]) == ""
        assert call.seconds > 0
        assert call.peak_bytes > 10**7


@pytest.mark.parametrize(
    ("theirs", "n"),
    [
        ([0, 7, 7, 0, 1, 2], 0),
        ([0, 7, 7, 0, 1, 1], 2),
        ([0, 7, 8, 0, 1, 2], 1),
        # Background is an object too.
        ([0, 7, 0, 0, 1, 2], 2),
        ([5, 7, 7, 5, 1, 2], 1),
    ],
)
def test_objects_that_differ_are_counted(load, tmp_path, theirs, n):
    for name, labels in (("ours", [0, 1, 1, 0, 2, 3]), ("theirs", theirs)):
        zarr.create_array(tmp_path / name, data=np.array([labels, labels]), chunks=(1, 4))
    assert load("compare").partition_faults(str(tmp_path / "ours"), str(tmp_path / "theirs")) == n
