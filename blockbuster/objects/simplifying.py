"""Outlines with fewer vertices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from blockbuster.kernels.simplifying import simplify_objects
from blockbuster.objects.outlines import Outlines, object_boxes


def simplify_outlines(outlines: Outlines, tolerance: float) -> Outlines:
    """Leave vertices out, so that what is left is valid and nowhere farther from the outlines.

    Parameters
    ----------
    outlines : Outlines
        Traced with nodes, which stay.
    tolerance : float
        In voxels.

    Returns
    -------
    Outlines
        With the same rings; the areas are those in voxels still.
    """
    out, starts = np.empty_like(outlines.vertices), np.empty_like(outlines.starts)
    structure = (outlines.polygons, outlines.rings, outlines.starts, outlines.vertices)
    simplify_objects(structure, tolerance, out, starts)
    vertices = out[: starts[-1]].copy()
    boxes = object_boxes(vertices, starts, outlines.rings[outlines.polygons])
    return replace(outlines, starts=starts, vertices=vertices, boxes=boxes)
