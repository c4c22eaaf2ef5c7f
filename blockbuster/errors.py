"""The exception of blockbuster that a caller would want to catch, and its warnings, which all go
one way.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from types import FrameType
from urllib.parse import unquote

# A scheme has a bound, or a long text without blanks would be gone through for each of its letters.
# A quote ends it, unless it is in the middle of a secret that should have been encoded.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}://(?:[^\s'\"<>`]|['\"](?=[\w%@/+=&-]))+")
# Between the parts of a chain such as ``zip://a.zarr::https://host/b.zip``; an IPv6 address has
# colons, too.
CHAINED = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*(?:://|::|$))")
# Shorter ones occur by chance in words and numbers.
MIN_SECRET = 4
# All but line feed and tab: what moves the cursor, changes colours, or turns the direction of
# writing, and halves of characters, which cannot be encoded.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def check_installed(extra: str, modules: Iterable[str], what: str = "") -> None:
    """Raise ImportError where a module is missing that an extra of blockbuster-tiles installs, and
    say what needs it.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
            f"{f', which {what} needs' if what else ''}; python -m pip install 'blockbuster-tiles[{extra}]'",
            name=missing[0],
        )


def show_url(url: str) -> str:
    """Drop user, password, query and fragment of a URL, or of each part of a chain of them.

    Examples
    --------
    >>> show_url("s3://key:secret@host/a.zarr?signature=1"), show_url("/data/a?b.zarr")
    ('s3://host/a.zarr', '/data/a?b.zarr')
    >>> show_url("simplecache::s3://key:sec/ret@bucket/a@b.zarr")
    'simplecache::s3://b.zarr'
    """
    return "::".join(scheme + place for scheme, _, place, _ in map(_split, CHAINED.split(url)))


def hide_secrets(text: str, url: str = "") -> str:
    """Drop what is secret in the URLs that a text names, and the secrets of one that is known
    wherever they are.

    Parameters
    ----------
    text : str
        E.g. the message of somebody else's error.
    url : str
        Whose user, password and query are replaced by ``***`` where they stand by themselves.

    Examples
    --------
    >>> hide_secrets("403, url='https://host/a?sig=s3cr3t'; sig was s3cr3t", "https://host/a?sig=s3cr3t")
    "403, url='https://host/a'; sig was ***"
    """
    if url:
        text = text.replace(url, show_url(url))
        for secret in sorted(_secrets(url), key=len, reverse=True):
            text = text.replace(secret, "***")
    return URL.sub(lambda found: show_url(found[0]), text)


