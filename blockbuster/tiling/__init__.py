"""From an image's shape and the memory at hand to a tile shape."""

from blockbuster.tiling.cellpose import auto_tile_shape_cellpose
from blockbuster.tiling.heuristics import auto_tile_shape

__all__ = ["auto_tile_shape", "auto_tile_shape_cellpose"]
