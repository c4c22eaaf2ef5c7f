"""Pictures of an image, its tiles, labels and seams; drawn with matplotlib, which is an extra."""

from blockbuster.plot.figures import plot_run, show_labels, show_tiles

__all__ = ["plot_run", "show_labels", "show_tiles"]
