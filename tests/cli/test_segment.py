"""The command line: labels against scipy on the whole image, exit statuses, messages."""

import json
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from commands import read, run, run_module, spots, tree, write_array
from naive import partition_fault
from scipy import ndimage
from skimage.filters import threshold_otsu

import blockbuster

CORNERS = np.ones((3, 3))
NO_DEPTH = np.stack([np.zeros((3, 3)), CORNERS, np.zeros((3, 3))])


def test_otsu_equals_the_threshold_and_label_of_the_whole_image(image, here, capsys):
    assert run("segment image.zarr --fn otsu --tile-shape 16,17 --overlap 3 --write-to out.zarr") == 0
    threshold = threshold_otsu(image)
    expected, n_expected = ndimage.label(image > threshold)
    assert partition_fault(read("out.zarr"), expected) == ""
    out = capsys.readouterr().out
    assert f"threshold {threshold}\n" in out
    assert f"20 tiles: 20 run, 0 empty; {n_expected} objects" in out
    assert f"labels    {here / 'out.zarr' / 'labels'} (61, 83) int32\n" in out


@pytest.mark.parametrize("connectivity", [1, 2])
def test_built_in_functions_connect_voxels_as_the_merge_does(image, connectivity):
    argv = f"segment image.zarr --fn threshold:110 --connectivity {connectivity} --tile-shape 9,11 --write-to o"
    assert run(argv) == 0
    structure = ndimage.generate_binary_structure(2, connectivity)
    assert partition_fault(read("o"), ndimage.label(image > 110, structure)[0]) == ""


@pytest.mark.parametrize("options", ["--axes zyx --merge-axes yx", "--axes tyx"])
@pytest.mark.parametrize("tile_shape", ["1,7,9", "3,7,9"])
def test_built_in_functions_never_connect_what_the_merge_keeps_apart(here, options, tile_shape):
    pixels = spots((5, 23, 29))
    write_array("stack.zarr", pixels, pixels.shape)
    argv = (
        f"segment stack.zarr --fn threshold:100 {options} --connectivity 2 --write-to o --tile-shape {tile_shape}"
    )
    assert run(argv) == 0
    assert partition_fault(read("o"), ndimage.label(pixels > 100, NO_DEPTH)[0]) == ""


def test_channel_none_labels_every_channel_by_itself(here):
    pixels = spots((2, 23, 29))
    write_array("channels.zarr", pixels, pixels.shape)
    argv = "segment channels.zarr --fn threshold:100 --axes cyx --channel none --tile-shape 7,9 --write-to o"
    assert run(argv) == 0
    structure = NO_DEPTH * ndimage.generate_binary_structure(2, 1)
    assert partition_fault(read("o"), ndimage.label(pixels > 100, structure)[0]) == ""


def test_channel_number_selects_a_channel(here):
    pixels = spots((2, 23, 29))
    write_array("channels.zarr", pixels, pixels.shape)
    assert run("segment channels.zarr --fn threshold:100 --axes cyx --channel 1 --write-to o") == 0
    assert partition_fault(read("o"), ndimage.label(pixels[1] > 100)[0]) == ""


@pytest.mark.parametrize(("dtype", "bright"), [("bool", True), ("float32", np.nan)])
def test_otsu_takes_masks_and_ignores_nan(here, dtype, bright):
    pixels = spots((31, 37)) > 110
    image = pixels.astype(dtype)
    image[0, 0] = bright
    write_array("image.zarr", image, image.shape)
    assert run("segment image.zarr --fn otsu --tile-shape 8,8 --write-to o") == 0
    assert partition_fault(read("o"), ndimage.label(np.nan_to_num(image) > 0)[0]) == ""


def test_a_function_is_imported_from_the_current_folder(image, here):
    (here / "dim_objects.py").write_text(
        "from scipy import ndimage\ndef find(tile):\n    return ndimage.label(tile < 70)[0]"
    )
    assert run("segment image.zarr --fn dim_objects:find --tile-shape 20,20 --write-to o") == 0
    assert partition_fault(read("o"), ndimage.label(image < 70)[0]) == ""


def test_underscores_are_taken_for_dashes_in_names_of_options_alone(image, here):
    (here / "my_fns.py").write_text(
        "class _My:\n    find_all = staticmethod(lambda tile: (tile > 0).astype('int32'))"
    )
    argv = (
        "segment image.zarr --fn my_fns:_My.find_all --tile_shape=20,20 --write_to out_1 --output_component a_b"
    )
    assert run(argv) == 0
    assert partition_fault(read("out_1", "a_b"), (image > 0).astype(int)) == ""


