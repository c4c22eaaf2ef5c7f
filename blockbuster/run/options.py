"""The arguments of a run: each function checks one of them and says what is wrong with it."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from blockbuster.errors import ends_process, error_text
from blockbuster.grid import TileGrid
from blockbuster.measure.names import parse_measure
from blockbuster.merge.rules import RULES, MergeRule, make_rule
from blockbuster.run.components import parse_component, parse_parents

UNJOINED_AXES = "tc"
TILE_SHAPE_FORMS = (
    "None (the image's chunks), a tuple of voxels per axis, 'auto', or a callable (shape, dtype) -> tuple"
)
MAX_TILES, MAX_TILES_ALONG_AXIS = 10**9, 10**7
PER_AXIS = "a tuple of voxels per axis"
# Others, such as JSONDecodeError, want more than a message.
KINDS = (TypeError, ValueError, FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError)
Index = tuple[int, ...]
TileShape = Sequence[int] | Literal["auto"] | Callable[[Index, np.dtype], Sequence[int]] | None
Overlap = int | Sequence[int]
Lengths = tuple[tuple[int, ...], ...]


class Faults:
    """Collect every fault of a call and raise them in one message."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Keep an error of the block for later."""
        try:
            yield
        except (TypeError, ValueError, OSError) as error:
            if str(error) not in map(str, self._errors):
                self._errors.append(error)

    def raise_all(self) -> None:
        """Raise what was kept: a single error as it is, several as one."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            kinds = {type(error) for error in self._errors}
            kind = kinds.pop() if len(kinds) == 1 else ValueError
            lines = "".join(f"\n  - {error}" for error in self._errors)
            raise (kind if kind in KINDS else ValueError)(f"{len(self._errors)} arguments are wrong:{lines}")


@dataclass(frozen=True)
class RunOptions:
    """The keyword arguments of `tile_process`.

    Those of type ``Any`` stay as they were given: the plan holds what they mean for the image.
    """

    tile_shape: Any = None
    overlap: Any = 0
    channel: Any = 0
    level: Any = 0
    use_gpu: bool = False
    compute: bool = False
    progress: bool = False
    write_to: Any = None
    output_component: Any = "labels"
    sequential_labels: bool = False
    skip_empty: bool = False
    empty_threshold: Any = None
    stage_dir: Any = None
    keep_stage: bool = False
    verbose: bool = False
    axes: str | None = None
    merge: str = "touch"
    min_agreement: float = 0.4
    connectivity: Any = None
    merge_axes: Any = None
    resume: bool = False
    fn_version: str | None = None
    overwrite: bool = False
    retries: int = 0
    on_error: str = "raise"
    tiles_per_task: int | None = None
    return_report: bool = False
    measure: Any = None
    mask: Any = None
    parents: Any = None

    @property
    def rule(self) -> MergeRule:
        """How labels of two tiles become one object."""
        return make_rule(self.merge, vars(self))

    def parsed(self, faults: Faults) -> RunOptions:
        """Return plain values for all that depend on nothing else; one at fault has its default."""
        values: dict[str, Any] = {}
        for name, parse in PARSERS.items():
            values[name] = getattr(RunOptions, name)
            with faults.caught():
                values[name] = parse(getattr(self, name), name)
        return dataclasses.replace(self, **values)


def resolve_choice(value: Any, name: str, choices: Collection[str]) -> str:
    """Check that a string is one of some."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}; it is one of {', '.join(map(repr, choices))}.")
    return value


def resolve_flag(value: Any, name: str) -> bool:
    """Check that a value is true or false, and not something that merely counts as such."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}; it is True or False.")
    return bool(value)


def resolve_count(value: Any, name: str, least: int) -> int:
    """Check a whole number."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it is a whole number, {least} or more.") from None
    if number < least:
        raise ValueError(f"{name} is {value!r}; it is a whole number, {least} or more.")
    return number


