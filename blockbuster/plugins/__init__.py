"""Tile functions for models: Cellpose, StarDist, and the parts to make one for any other network.

Nothing here imports a model's package before it is needed, and no pickle holds weights.
"""

from blockbuster.plugins.loading import evaluation_turn, load_once, unload_models
from blockbuster.plugins.memory import evaluate_within_memory

__all__ = ["evaluate_within_memory", "evaluation_turn", "load_once", "unload_models"]