def test_options_reach_the_run(image, here, capsys, caplog):
    caplog.set_level("INFO", "blockbuster")
    argv = (
        "segment image.zarr --fn threshold:110 --tile-shape 20,30 --write-to o --output-component a/b "
        "--tiles-per-task 2 --verbose --skip-empty --empty-threshold 150 --sequential-labels "
        "--stage-dir stages --keep-stage"
    )
    assert run(argv) == 0
    tiles = [(slice(i, i + 20), slice(j, j + 30)) for i in range(0, 61, 20) for j in range(0, 83, 30)]
    shown = [tile for tile in tiles if image[tile].max() > 150]
    assert 0 < len(shown) < len(tiles)
    kept = np.zeros(image.shape, bool)
    for tile in shown:
        kept[tile] = True
    expected, n_expected = ndimage.label((image > 110) & kept)
    labels = read("o", "a/b")
    assert partition_fault(labels, expected) == ""
    assert np.unique(labels).tolist() == list(range(n_expected + 1))
    counts = f"12 tiles: {len(shown)} run, {12 - len(shown)} empty (maximum <= 150); {n_expected} objects"
    assert counts in capsys.readouterr().out
    assert "[0:20, 0:30]" in caplog.text
    (stage,) = (here / "stages").iterdir()
    assert re.fullmatch(r"o\.a\.b\.[0-9a-f]{8}\.blockbuster-stage", stage.name)


def test_verbose_shows_the_report_once_on_stdout(image, here):
    options = "--fn threshold:110 --tile-shape 40,50 --write-to o --verbose"
    done = run_module("segment", "image.zarr", *options.split(), folder=here)
    assert done.returncode == 0, done.stderr
    assert "[0:40, 0:50]" in done.stderr
    assert (done.stdout.count("4 tiles: 4 run"), done.stderr.count("4 tiles: 4 run")) == (1, 0)


def test_verbose_and_json_show_the_report_in_words_on_stderr(image, here):
    options = "--fn threshold:110 --tile-shape 40,50 --write-to o --verbose --json"
    done = run_module("segment", "image.zarr", *options.split(), folder=here)
    assert json.loads(done.stdout)["n_run"] == 4
    assert done.stderr.count("4 tiles: 4 run") == 1


def test_numbers_are_told_and_used_as_they_are_written(image, here, capsys):
    assert run("segment image.zarr --fn otsu --write-to o --merge agree --min-agreement 2") == 2
    assert "min_agreement is 2;" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("segment image.zarr --fn otsu --write-to o --empty-threshold high")
    assert "'high' is not a number" in capsys.readouterr().err


def test_tile_shape_auto_and_one_overlap_per_axis_reach_the_plan(here, capsys):
    write_array("stack.zarr", np.zeros((4, 30, 40), "uint8"), (4, 10, 10))
    plan = "segment stack.zarr --fn otsu --write-to o --dry-run --overlap"
    assert run(f"{plan} 0,2,3 --tile-shape auto") == 0
    assert run(f"{plan} 5, --tile-shape 2,15,20") == 0
    tiles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tiles")]
    assert tiles == [
        "tiles     1 of 4 x 30 x 40, 1 x 1 x 1, halo 0 x 2 x 3",
        "tiles     8 of 2 x 15 x 20, 2 x 2 x 2, halo 0 x 0 x 5",
    ]


def test_dry_run_prints_the_plan_and_writes_nothing(image, here, capsys):
    before = tree(here)
    options = {"tile_shape": (20, 20), "overlap": 4, "write_to": "o"}
    argv = "segment image.zarr --fn otsu --tile-shape 20,20 --overlap 4 --write-to o --dry-run"
    assert run(argv) == 0
    assert capsys.readouterr().out == f"{blockbuster.plan_run('image.zarr', **options)}\n"
    assert tree(here) == before


def test_schedulers_and_numbers_of_workers_give_the_same_bytes(image, here):
    argv = "segment image.zarr --fn otsu --tile-shape 20,20 --write-to"
    assert run(f"{argv} a --scheduler synchronous") == run(f"{argv} b --scheduler threads --workers 3") == 0
    assert read("a").max() > 0
    assert read("a").tobytes() == read("b").tobytes()


def test_workers_is_the_number_of_tasks_that_run_at_once(image, here):
    (here / "counting.py").write_text(
        textwrap.dedent(
            """
            import threading, time
            running, most = set(), []
            def find(tile):
                running.add(threading.get_ident())
                most.append(len(running))
                end = time.monotonic() + 20
                while max(most) < 3 and time.monotonic() < end:
                    time.sleep(0.01)
                time.sleep(0.02)
                running.discard(threading.get_ident())
                return (tile > 0).astype("int32")
            """
        )
    )
    argv = "segment image.zarr --fn counting:find --tile-shape 10,10 --tiles-per-task 1 --write-to o --workers 3"
    assert run(argv) == 0
    assert max(sys.modules["counting"].most) == 3


