"""Pictures that a command writes to a file."""

from __future__ import annotations

__all__ = ["write_new"]


def write_new(file: str, png: bytes) -> None:
    """Write the bytes of a picture to a file that is not there yet.

    Raises
    ------
    FileExistsError
        If it is.
    """
    try:
        with open(file, "xb") as stream:
            stream.write(png)
    except FileExistsError as error:
        raise FileExistsError(f"--picture {file}: the file exists; give a new name.") from error
