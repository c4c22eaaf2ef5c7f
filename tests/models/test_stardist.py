"""StarDist as it is installed, against what StarDist itself gives for the same pixels.

The networks are random. What they see is no nucleus, but it depends on every pixel, channel and keyword.
"""

from concurrent.futures import ThreadPoolExecutor

import dask
import h5py
import naive
import numpy as np
import pytest
import tifffile
import watching

from blockbuster import intensity_percentiles, tile_process
from blockbuster.plugins import unload_models
from blockbuster.plugins.stardist import stardist_fn

# A random network gives all pixels about the same probability: each may be the middle of an object.
UNSURE = {"prob_thresh": 0.01}


def save_network(folder, n_dim, n_channel_in=1):
    """Save a model of random weights whose objects are some voxels wide."""
    import keras
    from stardist.models import Config2D, Config3D, StarDist2D, StarDist3D

    keras.utils.set_random_seed(5)
    if n_dim == 2:
        config = Config2D(
            n_rays=8,
            grid=(2, 2),
            n_channel_in=n_channel_in,
            unet_n_depth=2,
            unet_n_filter_base=8,
            net_conv_after_unet=16,
        )
        model = StarDist2D(config, name=folder.name, basedir=str(folder.parent))
    else:
        config = Config3D(rays=16, grid=(1, 2, 2), unet_n_filter_base=8, net_conv_after_unet=16)
        model = StarDist3D(config, name=folder.name, basedir=str(folder.parent))
    distances = model.keras_model.get_layer("dist")
    kernel, bias = distances.get_weights()
    distances.set_weights([kernel, bias + 4])
    model.keras_model.save_weights(str(folder / "weights_best.h5"))
    return folder


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("models") / "flat", 2)


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("models") / "deep", 3)


@pytest.fixture
def nuclei(real_images):
    return tifffile.imread(real_images / "stardist_samples" / "img2d.tif")[:256, :256]


def stardist(folder, image, n_dim=2, normalize=(1, 99.8), **options):
    """What StarDist gives, called as its documentation says."""
    from csbdeep.utils import normalize as stretch
    from stardist.models import StarDist2D, StarDist3D

    model = (StarDist2D if n_dim == 2 else StarDist3D)(None, name=folder.name, basedir=str(folder.parent))
    axes = tuple(range(n_dim))
    return model.predict_instances(stretch(image, *normalize, axis=axes), show_tile_progress=False, **options)[0]


def assert_same_objects(labels, expected, at_least):
    assert naive.partition_fault(labels, expected) == ""
    assert len(np.unique(expected)) > at_least


def test_tile_that_is_the_whole_image_is_what_stardist_gives(flat, nuclei):
    labels = tile_process(nuclei, stardist_fn(flat, **UNSURE), tile_shape=nuclei.shape, overlap=30)
    assert_same_objects(labels, stardist(flat, nuclei, **UNSURE), 20)


def test_volume_is_what_stardist_gives(deep, volume):
    labels = tile_process(volume, stardist_fn(deep, **UNSURE), tile_shape=volume.shape)
    assert_same_objects(labels, stardist(deep, volume, 3, **UNSURE), 20)


def test_channels_of_histology_are_what_stardist_gives(tmp_path, real_images):
    model = save_network(tmp_path / "colours", 2, n_channel_in=3)
    tissue = tifffile.imread(real_images / "histology" / "HE_example.tif")[400:600, 500:700]
    expected = stardist(model, tissue, axes="YXC", **UNSURE)
    for axes, image in (("YXC", tissue), ("CYX", tissue.transpose(2, 0, 1))):
        fn = stardist_fn(model, axes=axes, **UNSURE)
        labels = tile_process(image, fn, axes=axes.lower(), channel=None, tile_shape=(200, 200))
        assert_same_objects(labels, expected, 20)


