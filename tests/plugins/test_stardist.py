"""What the plugin does by itself; what StarDist makes of it is tested in tests/models."""

import pickle

import naive
import numpy as np
import pytest
import standins
from scipy import ndimage

from blockbuster import TileError, intensity_percentiles, tile_process
from blockbuster.identity.function import differing_parts, identify_function
from blockbuster.plugins.stardist import StarDistFn, stardist_fn


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 50, (2, 60, 80)).astype("uint16")
    pixels[:, 10:30, 20:50] = 200
    pixels[1, 40:50, 5:75] = 150
    return pixels


@pytest.fixture
def model(tmp_path):
    """A model that finds what is brighter than 0.5 once it is normalised."""
    return standins.write_stardist_model(tmp_path / "model", 0.5)


# Names


def test_unknown_name_is_refused_with_the_known_ones(stardist_models):
    with pytest.raises(
        ValueError, match=r"'2D_versatile', which StarDist 0.9.2 does not know; it knows 2D_vers"
    ) as e:
        stardist_fn("2D_versatile")
    assert "Versatile (fluorescent nuclei), 3D_demo" in str(e.value)


@pytest.mark.parametrize(
    ("name", "n_dim"), [("2D_versatile_fluo", 2), ("Versatile (fluorescent nuclei)", 2), ("3D_demo", 3)]
)
def test_name_says_whether_it_is_for_volumes(stardist_models, name, n_dim):
    fn = stardist_fn(name)
    assert (fn.model, fn.n_dim, fn.files) == (name, n_dim, ())
    assert stardist_models.loads == []


def test_folder_says_whether_it_is_for_volumes(stardist_models, tmp_path, monkeypatch):
    standins.write_stardist_model(tmp_path / "deep", 0.5, n_dim=3)
    monkeypatch.chdir(tmp_path)
    fn = stardist_fn("deep")
    assert (fn.model, fn.n_dim) == (str(tmp_path / "deep"), 3)


def test_folders_that_are_no_models_are_refused(stardist_models, model):
    with pytest.raises(FileNotFoundError, match="'missing/model'; there is no such folder"):
        stardist_fn("missing/model")
    with pytest.raises(TypeError, match="model is 3; it is a name or the path"):
        stardist_fn(3)
    (model / "weights_best.h5").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        stardist_fn(model)
    (model / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="says no n_dim"):
        stardist_fn(model)


# Keywords


@pytest.mark.parametrize("keyword", ["prob_tresh", "img", "return_labels", "return_predict"])
def test_wrong_keyword_is_refused_before_the_model_is_loaded(stardist_models, model, keyword):
    with pytest.raises(TypeError, match=f"{keyword} is no keyword for StarDist 0.9.2 here.*It takes: axes, norm"):
        stardist_fn(model, **{keyword: 1})
    assert stardist_models.loads == []


def test_keywords_reach_predict_instances(stardist_models, model, image):
    nms = {"b": 2}
    fn = stardist_fn(model, prob_thresh=0.7, n_tiles=(1, 2), scale=(2, 1), nms_kwargs=nms)
    fn(image[0])
    call = stardist_models.calls[-1]
    assert (call["prob_thresh"], call["n_tiles"], call["scale"], call["axes"]) == (
        0.7,
        (1, 2, 1),
        (2, 1, 1),
        "YXC",
    )
    assert call["show_tile_progress"] is False
    assert nms == fn.predict_kwargs["nms_kwargs"] == {"b": 2}  # StarDist added to its copy


@pytest.mark.parametrize(
    "normalize",
    [(1, 101), (5, 5), (99, 1), (1,), "auto", {"low": 1}, (True, 99), {"lowhigh": (9, 3)}, {"lowhigh": 3}],
)
def test_wrong_normalisation_is_refused(stardist_models, model, normalize):
    with pytest.raises(ValueError, match="normalize is "):
        stardist_fn(model, normalize=normalize)


@pytest.mark.parametrize("axes", ["XYC", "CXY", "YCXX", "C", 3, "CZYY"])
def test_axes_that_are_none_of_a_tile_are_refused(stardist_models, model, axes):
    with pytest.raises(ValueError, match=r"axes is .* it names each axis"):
        stardist_fn(model, axes=axes)


# Missing parts


def test_without_stardist_the_extra_is_named(packages):
    with pytest.raises(ImportError, match=r"stardist and tensorflow are not .*'blockbuster-tiles\[stardist\]'"):
        stardist_fn("2D_versatile_fluo")


