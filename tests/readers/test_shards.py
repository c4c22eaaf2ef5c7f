"""Shards that blockbuster encodes, as a reader sees them that shares no code with zarr-python."""

import numpy as np
import pytest
import zarr
from naive import label
from outcomes import blobs

from blockbuster import tile_process


@pytest.mark.parametrize("shape", [(90, 70), (64, 64), (20, 33, 41)])
def test_tensorstore_reads_the_labels_that_zarr_reads(tmp_path, monkeypatch, shape):
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed; extra `readers`")
    monkeypatch.setattr("blockbuster.output.layout.CHUNK_VOXELS", 64)
    monkeypatch.setattr("blockbuster.output.layout.SHARD_VOXELS", 512)
    options = {"tile_shape": (16,) * len(shape), "merge": "none", "compute": True}
    labels = tile_process(blobs(shape), label, write_to=tmp_path / "out.zarr", **options)
    stored = zarr.open_array(tmp_path / "out.zarr" / "labels", mode="r")
    assert stored.shards is not None
    np.testing.assert_array_equal(stored[...], labels)
    kvstore = {"driver": "file", "path": str(tmp_path / "out.zarr" / "labels")}
    found = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True).result().read().result()
    np.testing.assert_array_equal(found, labels)
