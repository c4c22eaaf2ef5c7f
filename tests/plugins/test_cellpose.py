"""What the plugin does by itself; what Cellpose makes of it is tested in tests/models."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import dask
import naive
import numpy as np
import pytest
import standins
from scipy import ndimage

from blockbuster import BlockbusterWarning, TileError, tile_process
from blockbuster.identity.function import differing_parts, identify_function
from blockbuster.plugins.cellpose import cellpose_fn


@pytest.fixture
def image():
    pixels = np.zeros((3, 60, 80), "uint16")
    pixels[:, 10:30, 20:50] = 200
    pixels[1, 40:50, 5:75] = 150
    return pixels


def expected(image, threshold=120):
    structure = ndimage.generate_binary_structure(3, 1)
    structure[[0, 2]] = False
    return ndimage.label(image > threshold, structure)[0]


# Names


def test_name_of_cellpose_3_is_refused_by_cellpose_4_with_the_remedy(cellpose_4):
    with pytest.raises(
        ValueError, match=r"'cyto3', which Cellpose 4.2.1 does not know; it knows cpsam_v2, cpsam"
    ) as e:
        cellpose_fn("cyto3")
    assert "'cellpose<4'" in str(e.value)
    assert cellpose_4.loads == []


def test_name_of_cellpose_4_is_refused_by_cellpose_3_with_the_remedy(cellpose_3):
    with pytest.raises(ValueError, match=r"it knows cyto3, nuclei, transformer_cp3") as error:
        cellpose_fn("cpsam")
    assert "'cellpose>=4'" in str(error.value)


def test_known_name_is_taken_by_both(cellpose_models, image):
    name = cellpose_models.MODEL_NAMES[0]
    labels = cellpose_fn(name)(image[0])
    assert cellpose_models.loads == [(name, False, "default")]
    assert (labels == ndimage.label(image[0] > 100)[0]).all()


def test_transformer_of_cellpose_3_is_loaded_as_one(cellpose_3, image):
    cellpose_fn("transformer_cp3")(image[0])
    assert cellpose_3.loads == [("transformer_cp3", False, "transformer")]


def test_model_that_the_user_added_is_taken_by_its_file(cellpose_models, image):
    cellpose_models.MODEL_DIR.mkdir()
    (cellpose_models.MODEL_DIR / "mine").write_text("190")
    fn = cellpose_fn("mine")
    assert fn.model == str(cellpose_models.MODEL_DIR / "mine")
    assert set(np.unique(fn(image[1]))) == {0, 1}


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("models/missing", FileNotFoundError, "'models/missing'; there is no such file"),
        (".", ValueError, "a folder here; Cellpose needs a file"),
        (3, TypeError, "model is 3; it is a name or the path"),
        ("", ValueError, "does not know"),
    ],
)
def test_what_is_no_model_is_refused(cellpose_models, model, error, message):
    with pytest.raises(error, match=message):
        cellpose_fn(model)


def test_relative_path_is_kept_as_an_absolute_one(cellpose_models, weights, monkeypatch):
    monkeypatch.chdir(weights.parent)
    assert cellpose_fn("weights").model == str(weights)
    assert cellpose_fn(weights.relative_to(weights.parent)).model == str(weights)


# Keywords


def test_wrong_keyword_is_refused_before_the_model_is_loaded(cellpose_models, weights):
    with pytest.raises(
        TypeError, match=r"flow_treshold is no keyword .* Did you mean flow_threshold\? It takes: batch"
    ):
        cellpose_fn(weights, flow_treshold=0.6)
    assert cellpose_models.loads == []


@pytest.mark.parametrize("keyword", ["x", "self", "compute_masks"])
def test_keyword_that_makes_no_labels_is_refused(cellpose_models, weights, keyword):
    with pytest.raises(TypeError, match=f"{keyword}"):
        cellpose_fn(weights, **{keyword: True})


def test_keyword_that_cellpose_4_would_ignore_is_refused(cellpose_4, weights):
    for ignored in ({"channels": [0, 0]}, {"rescale": 2}, {"invert": True}):
        with pytest.raises(TypeError, match=f"{next(iter(ignored))} is no keyword for Cellpose 4.2.1 here"):
            cellpose_fn(weights, **ignored)


def test_keywords_reach_eval(cellpose_models, weights, image):
    cellpose_fn(weights, diameter=17, flow_threshold=0.6, batch_size=3, normalize={"lowhigh": [1, 9]})(image[0])
    call = cellpose_models.calls[-1]
    assert {name: call[name] for name in ("diameter", "flow_threshold", "batch_size", "normalize", "niter")} == {
        "diameter": 17,
        "flow_threshold": 0.6,
        "batch_size": 3,
        "normalize": {"lowhigh": [1, 9]},
        "niter": None,
    }


@pytest.mark.parametrize(("diameter", "error"), [(0, ValueError), (-3, ValueError), (float("nan"), ValueError)])
def test_diameter_that_is_not_positive_is_refused(cellpose_models, weights, diameter, error):
    with pytest.raises(error, match=r"diameter is .* positive"):
        cellpose_fn(weights, diameter=diameter)


def test_wrong_types_are_refused(cellpose_models, weights):
    with pytest.raises(TypeError, match="diameter is '30'; it is a number of pixels"):
        cellpose_fn(weights, diameter="30")
    with pytest.raises(TypeError, match="gpu is 'cuda:1'; it is True or False"):
        cellpose_fn(weights, gpu="cuda:1")


# Missing parts


def test_without_cellpose_the_extra_is_named(packages):
    with pytest.raises(
        ImportError, match=r"cellpose and torch are not installed; .*'blockbuster-tiles\[cellpose\]'"
    ):
        cellpose_fn("cpsam")


def test_without_torch_the_extra_is_named(packages):
    standins.write_package(packages, "cellpose", "4.2.1")
    with pytest.raises(ImportError, match=r"^torch is not installed; .*'blockbuster-tiles\[cellpose\]'"):
        cellpose_fn("cpsam")


def test_builds_that_do_not_fit_are_named(packages):
    text = "raise RuntimeError('operator torchvision::nms does not exist')"
    standins.write_package(packages, "cellpose", "4.2.1", models=text)
    standins.write_package(packages, "torch", "2.13.0")
    with pytest.raises(
        ImportError, match=r"Cellpose 4.2.1 raised RuntimeError: operator .* torchvision of one build"
    ):
        cellpose_fn("cpsam")


def test_cellpose_2_is_too_old(packages):
    standins.write_package(packages, "cellpose", "2.3.2")
    standins.write_package(packages, "torch", "2.13.0")
    with pytest.raises(ImportError, match=r"Cellpose 2.3.2 is too old"):
        cellpose_fn("cyto2")


def test_gpu_that_is_not_there_is_a_warning_that_says_what_to_install(cellpose_models, weights, image):
    fn = cellpose_fn(weights, gpu=True)
    with pytest.warns(BlockbusterWarning, match=r"gpu=True, but PyTorch finds no usable GPU.*pytorch.org"):
        labels = fn(image[0])
    assert (labels == ndimage.label(image[0] > 120)[0]).all()
    fn(image[1])  # warned of once


def test_other_version_on_a_worker_is_refused(cellpose_4, weights, image, packages):
    fn = cellpose_fn(weights)
    (packages / "cellpose-4.2.1.dist-info").rename(packages / "cellpose-4.3.0.dist-info")
    (packages / "cellpose-4.3.0.dist-info" / "METADATA").write_text("Name: cellpose\nVersion: 4.3.0\n")
    with pytest.raises(
        RuntimeError, match=r"Cellpose 4.2.1 made this function, but Cellpose 4.3.0 is installed on"
    ):
        fn(image[0])


def test_weights_that_a_worker_does_not_see_are_named(cellpose_models, weights, image):
    fn = cellpose_fn(weights)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"weights is not there on .* same path on all machines"):
        fn(image[0])


# Pickles and identity


def test_pickle_is_small_and_gives_an_equal_function(cellpose_models, weights, image):
    fn = cellpose_fn(weights, diameter=20, flow_threshold=0.5)
    fn(image[0])
    for dumps in (pickle.dumps, cloudpickle.dumps):
        assert len(dumps(fn)) < 1000
        assert pickle.loads(dumps(fn)) == fn


def test_pickle_is_read_without_importing_the_model(cellpose_models, weights):
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read()); print('torch' in sys.modules)"
    given = pickle.dumps(cellpose_fn(weights))
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, check=True)
    assert done.stdout.strip() == b"False"


def test_identity_survives_a_pickle_and_a_run(cellpose_models, weights, image):
    fn = cellpose_fn(weights, normalize={"percentile": [1, 99]})
    before = identify_function(fn)
    fn(image[0])
    for same in (fn, pickle.loads(pickle.dumps(fn)), cellpose_fn(weights, normalize={"percentile": [1, 99]})):
        assert identify_function(same) == before
    assert before.unreadable == ()


def test_another_model_keyword_or_version_is_another_function(cellpose_4, weights, tmp_path):
    first = identify_function(cellpose_fn(weights, flow_threshold=0.4)).parts
    other = tmp_path / "other"
    other.write_text("121")
    for fn in (
        cellpose_fn(other, flow_threshold=0.4),
        cellpose_fn(weights, flow_threshold=0.5),
        cellpose_fn(weights),
        cellpose_fn(weights, flow_threshold=0.4, diameter=30),
        cellpose_fn("cpsam", flow_threshold=0.4),
    ):
        assert differing_parts(first, identify_function(fn).parts) != []


def test_weights_trained_anew_are_another_function_and_are_loaded(cellpose_models, weights, image):
    fn = cellpose_fn(weights)
    first, labels = identify_function(fn).parts, fn(image[1])
    weights.write_text("180.5")
    assert differing_parts(first, identify_function(fn).parts) == [f"file {weights}"]
    assert (labels.max(), fn(image[1]).max()) == (2, 1)
    assert len(cellpose_models.loads) == 2


def test_run_is_not_continued_with_another_model(cellpose_models, weights, image, folder):
    run = {
        "tile_shape": (1, 30, 40),
        "write_to": folder / "labels.zarr",
        "tiles_per_task": 1,
        "merge": "none",
        "resume": True,
    }
    cellpose_models.memory[1] = 4
    with dask.config.set(scheduler="synchronous"), pytest.raises(TileError, match="ran out of memory"):
        tile_process(image, cellpose_fn(weights), **run)
    with pytest.raises(ValueError, match="attribute diameter was None, is 20"):
        tile_process(image, cellpose_fn(weights, diameter=20), **run)
    weights.write_text("121")
    with pytest.raises(ValueError, match="file .*weights differs"):
        tile_process(image, cellpose_fn(weights), **run)
    weights.write_text("120")
    cellpose_models.memory[1] = 100
    labels = tile_process(image, cellpose_fn(weights), **run)
    assert ((np.asarray(labels) > 0) == (image > 120)).all()


# Loading and threads


def test_model_is_loaded_once_and_threads_take_turns(cellpose_models, weights, image):
    with ThreadPoolExecutor(8) as pool:  # the stand-in fails on two evaluations at once
        found = list(pool.map(cellpose_fn(weights), [image[i % 3] for i in range(40)]))
    assert len(cellpose_models.loads) == 1
    assert all(labels.max() == (2 if i % 3 == 1 else 1) for i, labels in enumerate(found))


def test_tiled_run_on_threads_loads_once_and_is_exact(cellpose_models, weights, image):
    with dask.config.set(scheduler="threads", num_workers=4):
        labels = tile_process(
            image, cellpose_fn(weights), tile_shape=(1, 16, 32), overlap=4, merge_axes="yx", axes="zyx"
        )
    assert len(cellpose_models.loads) == 1
    assert naive.partition_fault(labels, expected(image)) == ""


# Axes


def test_plane_axis_of_1_is_squeezed_and_given_back(cellpose_models, weights, image):
    fn = cellpose_fn(weights)
    for shape in ((60, 80), (1, 60, 80), (1, 1, 60, 80)):
        labels = fn(image[1].reshape(shape))
        assert labels.shape == shape
        assert (labels.reshape(60, 80) == expected(image[1:2])[0]).all()


def test_more_planes_than_one_are_refused_with_the_remedy(cellpose_models, weights, image):
    with pytest.raises(
        TileError, match=r"tile \(0, 0, 0\).*\(3, 60, 80\), which is 3 planes; the model takes one"
    ) as e:
        tile_process(image, cellpose_fn(weights), tile_shape=(3, 60, 80))
    for remedy in ("tile_shape=(1, ..., y, x)", "do_3D=True", "channel_axis"):
        assert remedy in str(e.value)
    assert cellpose_models.loads == []


@pytest.mark.parametrize("how", [{"do_3D": True}, {"stitch_threshold": 0.5}, {"do_3D": True, "z_axis": 0}])
def test_volumes_are_given_whole(cellpose_models, weights, image, how):
    labels = tile_process(image, cellpose_fn(weights, **how), tile_shape=(3, 60, 80))
    assert naive.partition_fault(labels, ndimage.label(image > 120)[0]) == ""


def test_last_tile_of_one_plane_is_made_a_volume(cellpose_models, weights, image):
    labels = tile_process(image, cellpose_fn(weights, do_3D=True), tile_shape=(2, 60, 80))
    assert naive.partition_fault(labels, ndimage.label(image > 120)[0]) == ""
    assert cellpose_models.calls[-1]["x"].shape[:-1] == (2, 60, 80)


def test_volume_is_refused_where_a_tile_is_a_plane(cellpose_models, weights, image):
    with pytest.raises(ValueError, match=r"shape \(60, 80\); the model takes 3 axes"):
        cellpose_fn(weights, do_3D=True)(image[0])


def test_thin_tile_is_not_scaled_to_nothing(cellpose_models, weights):
    tile = np.array([[0, 200, 200, 0, 200, 0]], "uint8")
    labels = cellpose_fn(weights, diameter=90)(tile)
    assert labels.tolist() == [[0, 1, 1, 0, 2, 0]]
    assert min(cellpose_models.calls[-1]["x"].shape[:2]) == 6  # 2 pixels at a third of the size


def test_z_axis_elsewhere_is_refused(cellpose_models, weights, image):
    with pytest.raises(ValueError, match=r"z_axis is 2, .*z is the one before y and x"):
        cellpose_fn(weights, do_3D=True, z_axis=2)(image)


@pytest.mark.parametrize(
    ("axes", "channel_axis"), [("cyx", 0), ("cyx", -3), ("yxc", 2), ("zcyx", 1), ("czyx", 0)]
)
def test_two_channels_come_through(cellpose_models, weights, image, axes, channel_axis):
    both = np.stack([image[0], image[1]])[None]  # z, c, y, x
    order = ["zcyx".index(letter) for letter in axes]
    given = both.transpose(*order, *(i for i in range(4) if i not in order)).reshape(
        [both.shape[i] for i in order]
    )
    fn = cellpose_fn(weights, channel_axis=channel_axis)
    labels = tile_process(given, fn, axes=axes, channel=None, tile_shape=(80, 80))
    assert labels.shape == tuple(n for n, letter in zip(given.shape, axes, strict=True) if letter != "c")
    assert naive.partition_fault(labels.reshape(60, 80), ndimage.label(image[0] > 120)[0]) == ""
    x = cellpose_models.calls[-1]["x"]
    assert x.shape == (60, 80, 2)
    assert (x[..., 1] == image[1]).all()


def test_cellpose_3_gets_a_second_channel_of_zeros(cellpose_3, weights, image):
    cellpose_fn(weights)(image[1])
    x = cellpose_3.calls[-1]["x"]
    assert x.shape == (60, 80, 2)
    assert (x == np.stack([image[1], np.zeros((60, 80))], axis=-1)).all()


@pytest.mark.parametrize(
    ("channels", "first", "second"),
    [([2, 3], 1, 2), ([[3, 1]], 2, 0), ([2, 0], 1, None), ([0, 0], "mean", None), ([0, 2], "mean", None)],
)
def test_cellpose_3_gets_the_channels_that_are_chosen(cellpose_3, weights, channels, first, second):
    tile = np.random.default_rng(0).integers(0, 255, (3, 4, 50), "uint8")  # lower than 8: Cellpose would turn it
    cellpose_fn(weights, channel_axis=0, channels=channels)(tile)
    x = cellpose_3.calls[-1]["x"]
    assert np.allclose(x[..., 0], tile.mean(axis=0) if first == "mean" else tile[first])
    assert (x[..., 1] == (0 if second is None else tile[second])).all()


def test_channels_that_are_not_there_are_refused(cellpose_3, weights, image):
    with pytest.raises(ValueError, match=r"channels is \[4, 0\], but the tile has 3"):
        cellpose_fn(weights, channel_axis=0, channels=[4, 0])(image)
    for wrong in (2, [1, 2, 3], [0.5, 1], [-1, 0]):
        with pytest.raises(ValueError, match="counted from 1"):
            cellpose_fn(weights, channels=wrong)


def test_more_channels_than_the_network_sees_are_refused(cellpose_models, weights):
    tile = np.arange(5 * 40 * 40).reshape(5, 40, 40)
    with pytest.raises(ValueError, match=r"5 channels, and Cellpose .* looks at [23] alone"):
        cellpose_fn(weights, channel_axis=0)(tile)
    with pytest.raises(ValueError, match=r"channel axis 3 is none of a tile of shape \(5, 40, 40\)"):
        cellpose_fn(weights, channel_axis=3)(tile)


# Pixels


def test_empty_tile_is_background_without_a_model(cellpose_models, weights):
    for value in (0, 7, 1000):
        labels = cellpose_fn(weights)(np.full((1, 30, 30), value, "uint16"))
        assert labels.shape == (1, 30, 30)
        assert labels.dtype.kind == "i"
        assert not labels.any()
    assert cellpose_models.loads == []


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64", "float16", "float32", "float64"]
)
def test_every_type_of_pixels_is_taken_and_left_as_it_is(cellpose_models, weights, image, dtype):
    tile = image[1].astype(dtype)
    kept = tile.copy()
    assert (cellpose_fn(weights)(tile) == expected(image[1:2])[0]).all()
    assert (tile == kept).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_B23_a_tile_of_nan_alone_is_background(cellpose_models, weights, image, dtype):
    labels = cellpose_fn(weights)(np.full(image[0].shape, np.nan, dtype))
    assert labels.shape == image[0].shape
    assert not labels.any()
    assert cellpose_models.calls == []


def test_nan_is_refused_with_the_remedy(cellpose_models, weights, image):
    tile = image[0].astype("float32")
    tile[3, 3:5] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"2 voxels that are NaN or infinite.*nan_to_num"):
        cellpose_fn(weights)(tile)


# Memory of the device


def test_tile_is_tried_again_with_smaller_batches(cellpose_models, weights, image, caplog):
    import torch

    cellpose_models.memory[0] = 2
    labels = cellpose_fn(weights, batch_size=8)(image[1])
    assert (labels == expected(image[1:2])[0]).all()  # although the failed attempts spoiled their input
    assert [call["batch_size"] for call in cellpose_models.calls] == [8, 4, 2]
    assert torch.cuda.emptied == 2
    assert "ran out of memory with 8: CUDA out of memory" in caplog.text


def test_tile_too_large_for_the_device_is_named_with_the_remedy(cellpose_models, weights, image):
    cellpose_models.memory[0] = 0
    with pytest.raises(
        TileError, match=r"tile \(0, 0, 0\).*MemoryError.*smallest parts too; choose smaller tiles"
    ):
        tile_process(image[:1], cellpose_fn(weights))
    assert [call["batch_size"] for call in cellpose_models.calls] == [8, 4, 2, 1]
