"""The page's recipe for networks of PyTorch, with a small one."""

import functools

import dask
import naive
import numpy as np
import pytest
import tifffile
from pages import DOCS, blocks
from skimage.measure import label

from blockbuster import intensity_percentiles, tile_process
from blockbuster.identity.function import identify_function

MODELS = DOCS / "models.md"


def make_network():
    import torch

    return torch.nn.Sequential(torch.nn.Conv2d(1, 1, 5, padding=2), torch.nn.Tanh(), torch.nn.Conv2d(1, 1, 1))


@pytest.fixture(scope="module")
def recipe():
    """The functions of the page."""
    namespace = {"__name__": "page"}
    for block in blocks(MODELS):
        if "def load_torch(" in block.code or "def segment(" in block.code:
            exec(compile(block.code, str(MODELS), "exec"), namespace)
    return namespace


def test_tiles_have_what_the_network_sees_in_the_whole_image(recipe, tmp_path, real_images):
    import torch

    image = tifffile.imread(real_images / "stardist_samples" / "img2d.tif")
    torch.manual_seed(1)
    network = make_network()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    low, high = intensity_percentiles(image)
    with torch.inference_mode():
        scaled = torch.from_numpy((image.astype("float32") - low) / (high - low))
        score = network(scaled[None, None])[0, 0].numpy()
        network[2].bias -= float(np.percentile(score, 85))  # a part of the image is foreground
        expected = label(network(scaled[None, None])[0, 0].numpy() > 0)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    load = functools.partial(recipe["load_torch"], make_network=make_network)
    path = str(tmp_path / "weights.pt")
    fn = functools.partial(recipe["segment"], path=path, low=low, high=high, load=load, label=label)
    with dask.config.set(scheduler="threads", num_workers=4):
        labels = tile_process(image, fn, tile_shape=(128, 100), overlap=2, connectivity=2)
    assert ((labels > 0) == (expected > 0)).all()  # the network looks 2 pixels far
    assert naive.partition_fault(tile_process(image, fn), expected) == ""
    assert expected.max() > 100
    assert identify_function(fn).unreadable == ()
    assert f"file {path}" in identify_function(fn).parts
