"""patchworks, whose tiles are staged one by one in threads where a run can be resumed."""

import patchworks_dask


def run(job):
    """Segment an image."""
    return patchworks_dask.run(job, resume=True)