def escape_controls(text: str) -> str:
    r"""Write out the characters that a terminal would obey; lines and tabs stay.

    Examples
    --------
    >>> escape_controls("a\x1b[2Jb\n\rc")
    'a\\x1b[2Jb\n\\rc'
    """
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _split(url: str) -> tuple[str, str, str, str]:
    """Split a URL into scheme, user and password, place, and what follows a question mark or a
    hash.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or "/" in scheme:
        return "", "", url, ""
    host = rest.partition("/")[0]
    user = ""
    # A secret key may have a slash in it, after which there is no host yet; what follows a host is
    # its port.
    if "@" in host or (":" in host and "@" in rest and not host.rpartition(":")[2].isdigit()):
        user = (host if "@" in host else rest).rpartition("@")[0]
        rest = rest[len(user) + 1 :]
    place = re.split("[?#]", rest, maxsplit=1)[0]
    return scheme + mark, user, place, rest[len(place) + 1 :]


def _secrets(url: str) -> Iterator[str]:
    """Yield the parts of a URL that are not shown, as they stand there, decoded, and as `repr`
    shows them.
    """
    for part in CHAINED.split(url):
        _, user, _, query = _split(part)
        values = [value.partition("=")[2] for value in re.split("[&;#]", query)]
        # A secret key with a slash in it is taken apart by those who take it for a path.
        for secret in (user, *user.split(":", 1), *re.split("[:/]", user), query, *values):
            forms = {form for text in (secret, unquote(secret)) for form in (text, repr(text)[1:-1])}
            yield from (form for form in forms if len(form) >= MIN_SECRET)


_categories: ContextVar[tuple[type[Warning], ...]] = ContextVar("muted", default=())


class _MutedHere(type):
    """Say of a category whether it is muted where this is asked, so that one filter serves all
    threads.
    """

    def __subclasscheck__(cls, category: type) -> bool:
        return issubclass(category, _categories.get())


class _Muted(Warning, metaclass=_MutedHere):
    pass


@contextlib.contextmanager
def muted(*categories: type[Warning]) -> Iterator[None]:
    """Ignore warnings of some categories in this thread, and in coroutines that it starts.

    Parameters
    ----------
    *categories : type
        With their subclasses.

    Notes
    -----
    `warnings.catch_warnings` replaces the filters of the whole process and puts back what it found:
    of two threads that do so side by side, the second leaves the filters of the first for good.
    This leaves one filter, which matches nothing elsewhere.

    Examples
    --------
    >>> with muted(DeprecationWarning):
    ...     warnings.warn("old", DeprecationWarning)
    """
    if not any(found[2] is _Muted for found in warnings.filters[:1]):
        warnings.filterwarnings("ignore", category=_Muted)
    token = _categories.set((*_categories.get(), *categories))
    try:
        yield
    finally:
        _categories.reset(token)


PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
# What calls functions that were handed to it, and is nobody's line of code.
CALLERS_FOR_OTHERS = {"asyncio", "concurrent", "dask", "distributed", "multiprocessing", "runpy", "threading"}
_unsaid: ContextVar[tuple[str, ...]] = ContextVar("unsaid", default=())


# Packages and modules whose frames, up to a hundred, stand between a task and what it does.
PASSING_ON = {
    "asyncio",
    "blockbuster",
    "concurrent",
    "contextlib",
    "dask",
    "distributed",
    "threading",
    "tornado",
    "zarr",
}


def format_slices(slices: tuple[slice, ...]) -> str:
    """Write slices as they are typed: ``[0:256, 768:1024]``."""
    return "[" + ", ".join(f"{part.start}:{part.stop}" for part in slices) + "]"


def error_text(error: BaseException) -> str:
    """Return the message of an exception, which may be of the user's own making and fail at this
    too.
    """
    try:
        return hide_secrets(str(error))
    except Exception:
        return ""


def _brief_traceback(error: BaseException, seen: tuple[BaseException, ...] = ()) -> list[str]:
    """Format an exception and its cause with those frames only that a user may know."""
    lines = []
    # Two exceptions may name each other as their cause.
    if error.__cause__ is not None and error.__cause__ not in seen:
        cause = "\nThe above exception was the direct cause of the following exception:\n\n"
        told = _brief_traceback(error.__cause__, (*seen, error))
        lines = [*(told or traceback.format_exception_only(error.__cause__)), cause]
    walked = traceback.walk_tb(error.__traceback__)
    kept = traceback.StackSummary.extract(step for step in walked if _package(step[0]) not in PASSING_ON)
    if kept:
        lines += ["Traceback (most recent call last):\n", *kept.format()]
    # Without a line to show, the message alone would be said twice.
    return lines and lines + traceback.format_exception_only(error)


def ends_process(error: BaseException) -> bool:
    """Return whether an exception is meant for the whole process, not for what was being done when
    it was raised.

    Parameters
    ----------
    error : BaseException
        What was raised while a function of the user's ran.

    Returns
    -------
    bool
        KeyboardInterrupt, and what a handler of signals raises, if not a mere ``Exception``: that
        is how a script asks to be ended by SIGTERM, while a function that limits its own time
        raises ``TimeoutError``. ``sys.exit()`` in the function itself is its fault, and no reason
        to end.

    Examples
    --------
    >>> ends_process(KeyboardInterrupt()), ends_process(SystemExit())
    (True, False)
    """
    if isinstance(error, (Exception, KeyboardInterrupt)):
        return isinstance(error, KeyboardInterrupt)
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


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
        cls,
        doing: str,
        error: BaseException,
        tile: tuple[int, ...],
        slices: tuple[slice, ...],
        *,
        whole: bool = True,
        advice: str = "",
    ) -> TileError:
        """Wrap an exception that was raised while `doing` something for a tile.

        Without `whole` the traceback leaves out the frames of those who only pass on what others
        do.
        """
        name, text = type(error).__name__, error_text(error)
        trace = hide_secrets("".join(traceback.format_exception(error) if whole else _brief_traceback(error)))
        what = f"{doing} raised {name}{': ' if text else ''}{text}{advice}"
        return cls(what, tile, slices, name, text, trace)

    def __str__(self) -> str:
        message = f"tile {self.tile} {format_slices(self.slices)}: {self.what}"
        if self.cause_traceback:
            message += "\n\nThe original traceback:\n" + self.cause_traceback.rstrip()
        return message


class BlockbusterWarning(UserWarning):
    """Something that the caller of blockbuster should know; all its warnings are of this category.

    Examples
    --------
    >>> warnings.filterwarnings("ignore", category=BlockbusterWarning)  # doctest: +SKIP
    """


def warn_user(text: str) -> None:
    """Warn the user, at the line that called blockbuster.

    Parameters
    ----------
    text : str
        What is to be said.

    Notes
    -----
    That line is the caller of the outermost frame of ours: other packages may lie between ours, and
    functions of the user's that call us in turn. In a worker there is none, unless fn itself calls
    us, and the warning names the line of ours that gives it, not one of dask's.

    Examples
    --------
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_user("the tiles are small")
    >>> caught[0].category.__name__, str(caught[0].message)
    ('BlockbusterWarning', 'the tiles are small')
    """
    if any(re.match(pattern, text) for pattern in _unsaid.get()):
        return
    frame = _line_to_name(sys._getframe(1))
    warnings.warn_explicit(
        text,
        BlockbusterWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


@contextlib.contextmanager
def unsaid(pattern: str) -> Iterator[None]:
    """Keep those warnings of ours from being given in this thread whose text begins with a pattern.

    Examples
    --------
    >>> with unsaid("the tiles"):
    ...     warn_user("the tiles are small")
    """
    token = _unsaid.set((*_unsaid.get(), pattern))
    try:
        yield
    finally:
        _unsaid.reset(token)


def _line_to_name(giver: FrameType) -> FrameType:
    """Find the outermost frame that called blockbuster, else take the one that gives the
    warning.
    """
    found = giver
    for frame, _ in traceback.walk_stack(giver):
        caller = frame.f_back
        if _is_own(frame) and caller and not _is_own(caller) and _package(caller) not in CALLERS_FOR_OTHERS:
            found = caller
    return found


def _is_own(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(PACKAGE)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
