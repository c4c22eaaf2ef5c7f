"""Draw the four kinds of decisions at a seam: ``python -m benchmarks.judged.seams.picture docs/seams.png``.

Two tiles of drawn predictions are merged by the package; nothing of the result is drawn by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import blockbuster
from benchmarks.command_line import begin, plain_parser

__all__ = ["DECISIONS", "Decision", "main"]

# Columns of the image, of a tile and of the halo.
WIDTH, TILE, HALO = 14, 7, 5
SIGHT = TILE + HALO
COLOURS = ["#ffffff", "#4477aa", "#ee6677", "#ccbb44", "#66ccee"]


@dataclass(frozen=True)
class Decision:
    """What two tiles saw, and what becomes of it.

    Parameters
    ----------
    title, reason : str
        In words.
    left, right : str
        Labels of the two tiles in what each saw, row by row; a dot is background.
    """

    title: str
    reason: str
    left: str
    right: str

    def predictions(self) -> list[np.ndarray]:
        """Return the labels of the two tiles."""
        return [
            np.array([[".abc".index(letter) for letter in row] for row in text.split()])
            for text in (self.left, self.right)
        ]

    def merged(self) -> np.ndarray:
        """Return the labels of the image."""
        known = dict(zip((0, WIDTH - SIGHT), self.predictions(), strict=True))
        image = np.tile(np.arange(WIDTH), (len(known[0]), 1))
        return np.asarray(
            blockbuster.tile_process(
                image,
                lambda tile: known[tile[0, 0]],
                tile_shape=(len(image), TILE),
                overlap=(0, HALO),
                merge="agree",
            )
        )


DECISIONS = [
    Decision(
        "joined",
        "both tiles saw the same cell",
        "............ ....aaaaa... ...aaaaaaa.. ...aaaaaaa.. ....aaaaa... ............",
        "............ ..aaaaaa.... .aaaaaaa.... .aaaaaaa.... ..aaaaa..... ............",
    ),
    Decision(
        "refused",
        "two cells touch at the seam",
        "............ ..aaaaabbb.. .aaaaabbbbb. .aaaaabbbbb. ..aaaabbbb.. ............",
        "............ aaaaabbbb... aaaaabbbbb.. aaaaabbbbb.. aaaabbbb.... ............",
    ),
    Decision(
        "completed",
        "the right tile found nothing",
        "............ ....aaaaa... ...aaaaaaa.. ...aaaaaaa.. ....aaaaa... ............",
        "............ ............ ............ ............ ............ ............",
    ),
    Decision(
        "contradiction cut",
        "one label of the right tile fits two of the left",
        "............ ...aaaaaaa.. ...aaaaaaa.. ...bbbbbbb.. ...bbbbbbb.. ............",
        "............ .aaaaaaa.... .aaaaaaa.... .aaaaaaa.... .aaaaaaa.... ............",
    ),
]


def main(arguments: list[str] | None = None) -> None:
    """Draw all of them into a PNG file."""
    parser = plain_parser("judged.seams.picture", __doc__)
    parser.add_argument("file", type=Path, help="the picture")
    options = begin(parser, arguments)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(DECISIONS), 3, figsize=(9, 7.2), layout="constrained")
    for row, decision in zip(axes, DECISIONS, strict=True):
        left, right = decision.predictions()
        seen = [(left, 0), (right, WIDTH - SIGHT), (decision.merged(), 0)]
        for axis, (labels, first) in zip(row, seen, strict=True):
            _draw(axis, labels, first)
        row[0].set_ylabel(decision.title, fontsize=11, fontweight="bold")
        row[2].set_xlabel(decision.reason, fontsize=9)
    for axis, title in zip(axes[0], ("left tile and its halo", "right tile and its halo", "merged"), strict=True):
        axis.set_title(title, fontsize=11)
    figure.savefig(options.file, dpi=110)


def _draw(axis: Any, labels: np.ndarray, first: int) -> None:
    """Draw labels whose first column is one of the image, and where the seam is; grey was not seen."""
    from matplotlib.colors import ListedColormap

    axis.set_facecolor("#d9d9d9")
    extent = (first, first + labels.shape[1], len(labels), 0)
    axis.imshow(labels % len(COLOURS), cmap=ListedColormap(COLOURS), vmin=0, vmax=len(COLOURS) - 1, extent=extent)
    axis.set(xlim=(0, WIDTH), ylim=(len(labels), 0), xticks=[], yticks=[])
    for x in range(WIDTH + 1):
        axis.axvline(x, color="#00000018", linewidth=0.5)
    for y in range(len(labels) + 1):
        axis.axhline(y, color="#00000018", linewidth=0.5)
    axis.axvline(TILE, color="black", linewidth=1.5, linestyle="--")


if __name__ == "__main__":
    main()