def test_without_tensorflow_the_extra_is_named(packages):
    standins.write_package(packages, "stardist", "0.9.2")
    with pytest.raises(ImportError, match=r"^tensorflow is not installed; .*'blockbuster-tiles\[stardist\]'"):
        stardist_fn("2D_versatile_fluo")


def test_a_worker_without_stardist_names_the_extra(packages):
    fn = StarDistFn("2D_versatile_fluo", 2, None, {}, "0.9.1")
    with pytest.raises(ImportError, match=r"stardist and tensorflow are not .*'blockbuster-tiles\[stardist\]'"):
        fn(np.eye(20))


# Pickles and identity


def test_pickle_is_small_and_has_the_same_identity(stardist_models, model, image):
    fn = stardist_fn(model, nms_kwargs={"b": 1})
    before = identify_function(fn)
    fn(image[0])
    assert len(pickle.dumps(fn)) < 1000
    assert identify_function(pickle.loads(pickle.dumps(fn))) == before == identify_function(fn)
    assert before.unreadable == ()


def test_another_model_keyword_or_normalisation_is_another_function(stardist_models, model):
    first = identify_function(stardist_fn(model)).parts
    for other in (
        stardist_fn(model, prob_thresh=0.4),
        stardist_fn(model, normalize=(1, 99)),
        stardist_fn("3D_demo"),
    ):
        assert differing_parts(first, identify_function(other).parts) != []
    (model / "weights_best.h5").write_text("0.6")
    changed = identify_function(stardist_fn(model)).parts
    assert differing_parts(first, changed) == [f"file {model / 'weights_best.h5'}"]


# Tiles


def test_tiled_run_loads_once_and_is_exact(stardist_models, model, image, capsys):
    fn = stardist_fn(model, normalize={"lowhigh": (0, 200)})
    labels = tile_process(image, fn, tile_shape=(1, 16, 32), overlap=4, axes="zyx", merge_axes="yx")
    planes = ndimage.generate_binary_structure(3, 1)
    planes[[0, 2]] = False
    assert naive.partition_fault(labels, ndimage.label(image > 100, planes)[0]) == ""
    assert stardist_models.loads == [str(model)]
    assert capsys.readouterr().out == ""  # what StarDist prints is not the output of a command


def test_volumes_are_given_whole(stardist_models, tmp_path, image):
    model = standins.write_stardist_model(tmp_path / "deep", 0.5, n_dim=3)
    labels = tile_process(image, stardist_fn(model), tile_shape=(2, 60, 80))
    assert naive.partition_fault(labels, ndimage.label(image > 100)[0]) == ""
    assert stardist_models.calls[-1]["axes"] == "ZYXC"


def test_more_planes_than_one_are_refused_with_the_remedy(stardist_models, model, image):
    with pytest.raises(TileError, match=r"\(2, 60, 80\), which is 2 planes; the model takes one") as error:
        tile_process(image, stardist_fn(model), tile_shape=(2, 60, 80))
    assert "axes='CYX'" in str(error.value)


@pytest.mark.parametrize("axes", ["cyx", "yxc", "zcyx"])
def test_channels_come_last(stardist_models, tmp_path, image, axes):
    model = standins.write_stardist_model(tmp_path / "two", 0.5, n_channel_in=2)
    order = ["zcyx".index(letter) for letter in axes]
    given = image[None].transpose(*order, *(i for i in range(4) if i not in order))
    given = given.reshape([image[None].shape[i] for i in order])
    fn = stardist_fn(model, axes=axes.upper())
    labels = tile_process(given, fn, axes=axes, channel=None, tile_shape=(80, 80))
    assert naive.partition_fault(labels.reshape(60, 80), ndimage.label(image[0] > 100)[0]) == ""
    assert stardist_models.calls[-1]["img"].shape == (60, 80, 2)


def test_wrong_number_of_channels_is_refused(stardist_models, tmp_path, model, image):
    three = standins.write_stardist_model(tmp_path / "three", 0.5, n_channel_in=3)
    with pytest.raises(ValueError, match=r"1 channels, and the model takes 3; pass channel=None .* axes='CYX'"):
        stardist_fn(three)(image[0])
    with pytest.raises(ValueError, match=r"axes is 'CYX', but the tile has shape \(60, 80\)"):
        stardist_fn(three, axes="CYX")(image[0])


# Normalisation


