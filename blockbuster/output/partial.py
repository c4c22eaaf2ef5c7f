"""The folder beside an output in which its labels are made, and where what they replace waits."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from blockbuster.identity.owners import is_foreign, private_mode
from blockbuster.output.feature_table import FeatureTable
from blockbuster.rundir.durable import WRITING
from blockbuster.rundir.folder import (
    check_removable,
    clear_abandoned,
    is_abandoned,
    make_marked_folder,
    remove_entries,
)

MARK = "blockbuster-partial"
# Labels that were put aside, and those of them that will not come back: they may be removed in
# part.
REPLACED, DISCARDED = "replaced", "discarded"
# In the order of removal: what is removed in part is still recognised.
OWN = ("store-*", "table-*", f"{WRITING}*", MARK)
_IN_THE_WAY = (
    "{} is in the way and not from blockbuster; move it elsewhere, or, where another user made it, choose "
    "another output_component."
)


@dataclass(frozen=True)
class PartialFolder:
    """A folder that one output has for itself.

    Parameters
    ----------
    path : str
        The folder.
    labels : str
        Folder of the labels when they are visible.
    table : FeatureTable or None
        What is shown and replaced together with them.
    """

    path: str
    labels: str
    table: FeatureTable | None = None

    @property
    def aside(self) -> str:
        """Where the labels wait that are replaced."""
        return os.path.join(self.path, REPLACED)

    @property
    def waits_for_swap(self) -> bool:
        """Whether a run was interrupted between its two renames: when the old labels were aside."""
        return os.path.isdir(self.aside) and not os.path.lexists(self.labels)

    def fault(self) -> str:
        """Describe what of others is in the way; empty if nothing."""
        if not os.path.lexists(self.path) or self.is_ours() or self._is_abandoned():
            return ""
        return _IN_THE_WAY.format(self.path)

    def is_ours(self, run: str | None = None) -> bool:
        """Return whether an earlier run of this output, or just this run, left the folder."""
        mark = Path(self.path, MARK)
        # Nobody else may look into a folder of another user's run.
        if (
            not os.path.isdir(self.path)
            or os.path.islink(self.path)
            or is_foreign(self.path)
            or not mark.is_file()
        ):
            return False
        found, expected = mark.read_bytes(), self._mark(run or "").encode()
        return found == expected if run is not None else found.partition(b"\n")[0] == expected.partition(b"\n")[0]

    def make(self, run: str) -> None:
        """Make the folder for a run."""
        make_marked_folder(self.path, MARK, self._mark(run), private_mode())

    def put_back(self) -> None:
        """Put labels that went aside back where nothing took their place."""
        if self.waits_for_swap:
            os.rename(self.aside, self.labels)
        if self.table is not None:
            self.table.put_back()

    def clear(self) -> None:
        """Put labels back that went aside, as `put_back`, and remove what an earlier run left.

        Raises
        ------
        FileExistsError
            If the folder is not ours, or holds something of others.
        """
        if self._is_abandoned():
            clear_abandoned(self.path)
        if not os.path.lexists(self.path):
            return
        if not self.is_ours():
            raise FileExistsError(_IN_THE_WAY.format(self.path))
        self.put_back()
        check_removable(self.path, keep=[self.labels])
        # Labels that were overwritten, with all that lies among them.
        discarded = os.path.join(self.path, DISCARDED)
        if os.path.isdir(discarded) and not os.path.islink(discarded):
            shutil.rmtree(discarded)
        if os.path.isdir(self.aside) and not os.path.islink(self.aside):
            os.rename(self.aside, discarded)
            shutil.rmtree(discarded)
        remove_entries(self.path, OWN)

    def _mark(self, run: str) -> str:
        """Tell apart two outputs whose folders have the same name, such as ``a/b`` and ``a.b``."""
        return f"{os.path.relpath(self.labels, os.path.dirname(self.path))}\n{run}"

    def _is_abandoned(self) -> bool:
        return os.path.lexists(self.path) and not is_foreign(self.path) and is_abandoned(self.path)
