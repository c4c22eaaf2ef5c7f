"""Real packages with networks of random weights; nothing is downloaded."""

import importlib.util
import sys
from pathlib import Path

import pytest

# `watching` is imported by name, in worker processes too, which get this path from here.
sys.path.insert(0, str(Path(__file__).parent))

# Of the packages about each other: PyTorch and Cellpose, TensorFlow and NumPy.
WARNINGS = ("ignore:Sparse invariant checks", "ignore:CUDA is not available", "ignore::DeprecationWarning")
HOW = "is not installed; BLOCKBUSTER_MODELS=1 .ci/run makes an environment for it"


def pytest_collection_modifyitems(items):
    """Skip the tests of packages that are not here; `test_cellpose.py` is that of cellpose."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.models)
        item.add_marker(pytest.mark.slow)
        for warning in WARNINGS:
            item.add_marker(pytest.mark.filterwarnings(warning))
        package = item.path.stem.removeprefix("test_").partition("_")[0]
        if importlib.util.find_spec(package) is None:
            item.add_marker(pytest.mark.skip(reason=f"{package} {HOW}"))


@pytest.fixture(scope="session")
def client():
    """Two worker processes."""
    from blockbuster import make_local_cluster

    client, cluster = make_local_cluster(n_workers=2)
    with cluster, client:
        yield client


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights for Cellpose."""
    from networks import save_random_cellpose

    path = tmp_path_factory.mktemp("model") / "random"
    save_random_cellpose(path)
    return path


@pytest.fixture
def volume(real_images):
    import tifffile

    return tifffile.imread(real_images / "stardist_samples" / "img3d.tif")
