"""Pictures that a command writes to a file."""

from __future__ import annotations

import os

__all__ = ["refuse_existing", "write_new"]


def refuse_existing(file: str | None) -> None:
    """Raise FileExistsError if there is a file that a picture would replace."""
    if file is not None and os.path.lexists(file):
        raise FileExistsError(f"--picture {file}: the file exists; give a new name.")


def write_new(file: str, png: bytes) -> None:
    """Write the bytes of a picture to a file that is not there yet."""
    refuse_existing(file)
    with open(file, "xb") as stream:
        stream.write(png)
