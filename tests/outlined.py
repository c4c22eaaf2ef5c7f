"""Outlines as plain as they can be, and label images drawn from them again, to hold ours against."""

import itertools
import json
import os
from collections import Counter

import numpy as np
from scipy import ndimage

CORNERS = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
NEIGHBOURS = [(-1, 0), (0, 1), (1, 0), (0, -1)]


def sides(labels, label):
    """Every side of a voxel of the label that borders another, from (x, y) to (x, y), the voxel on its right."""
    padded = np.pad(labels, 1) == label
    found = Counter()
    for y, x in np.argwhere(padded):
        for k, (dy, dx) in enumerate(NEIGHBOURS):
            if not padded[y + dy, x + dx]:
                start, stop = CORNERS[k] + (x - 1, y - 1), CORNERS[(k + 1) % 4] + (x - 1, y - 1)
                found[*map(int, start), *map(int, stop)] += 1
    return found


def sides_of(ring):
    """The same of a closed ring of whole coordinates, along axes."""
    found = Counter()
    for (x0, y0), (x1, y1) in itertools.pairwise(ring):
        assert (x0 == x1) != (y0 == y1)
        steps = max(abs(x1 - x0), abs(y1 - y0))
        dx, dy = (x1 - x0) // steps, (y1 - y0) // steps
        for k in range(steps):
            found[x0 + k * dx, y0 + k * dy, x0 + (k + 1) * dx, y0 + (k + 1) * dy] += 1
    return found


def polygons_of(geometry):
    """The polygons of a Polygon or MultiPolygon: lists of closed rings."""
    coordinates = geometry["coordinates"]
    return {"Polygon": [coordinates], "MultiPolygon": coordinates}[geometry["type"]]


def fill(polygon, shape):
    """The voxels inside an odd number of its rings, for rings along the edges of voxels."""
    flips = np.zeros((shape[0], shape[1] + 1), int)
    for ring in polygon:
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            if x0 == x1:
                flips[min(y0, y1) : max(y0, y1), x0] += 1
    return np.cumsum(flips, axis=1)[:, :-1] % 2 == 1


def read_features(path):
    """The features of a GeoJSON file."""
    with open(path) as file:
        return json.load(file)["features"]


def label_of(feature):
    return int(feature["properties"]["name"])


def draw(features, shape):
    """The label image that features show, in which no voxel has two."""
    labels = np.zeros(shape, np.int64)
    for feature in features:
        for polygon in polygons_of(feature["geometry"]):
            inside = fill(polygon, shape)
            assert not labels[inside].any()
            labels[inside] = label_of(feature)
    return labels


def assert_outlines(features, labels):
    """Assert that features are the outlines of a label image: rings, parts and holes of each."""
    np.testing.assert_array_equal(draw(features, labels.shape), labels)
    assert [label_of(feature) for feature in features] == np.unique(labels[labels != 0]).tolist()
    for feature in features:
        mask, polygons = labels == label_of(feature), polygons_of(feature["geometry"])
        rings = [ring for polygon in polygons for ring in polygon]
        assert sum(map(sides_of, rings), Counter()) == sides(labels, label_of(feature))
        for ring in rings:
            assert ring[0] == ring[-1]
            # Simple: no vertex twice; none on a straight line.
            assert len(set(map(tuple, ring))) == len(ring) - 1
            assert all(a[0] != c[0] and a[1] != c[1] for a, c in zip([ring[-2], *ring], ring[1:], strict=False))
        # A polygon is all voxels that hang together by their sides.
        parts, n_parts = ndimage.label(mask)
        assert len(polygons) == n_parts
        for polygon in polygons:
            inside = fill(polygon, labels.shape)
            assert (inside == (parts == parts[inside][0])).all()
            assert all(signed_area(ring) < 0 < signed_area(polygon[0]) for ring in polygon[1:])
            assert signed_area(polygon[0]) > 0


def signed_area(ring):
    """Positive for a ring that goes around counterclockwise where y points up."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring)) / 2


def left_behind(folder):
    """Names that an export leaves beside its file when it is killed."""
    return [name for name in os.listdir(folder) if "blockbuster" in name]
