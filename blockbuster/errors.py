"""The one exception of blockbuster that a caller would want to catch."""

from __future__ import annotations

import traceback

__all__ = ["TileError", "format_slices"]


def format_slices(slices: tuple[slice, ...]) -> str:
    """Write slices as they are typed: ``[0:256, 768:1024]``."""
    return "[" + ", ".join(f"{part.start}:{part.stop}" for part in slices) + "]"


def _text(error: BaseException) -> str:
    """Give the message of an exception, which may be of the user's own making and fail at this too."""
    try:
        return str(error)
    except Exception:
        return ""


class TileError(RuntimeError):
    """A tile could not be processed.

    Everything it holds is text or numbers, so it crosses process boundaries whatever the
    original exception was.

    Parameters
    ----------
    what : str
        What happened, e.g. ``"fn raised ZeroDivisionError: division by zero"``.
    tile : tuple of int
        Index of the tile in the grid, one number per axis.
    slices : tuple of slice
        The tile's core in voxels of the image.
    cause_type, cause_text, cause_traceback : str
        Type name, message and traceback of the original exception; empty where blockbuster
        itself found the fault.

    Examples
    --------
    >>> raise TileError("fn returned None", (0, 3), (slice(0, 256), slice(768, 1024)))
    Traceback (most recent call last):
        ...
    blockbuster.errors.TileError: tile (0, 3) [0:256, 768:1024]: fn returned None
    """

    def __init__(
        self,
        what: str,
        tile: tuple[int, ...],
        slices: tuple[slice, ...],
        cause_type: str = "",
        cause_text: str = "",
        cause_traceback: str = "",
    ) -> None:
        super().__init__(what, tile, slices, cause_type, cause_text, cause_traceback)
        self.what = what
        self.tile = tuple(int(i) for i in tile)
        self.slices = slices
        self.cause_type = cause_type
        self.cause_text = cause_text
        self.cause_traceback = cause_traceback

    @classmethod
    def from_exception(
        cls, doing: str, error: BaseException, tile: tuple[int, ...], slices: tuple[slice, ...]
    ) -> TileError:
        """Wrap an exception that was raised while `doing` something for a tile."""
        name, text = type(error).__name__, _text(error)
        trace = "".join(traceback.format_exception(error))
        return cls(f"{doing} raised {name}" + (f": {text}" if text else ""), tile, slices, name, text, trace)

    def __str__(self) -> str:
        message = f"tile {self.tile} {format_slices(self.slices)}: {self.what}"
        if self.cause_traceback:
            message += "\n\nThe original traceback:\n" + self.cause_traceback.rstrip()
        return message