def test_progress_is_shown_when_asked_for_and_else_only_on_a_terminal(image, capsys, monkeypatch):
    argv = "segment image.zarr --fn otsu --tile-shape 20,20 --overwrite --write-to o"
    assert run(argv) == 0
    assert capsys.readouterr().err == ""
    assert run(f"{argv} --progress") == 0
    assert "20/20" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(argv) == 0
    assert "20/20" in capsys.readouterr().err
    assert run(f"{argv} --no-progress") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--overlap -3", "overlap is -3; it is a number of voxels, 0 or more."),
        ("--tile-shape 16", "tile_shape is 16; it is None (the image's chunks), a tuple"),
        ("--tile-shape 0,16", "tile_shape[0] is 0"),
        ("--level 1", "level is 1"),
        ("--channel 2", "channel is 2"),
        ("--axes zyx", "axes is 'zyx', 3 letters"),
        ("--connectivity 3", "connectivity is 3; it is a number from 1 (faces) to 2"),
        ("--merge glue", "merge is 'glue'; it is one of 'touch', 'agree', 'none'."),
        ("--min-agreement 2", "min_agreement is 2;"),
        ("--on-error ignore", "on_error is 'ignore'"),
        ("--skip-empty --empty-threshold nan", "empty_threshold is nan"),
        ("--tiles-per-task 0", "tiles_per_task is 0"),
        ("--write-to image.zarr/0", "give another path."),
        ("--write-to file.txt", "file.txt is a file"),
        ("--fn nowhere:find", "--fn nowhere:find: there is no module 'nowhere' in"),
        ("--fn good.py:find", "Write good:find."),
        ("--fn broken:find", "importing broken raised ZeroDivisionError: division by zero ("),
        ("--fn lacking:find", "lacking needs a module that is not there: No module named 'not_there'."),
        ("--fn good:fnid", "good has no 'fnid'. It has: find."),
        ("--fn good:CONSTANT", "fn is 3; it is a function from a tile to its labels"),
        ("--overlap -3 --connectivity 3", "2 arguments are wrong"),
    ],
)
def test_a_wrong_argument_is_status_2_a_message_and_nothing_written(
    image, here, capsys, monkeypatch, options, message
):
    (here / "broken.py").write_text("x = 1\ny = x / 0")
    (here / "lacking.py").write_text("import not_there")
    (here / "good.py").write_text("CONSTANT = 3\ndef find(tile): return tile")
    (here / "file.txt").write_text("mine")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = tree(here)
    assert run(f"segment image.zarr --fn otsu --write-to o {options}") == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("blockbuster: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert tree(here) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("segment image.zarr --fn otsu", "--write-to"),
        ("segment image.zarr --write-to o", "--fn"),
        ("segment --fn otsu --write-to o", "IMAGE"),
        ("segment a --fn median --write-to o", "'median' is not otsu, threshold:VALUE, watershed"),
        ("segment a --fn threshold:nan --write-to o", "threshold:nan needs a number, e.g. threshold:120."),
        ("segment a --fn :f --write-to o", "':f' is not otsu"),
        (
            "segment a --fn otsu --write-to o --tile-shape Auto",
            "'Auto' is not voxels per axis, e.g. 256,256, or auto",
        ),
        ("segment a --fn otsu --write-to o --overlap 1.5", "'1.5' is not a number of voxels"),
        ("segment a --fn otsu --write-to o --channel all", "'all' is neither a number nor none."),
        ("segment a --fn otsu --write-to o --workers 0", "'0' is not a whole number, 1 or more."),
        ("segment a --fn otsu --write-to o --scheduler gpu", "'gpu'"),
        ("segment a --fn otsu --write-to o --overw", "--overw"),
        ("", "COMMAND"),
        ("segmnt", "segmnt"),
    ],
)
def test_what_cannot_be_read_is_status_2_and_says_how_it_is_written(here, capsys, argv, message):
    with pytest.raises(SystemExit) as stopped:
        run(argv)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_image_is_status_2_and_names_what_lies_beside_it(image, capsys):
    assert run("segment imag.zarr --fn otsu --write-to o") == 2
    assert "imag.zarr does not exist" in (err := capsys.readouterr().err)
    assert "image.zarr" in err


def test_otsu_of_a_complex_image_is_refused_before_any_work(here, capsys):
    write_array("image.zarr", np.zeros((4, 4), "complex64"), (4, 4))
    assert run("segment image.zarr --fn otsu --write-to o") == 2
    assert "--fn otsu needs an image of real numbers; this one is complex64." in capsys.readouterr().err
    assert not (here / "o").exists()


