"""The command line: ``blockbuster demo``, ``info``, ``estimate-empty``, ``segment`` and ``seams``."""

from blockbuster.cli.entry import main
from blockbuster.cli.functions import ThresholdAndLabel, ThresholdAndSplit

__all__ = ["ThresholdAndLabel", "ThresholdAndSplit", "main"]
