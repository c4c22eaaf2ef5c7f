"""The page's recipe for InstanSeg: the package as it is installed, around a network that finds what is bright."""

import functools

import naive
import numpy as np
import pytest
import tifffile
from pages import DOCS, blocks
from skimage.measure import label

from blockbuster import tile_process
from blockbuster.plugins import evaluate_within_memory, evaluation_turn, load_once, unload_models

MODELS = DOCS / "models.md"


def make_network(low, high):
    """A network as InstanSeg calls one: labels of nuclei and of cells, here of two thresholds."""
    import torch

    class Thresholds(torch.nn.Module):
        pixel_size = 0.5
        cells_and_nuclei = True
        graph = "graph(self):\n"  # where InstanSeg looks for further arguments

        def forward(self, image, target_segmentation):
            planes = [label(image[0, 0].numpy() > threshold) for threshold in (high, low)]
            return torch.from_numpy(np.stack(planes)[None].astype("float32"))

    return Thresholds()


@pytest.fixture(scope="module")
def segment():
    imported = (evaluate_within_memory, evaluation_turn, load_once)
    namespace = {"__name__": "page", **{function.__name__: function for function in imported}}
    (block,) = (block for block in blocks(MODELS) if "def segment_with_instanseg(" in block.code)
    exec(compile(block.code, str(MODELS), "exec"), namespace)
    yield namespace["segment_with_instanseg"]
    unload_models()


def test_tile_has_the_labels_of_nuclei(segment, real_images):
    from instanseg.utils.utils import percentile_normalize
    from torch import from_numpy

    image = tifffile.imread(real_images / "stardist_samples" / "img2d.tif")
    scaled = percentile_normalize(from_numpy(image[None].astype("float32")))[0].numpy()
    fn = functools.partial(segment, model=make_network(0.1, 0.5))
    labels = tile_process(image[None], fn)
    assert labels.shape == (1, 512, 512)
    assert naive.partition_fault(labels[0], label(scaled > 0.5)) == ""
    assert labels.max() > 50
