"""Merge rules: how labels of two tiles become one object. One class each, and one table of them.

A new rule is a class and a place in `RULES`. This module loads no kernels: the command line names
the rules in a page of help.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np

    from blockbuster.merge.borders import Borders
    from blockbuster.merge.tally import TouchingPairs
    from blockbuster.rundir.staged import StagedLabels


@dataclass(frozen=True)
class MergeRule:
    """A rule; the fields of a subclass are its parameters, and are named like arguments of
    `tile_process`.

    Class attributes
    ----------------
    name : str
        As in ``merge="name"``.
    reads : tuple of str
        Names of the borders that it can be matched by. A stage that is made for it keeps the first.
    joins_any : bool
        Whether there are labels that it joins.
    joins_all : bool
        Whether it joins all labels that touch.
    runaway_cure : str
        What to do where neighbours were fused.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ("planes", "strips")
    joins_any: ClassVar[bool] = True
    joins_all: ClassVar[bool] = False
    runaway_cure: ClassVar[str] = (
        'use merge="agree", with an overlap of about one object diameter, unless it is one connected thing'
    )

    @property
    def borders(self) -> type[Borders]:
        """What a stage keeps for the rule."""
        from blockbuster.merge.borders import BORDERS

        return BORDERS[self.reads[0]]

    @property
    def parameters(self) -> dict[str, Any]:
        """What the rule was given, by name."""
        return dataclasses.asdict(self)

    @property
    def looks_beyond_pairs(self) -> bool:
        """Whether it asks what tiles tell apart, and what one of two tiles did not see."""
        return False

    @property
    def threshold(self) -> float | None:
        """The least agreement of two labels that are joined; None where it is not asked for."""
        return None

    def default_connectivity(self, ndim: int) -> int:
        """Return which neighbours touch where nothing is said: 1, faces only."""
        return 1

    def joins(self, found: TouchingPairs) -> np.ndarray:
        """Return which pairs that touch are one object: those that reach the threshold, if any."""
        return found.agreeing(self.threshold)

    def missing_halo(self, axes: str) -> str:
        """Say what comes of tiles that share no halo across some axes; empty where that is as
        good.
        """
        return ""


class Touch(MergeRule):
    """Labels that touch across a seam."""

    name = "touch"
    joins_all = True


@dataclass(frozen=True)
class Agree(MergeRule):
    """Labels that touch and of which two tiles predict the same in the halo that both have seen,
    unless other tiles tell them apart; completed by what only one of the tiles saw.
    """

    name = "agree"
    reads = ("strips",)
    runaway_cure = "raise min_agreement or overlap"

    min_agreement: float = 0.4

    @property
    def threshold(self) -> float:
        return self.min_agreement

    @property
    def looks_beyond_pairs(self) -> bool:
        """All that touches is joined where no agreement is asked for."""
        return self.min_agreement > 0

    def default_connectivity(self, ndim: int) -> int:
        """Return that corners touch too: agreement guards against joining too much."""
        return max(1, ndim)

    def missing_halo(self, axes: str) -> str:
        return (
            f'merge="agree" without a halo along axis {axes}: agreement is measured on the planes that touch, '
            "which tells little. An overlap of about one object diameter is better; suggest_overlap finds one."
        )


class Separate(MergeRule):
    """No labels: every tile keeps its own."""

    name = "none"
    reads = ("nothing", "planes", "strips")
    joins_any = False


RULES: dict[str, type[MergeRule]] = {rule.name: rule for rule in (Touch, Agree, Separate)}


def make_rule(name: str, given: Mapping[str, Any]) -> MergeRule:
    """Make a rule; it takes its parameters out of all that is given.

    Examples
    --------
    >>> make_rule("agree", {"min_agreement": 0.5, "overlap": 8})
    Agree(min_agreement=0.5)
    """
    kind = RULES[name]
    return kind(**{parameter: given[parameter] for parameter in _parameters(kind) if parameter in given})


def rule_of(staged: StagedLabels) -> MergeRule:
    """Return the rule that a stage was made for, if it is in the table."""
    if staged.rule not in RULES:
        raise ValueError(
            f"{staged.path} was made with merge={staged.rule!r}, a rule that is not in RULES here: add it, "
            "as where the stage was made, or segment again."
        )
    return make_rule(staged.rule, staged.rule_parameters)


def choose_rule(staged: StagedLabels, name: str | None, given: Mapping[str, Any]) -> MergeRule:
    """Choose the rule by which a stage is merged: another than its own, if the stage holds what
    that takes.

    Parameters
    ----------
    staged : StagedLabels
        The stage.
    name : str or None
        The rule; ``None``: that of the stage.
    given : mapping
        Parameters other than those of the stage.

    Raises
    ------
    ValueError
        If the stage does not hold it, or the rule has no such parameter.
    """
    own = rule_of(staged)
    kind = RULES[name or own.name]
    if own.reads[0] not in kind.reads:
        possible = " or ".join(f'"{rule.name}"' for rule in RULES.values() if own.reads[0] in rule.reads)
        raise ValueError(
            f'merge is "{kind.name}"; {staged.path} was made with merge="{own.name}", which keeps '
            f'{own.borders.kept}: pass merge={possible}, or segment again with merge="{kind.name}".'
        )
    for parameter, value in given.items():
        takers = [rule.name for rule in RULES.values() if parameter in _parameters(rule)]
        if kind.name not in takers:
            names = " or ".join(f'"{taker}"' for taker in takers)
            raise ValueError(f'{parameter} is {value}; it is for merge={names}, and merge is "{kind.name}".')
    return make_rule(kind.name, {**staged.rule_parameters, **given})


def _parameters(rule: type[MergeRule]) -> list[str]:
    return [field.name for field in dataclasses.fields(rule)]