def test_percentiles_are_those_of_the_tile_and_channel(stardist_models, tmp_path, image):
    model = standins.write_stardist_model(tmp_path / "two", 0.5, n_channel_in=2)
    stardist_fn(model, normalize=(2, 98), axes="CYX")(image)
    given = stardist_models.calls[-1]["img"]
    for i in range(2):
        low, high = np.percentile(image[i], (2, 98))
        assert np.allclose(given[..., i], (image[i] - low) / (high - low), atol=1e-6)


def test_intensities_of_the_whole_image_are_the_same_for_all_tiles(stardist_models, model, image):
    low, high = intensity_percentiles(image, (1, 99))
    fn = stardist_fn(model, normalize={"lowhigh": (low, high)})
    for plane in (image[0], image[0, :30, :30], image[1] + 100):
        fn(plane)
        given = stardist_models.calls[-1]["img"][..., 0]
        assert np.allclose(given, (plane.astype(float) - low) / (high - low), atol=1e-6)


def test_each_channel_has_its_own_pair(stardist_models, tmp_path, image):
    model = standins.write_stardist_model(tmp_path / "two", 0.5, n_channel_in=2)
    stardist_fn(model, axes="CYX", normalize={"lowhigh": [(0, 100), (50, 100)]})(image)
    given = stardist_models.calls[-1]["img"]
    assert np.allclose(given, np.stack([image[0] / 100, (image[1] - 50.0) / 50], axis=-1))
    with pytest.raises(ValueError, match="3 pairs, but the tile has 2 channels"):
        stardist_fn(model, axes="CYX", normalize={"lowhigh": [(0, 1)] * 3})(image)


def test_without_normalisation_pixels_are_left_alone(stardist_models, model, image):
    stardist_fn(model, normalize=None)(image[0])
    assert (stardist_models.calls[-1]["img"][..., 0] == image[0]).all()


@pytest.mark.parametrize("value", [0, 9])
def test_empty_tile_is_background_without_a_model(stardist_models, model, value):
    labels = stardist_fn(model)(np.full((1, 30, 30), value, "uint16"))
    assert labels.shape == (1, 30, 30)
    assert not labels.any()
    assert stardist_models.loads == []


def test_tile_with_little_in_it_is_not_blown_up(stardist_models, model):
    tile = np.full((100, 100), 7, "uint16")
    tile[4, 4:6] = 90  # both percentiles are 7
    assert stardist_fn(model)(tile).sum() == 2
    given = stardist_models.calls[-1]["img"]
    assert (given.min(), given.max()) == (0, 1)


def test_channel_of_one_value_is_zero(stardist_models, tmp_path, image):
    model = standins.write_stardist_model(tmp_path / "two", 0.5, n_channel_in=2)
    stardist_fn(model, axes="CYX")(np.stack([image[0], np.full((60, 80), 9)]))
    assert (stardist_models.calls[-1]["img"][..., 1] == 0).all()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_every_type_of_pixels_is_taken_and_left_as_it_is(stardist_models, model, image, dtype):
    tile = image[0].astype(dtype)
    kept = tile.copy()
    assert (stardist_fn(model)(tile) == ndimage.label(image[0] > 100)[0]).all()
    assert (tile == kept).all()


def test_B23_a_tile_of_nan_alone_is_background(stardist_models, model, image):
    labels = stardist_fn(model)(np.full(image[0].shape, np.nan))
    assert labels.shape == image[0].shape
    assert not labels.any()
    assert stardist_models.calls == []


def test_nan_is_refused_with_the_remedy(stardist_models, model):
    with pytest.raises(ValueError, match="1 voxels that are NaN"):
        stardist_fn(model)(np.array([[np.nan, 1], [2, 3]]))


# Memory of the device


def test_tile_is_predicted_in_ever_smaller_parts(stardist_models, model, image):
    stardist_models.memory[0] = 16
    labels = stardist_fn(model)(image[0])
    assert (labels == ndimage.label(image[0] > 100)[0]).all()
    assert [call["n_tiles"] for call in stardist_models.calls] == [None, (2, 2, 1), (4, 4, 1)]


def test_tile_too_large_for_the_device_is_named_with_the_remedy(stardist_models, model, image):
    stardist_models.memory[0] = 10**6
    with pytest.raises(TileError, match=r"MemoryError: .*OOM when allocating tensor.*choose smaller tiles"):
        tile_process(image[:1], stardist_fn(model, n_tiles=(1, 3)))
    parts = [call["n_tiles"] for call in stardist_models.calls]
    assert parts == [(1, 3, 1), (2, 6, 1), (4, 12, 1), (8, 24, 1), (16, 48, 1)]