def test_planes_of_a_stack_are_what_stardist_gives_for_each(flat, volume):
    labels = tile_process(volume[14:17], stardist_fn(flat, **UNSURE), tile_shape=(1, 61, 57), merge="none")
    for i in range(3):
        assert_same_objects(labels[i], stardist(flat, volume[14 + i], **UNSURE), 3)


def test_intensities_of_the_whole_image_give_tiles_what_stardist_gives_there(flat, nuclei):
    low, high = intensity_percentiles(nuclei)
    fn = stardist_fn(flat, normalize={"lowhigh": (low, high)}, **UNSURE)
    labels = tile_process(nuclei, fn, tile_shape=(128, 128), merge="none")
    from stardist.models import StarDist2D

    model = StarDist2D(None, name=flat.name, basedir=str(flat.parent))
    for i, j in np.ndindex(2, 2):
        part = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
        scaled = ((nuclei[part].astype(float) - low) / (high - low)).astype("float32")
        assert_same_objects(labels[part], model.predict_instances(scaled, **UNSURE)[0], 5)


def test_keywords_count(flat, nuclei):
    options = {"prob_thresh": 0.01, "nms_thresh": 0.1, "n_tiles": (2, 1), "scale": (1.5, 1)}
    labels = stardist_fn(flat, **options)(nuclei)
    assert_same_objects(labels, stardist(flat, nuclei, **options), 5)
    assert naive.partition_fault(labels, stardist(flat, nuclei, **UNSURE)) != ""


def test_tiles_of_any_size_and_an_empty_one_are_labelled(flat, nuclei):
    fn = stardist_fn(flat, **UNSURE)
    for shape in ((1, 1), (1, 50), (3, 100), (257, 2)):
        assert fn(np.resize(nuclei, shape)).shape == shape
    with np.errstate(all="raise"):
        sparse = np.zeros((90, 90), "uint16")
        sparse[40, 40:43] = 500
        assert fn(sparse).shape == (90, 90)
        assert not fn(np.full((90, 90), 3)).any()


def test_threads_share_one_model_and_give_what_one_gives(flat, nuclei):
    pieces = [nuclei[i : i + 60, j : j + 90] for i, j in ((0, 0), (60, 90), (90, 20), (30, 150))]
    fn = stardist_fn(flat, **UNSURE)
    unload_models()
    alone = [fn(piece) for piece in pieces]
    unload_models()
    watching.watch(flat / "config.json")
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(fn, pieces))
    assert watching.count(flat / "config.json") == 1
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))


def test_processes_load_once_each_and_give_what_threads_give(flat, nuclei, client):
    run = {"tile_shape": (64, 64), "overlap": 16, "tiles_per_task": 1, "merge": "agree"}
    fn = stardist_fn(flat, **UNSURE)
    with client.as_current():
        client.run(watching.watch, flat / "config.json")
        by_processes = tile_process(nuclei, fn, **run)
        counts = client.run(watching.count, flat / "config.json")
    with dask.config.set(scheduler="threads", num_workers=2):
        by_threads = tile_process(nuclei, fn, **run)
    assert (by_processes == by_threads).all()
    assert set(counts.values()) <= {0, 1}
    assert sum(counts.values()) >= 1
    assert len(np.unique(by_threads)) > 20


def test_smaller_parts_give_almost_the_same(flat, nuclei):
    whole, parts = stardist_fn(flat, **UNSURE)(nuclei), stardist_fn(flat, n_tiles=(4, 4), **UNSURE)(nuclei)
    assert abs(int(whole.max()) - int(parts.max())) <= 0.02 * whole.max()


def test_weights_that_do_not_fit_are_an_error(flat, tmp_path, nuclei):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_bytes((flat / "config.json").read_bytes())
    with h5py.File(tmp_path / "bad" / "weights_best.h5", "w") as file:
        file["nothing"] = 1
    with pytest.raises(Exception, match=r".") as error:
        stardist_fn(tmp_path / "bad")(nuclei)
    assert not isinstance(error.value, MemoryError)
