"""Keep warnings of others from being shown, in the thread that asks for it alone."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

__all__ = ["muted"]

_categories: ContextVar[tuple[type[Warning], ...]] = ContextVar("muted", default=())


class _MutedHere(type):
    """Say of a category whether it is muted where this is asked, so that one filter serves all threads."""

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
    `warnings.catch_warnings` replaces the filters of the whole process and puts back what it found: of two
    threads that do so side by side, the second leaves the filters of the first for good. This leaves one filter,
    which matches nothing elsewhere.

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
