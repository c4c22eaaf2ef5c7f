"""From an image's shape and the memory at hand to a tile shape."""

from blockbuster.execution.memory import free_ram_bytes, free_vram_bytes
from blockbuster.tiling.cellpose import auto_tile_shape_cellpose
from blockbuster.tiling.heuristics import auto_tile_shape

__all__ = ["auto_tile_shape", "auto_tile_shape_cellpose", "free_ram_bytes", "free_vram_bytes"]