def resolve_tile_lengths(
    tile_shape: Any,
    shape: Index,
    dtype: np.dtype,
    chunks: Lengths,
    axes: str | None,
    channel_axis: int | None,
    auto: Callable[[Index, np.dtype], Sequence[int]],
) -> Lengths:
    """Turn `tile_shape` into the lengths of the tiles along every axis.

    Parameters
    ----------
    tile_shape : None, tuple, ``"auto"`` or callable
        As in `tile_process`.
    shape, dtype, chunks, axes
        Of the image.
    channel_axis : int or None
        An axis that is never cut.
    auto : callable
        What ``"auto"`` means.

    Returns
    -------
    tuple of tuple of int
    """
    if tile_shape is None:
        lengths = tuple(tuple(n for n in axis if n) for axis in chunks)
    else:
        if callable(tile_shape):
            given = _call(tile_shape, shape, dtype)
            tile = _per_axis(given, "tile_shape(shape, dtype)", PER_AXIS, len(shape), channel_axis, 1)
        elif not isinstance(tile_shape, str):
            tile = _per_axis(tile_shape, "tile_shape", TILE_SHAPE_FORMS, len(shape), channel_axis, 1)
        elif tile_shape == "auto":
            # Over the axes of space: one time point and one channel at a time.
            space = [i for i in range(len(shape)) if not axes or axes[i] not in UNJOINED_AXES]
            sides = auto(tuple(shape[i] for i in space), dtype) if space else ()
            side_of = dict(zip(space, sides, strict=True))
            tile = tuple(int(side_of.get(i, 1)) for i in range(len(shape)))
        else:
            raise ValueError(f"tile_shape is {tile_shape!r}; it is {TILE_SHAPE_FORMS}.")
        _check_n_tiles([length // n for length, n in zip(shape, tile, strict=True)])
        lengths = TileGrid.regular(shape, tile, halo=(0,) * len(shape)).lengths
    _check_n_tiles(list(map(len, lengths)))
    if channel_axis is not None:
        whole = (shape[channel_axis],) if shape[channel_axis] else ()
        lengths = lengths[:channel_axis] + (whole,) + lengths[channel_axis + 1 :]
    return lengths


def _check_n_tiles(numbers: list[int]) -> None:
    """Refuse more tiles than a run can keep count of; it lists the lengths along each axis."""
    n_tiles = math.prod(numbers)
    if n_tiles > MAX_TILES or max(numbers) > MAX_TILES_ALONG_AXIS:
        raise ValueError(
            f"tile_shape gives {' x '.join(f'{n:,}' for n in numbers)} tiles; a run keeps count of at most "
            f"{MAX_TILES:,}, and {MAX_TILES_ALONG_AXIS:,} along an axis. Choose larger ones."
        )


def _call(tile_shape: Callable[[Index, np.dtype], Any], shape: Index, dtype: np.dtype) -> Any:
    try:
        return tile_shape(shape, dtype)
    except BaseException as error:
        if ends_process(error):
            raise
        raise ValueError(
            f"tile_shape{(shape, str(dtype))} raised {type(error).__name__}: {error_text(error)}; a callable "
            "takes the image's shape and dtype and returns a tuple of voxels per axis."
        ) from error


def _is_sequence(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _per_axis(value: Any, name: str, rule: str, ndim: int, channel_axis: int | None, least: int) -> Index:
    """Spread a tuple over the axes; a shorter one applies to the last, channels left out."""
    if not _is_sequence(value):
        raise TypeError(f"{name} is {value!r}; it is {rule}.")
    lengths = [resolve_count(n, f"{name}[{i}]", least) for i, n in enumerate(value)]
    if not lengths:
        raise ValueError(f"{name} is empty; give one number for each axis, or for the last ones.")
    if len(lengths) > ndim:
        raise ValueError(
            f"{name} is {tuple(lengths)}, {len(lengths)} numbers; the image has {ndim} axes: give one number "
            "for each, or for the last ones."
        )
    if channel_axis is not None and len(lengths) < ndim:
        rest = [least] * (ndim - 1 - len(lengths)) + lengths
        return tuple(rest[:channel_axis] + [least] + rest[channel_axis:])
    return tuple([least] * (ndim - len(lengths)) + lengths)


def resolve_halo(overlap: Any, lengths: Lengths, axes: str | None, channel_axis: int | None) -> Index:
    """Turn `overlap` into the depth of the halo along every axis."""
    letters = axes or " " * len(lengths)
    if _is_sequence(overlap):
        halo = _per_axis(overlap, "overlap", "a number of voxels", len(lengths), channel_axis, 0)
        for letter, depth in zip(letters, halo, strict=True):
            if letter in UNJOINED_AXES and depth:
                raise ValueError(f"overlap is {tuple(overlap)}; axis {letter!r} gets no halo, give 0 there.")
        return halo
    try:
        depth = resolve_count(overlap, "overlap", 0)
    except ValueError:
        raise ValueError(f"overlap is {overlap!r}; it is a number of voxels, 0 or more.") from None
    except TypeError:
        raise TypeError(
            f"overlap is {overlap!r}; it is a whole number of voxels, 0 or more, or a tuple with one per axis."
        ) from None
    return tuple(
        depth if max(axis, default=1) > 1 and letter not in UNJOINED_AXES else 0
        for axis, letter in zip(lengths, letters, strict=True)
    )


def resolve_merge_axes(merge_axes: Any, axes: str | None, ndim: int, channel_axis: int | None) -> tuple[int, ...]:
    """Turn `merge_axes` into positions in the image."""
    joined = [i for i in range(ndim) if i != channel_axis and not (axes and axes[i] in UNJOINED_AXES)]
    if merge_axes is None:
        return tuple(joined)
    if not isinstance(merge_axes, str):
        raise TypeError(f"merge_axes is {merge_axes!r}; it is a string of axis letters, e.g. 'yx'.")
    if axes is None:
        raise ValueError(f"merge_axes is {merge_axes!r}, but the image's axes are not known; pass axes=.")
    known = "".join(axes[i] for i in joined)
    if not merge_axes or len(set(merge_axes)) < len(merge_axes) or set(merge_axes) - set(known):
        raise ValueError(f"merge_axes is {merge_axes!r}; it is one or more of the letters in {known!r}.")
    return tuple(i for i in joined if axes[i] in merge_axes)


def resolve_connectivity(connectivity: Any, ndim: int, rule: MergeRule) -> int:
    """Check `connectivity`; ``None`` is what suits the merge rule."""
    if connectivity is None:
        return rule.default_connectivity(ndim)
    number = resolve_count(connectivity, "connectivity", 1)
    if number > max(1, ndim):
        raise ValueError(f"connectivity is {number}; it is a number from 1 (faces) to {ndim} (corners too).")
    return number


def resolve_threshold(threshold: Any) -> float | None:
    """Check `empty_threshold`."""
    if threshold is None:
        return None
    return _resolve_number(threshold, "empty_threshold", "a number, or None to choose one from a sample")


def resolve_fraction(value: Any, name: str) -> float:
    """Check a number from 0 to 1."""
    return _resolve_number(value, name, "a number from 0 to 1", 0, 1)


def _resolve_number(
    value: Any, name: str, rule: str, least: float = -math.inf, greatest: float = math.inf
) -> float:
    """Check a real number; text, booleans and arrays with axes are none, NaN neither."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; it is {rule}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.nan
    if not least <= number <= greatest:
        raise ValueError(f"{name} is {value!r}; it is {rule}.")
    # An integer stays one: not every int64 is a float.
    return int(value) if isinstance(value, numbers.Integral) else number


def _resolve_fn_version(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}; it is a string that stands for fn, or None.")
    return value


PARSERS: dict[str, Callable[[Any, str], Any]] = {
    **{field.name: resolve_flag for field in dataclasses.fields(RunOptions) if field.type == "bool"},
    "merge": partial(resolve_choice, choices=RULES),
    "on_error": partial(resolve_choice, choices=("raise", "skip")),
    "min_agreement": resolve_fraction,
    "retries": partial(resolve_count, least=0),
    "tiles_per_task": lambda value, name: None if value is None else resolve_count(value, name, 1),
    "fn_version": _resolve_fn_version,
    "measure": parse_measure,
    "output_component": parse_component,
    "parents": parse_parents,
}