def test_existing_labels_are_kept_unless_overwrite_is_given(image, here, capsys):
    argv = "segment image.zarr --write-to o --fn"
    assert run(f"{argv} threshold:110") == 0
    before = tree(here)
    assert run(f"{argv} threshold:90") == 2
    assert "exists; pass --overwrite to replace it" in capsys.readouterr().err
    assert tree(here) == before
    assert run(f"{argv} threshold:90 --overwrite") == 0
    assert partition_fault(read("o"), ndimage.label(image > 90)[0]) == ""


def test_a_function_that_fails_is_status_1_with_the_tile_and_the_way_to_go_on(image, here, capsys):
    (here / "failing.py").write_text(
        "def find(tile):\n    return tile // 0 if tile.shape == (1, 23) else tile * 0\n"
    )
    (here / "mended.py").write_text("def find(tile):\n    return tile * 0 + 1\n")
    argv = "segment image.zarr --tile-shape 20,30 --tiles-per-task 1 --write-to o --fn"
    with np.errstate(divide="raise"):
        assert run(f"{argv} failing:find --scheduler synchronous") == 1
    err = capsys.readouterr().err
    assert err.startswith("blockbuster: tile (3, 2) [60:61, 60:83]: fn raised FloatingPointError")
    assert "failing.py" in err
    assert f"The stage is kept in {here / 'o.labels.blockbuster-stage'}; call again with --resume" in err
    way_on = f"blockbuster {argv} failing:find --scheduler synchronous --resume"
    assert err.endswith(f"\nTo continue: {way_on}\n")
    assert not (here / "o").exists()
    assert run(f"{argv} mended:find") == 2
    assert "pass --resume to continue it, or --overwrite to start anew" in capsys.readouterr().err
    assert run(f"{argv} mended:find --resume") == 2
    assert "fn: " in capsys.readouterr().err
    assert run(f"{argv} mended:find --overwrite") == 0
    assert read("o").min() == read("o").max() == 1


def test_an_image_that_cannot_be_read_is_status_1_without_a_traceback(image, here, capsys):
    (here / "image.zarr/c/1/1").write_bytes(b"not a chunk")
    assert run("segment image.zarr --fn otsu --write-to o") == 1
    err = capsys.readouterr().err
    assert re.match(r"blockbuster: the chunk file \S+image.zarr/c/1/1 cannot be decoded: \w+: ", err)
    assert "Traceback" not in err
    assert run("segment image.zarr --fn threshold:9 --write-to o") == 1
    assert "tile (1, 1) [20:40, 30:60]: reading the image raised" in capsys.readouterr().err


def test_python_dash_m_runs_a_function_from_the_current_folder_in_processes(image, here):
    (here / "bright.py").write_text(
        "from scipy import ndimage\ndef find(t):\n    return ndimage.label(t > 110)[0]"
    )
    argv = "segment image.zarr --fn bright:find --tile-shape 30,30 --write-to o --scheduler processes --workers 2"
    done = run_module(*argv.split(), folder=here)
    assert (done.returncode, done.stderr) == (0, "")
    expected, n_expected = ndimage.label(image > 110)
    assert f"9 tiles: 9 run, 0 empty; {n_expected} objects" in done.stdout
    assert partition_fault(read("o"), expected) == ""


def test_python_dash_m_returns_the_status_and_prints_a_warning_as_one_line(image, here):
    argv = "segment image.zarr --fn otsu --write-to o --skip-empty --empty-threshold 255"
    done = run_module(*argv.split(), folder=here)
    assert done.returncode == 0
    assert re.fullmatch(
        r"blockbuster: warning: All 12 tiles were skipped as empty \(maximum <= 255\).*\n", done.stderr
    )
    assert run_module("segment", "missing.zarr", "--fn", "otsu", "--write-to", "x", folder=here).returncode == 2


WAITING = """
import os, time

def find(tile):
    end = time.monotonic() + 300
    while os.path.exists("begun") and not os.path.exists("go") and time.monotonic() < end:
        time.sleep(0.01)
    open("begun", "w").close()
    return tile * 0
"""


def test_ctrl_c_is_status_130_and_says_where_the_stage_is(image, here):
    (here / "slow.py").write_text(WAITING)
    argv = "segment image.zarr --fn slow:find --tile-shape 5,5 --tiles-per-task 1 --write-to o"
    command = [sys.executable, "-m", "blockbuster", *argv.split()]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    journal = here / "o.labels.blockbuster-stage" / "journal.jsonl"
    deadline = time.monotonic() + 600
    while not (journal.exists() and b'"task"' in journal.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    # The run cannot end before the main thread, which sees the signal first, has taken what this lets go.
    (here / "go").touch()
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert err.splitlines()[1] == "blockbuster: interrupted"
    assert "Traceback" not in err
    assert "o.labels.blockbuster-stage; call again with --resume" in err
    assert err.endswith(f"To continue: blockbuster {argv} --resume\n")
    assert not (here / "o").exists()
