"""The command line: ``blockbuster demo``, ``blockbuster segment`` and ``blockbuster seams``."""

from blockbuster.cli.entry import main
from blockbuster.cli.functions import ThresholdAndLabel, ThresholdAndSplit

__all__ = ["ThresholdAndLabel", "ThresholdAndSplit", "main"]
