"""The command line: ``blockbuster segment`` and the other commands."""

from blockbuster.cli.entry import main
from blockbuster.cli.segmenters import ThresholdAndLabel, ThresholdAndSplit

__all__ = ["ThresholdAndLabel", "ThresholdAndSplit", "main"]
