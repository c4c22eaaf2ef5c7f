"""Stores that count how often each chunk is read."""

from collections import Counter

import zarr
from zarr.storage import LocalStore


class CountingStore(LocalStore):
    """A folder that counts the reads of every chunk file."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.reads = Counter()

    async def get(self, key, prototype, byte_range=None):
        if key.startswith("c/"):
            self.reads[key] += 1
        return await super().get(key, prototype, byte_range)

    def get_sync(self, key, **options):
        if key.startswith("c/"):
            self.reads[key] += 1
        return super().get_sync(key, **options)


def counted(folder, image, chunks):
    """Store an image, and open it so that reads of its chunks are counted."""
    zarr.create_array(str(folder), data=image, chunks=chunks)
    store = CountingStore(folder, read_only=True)
    return zarr.open_array(store, mode="r"), store.reads
