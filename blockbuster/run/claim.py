"""What a run finds on disk: a stage to continue, a finished output, or what is in the way."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from blockbuster.errors import warn_user
from blockbuster.identity.function import FunctionIdentity, differing_parts, identify_function
from blockbuster.identity.growth import Growth
from blockbuster.identity.owners import (
    SHARE,
    is_foreign,
    is_open_to_others,
    private_mode,
    refuse_foreign,
    refuse_links,
)
from blockbuster.output.places import OutputPlace
from blockbuster.output.publishing import finish_moving, finish_publishing
from blockbuster.predict import Predictor
from blockbuster.report import RunReport, installed_versions
from blockbuster.run.components import check_parents, find_published
from blockbuster.run.plan import RunPlan
from blockbuster.rundir.durable import make_folders
from blockbuster.rundir.failpoints import reach
from blockbuster.rundir.folder import (
    FORMAT,
    MANIFEST,
    PRIVATE,
    check_free,
    clear_abandoned,
    create_stage,
    has_finished_work,
    is_stage,
    read_manifest,
    remove_stage,
)
from blockbuster.rundir.journal import Journal, read_journal
from blockbuster.rundir.lock import RunLock, hold_lock
from blockbuster.stage.finished import find_changed_pixels, read_names, read_samples
from blockbuster.stage.results import UNNAMED

logger = logging.getLogger("blockbuster")

REMEDY = (
    "Give what the earlier run was given, or pass overwrite=True instead of resume=True to start anew, or give "
    "another write_to or stage_dir."
)
OPEN_STAGE = (
    "other users can write to the stage {path}, and what they change there goes into the labels. Close it with "
    "chmod go-w, or, where a group works on it together, set {share}=group in the environment."
)
MEASURE_LABELS = "labels that are complete are measured by measure_labels"
VOUCH = (
    "the code of fn is the same: if fn itself has changed what differs, pass fn_version, any text that stands "
    "for it, to go on"
)
DIGEST = re.compile("[0-9a-f]{8,}")
Fingerprint = dict[str, Any]


class Locks:
    """What keeps other runs away from a stage, and from places of labels."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._held: dict[str, RunLock] = {}

    def take(self, locks: dict[str, str]) -> None:
        """Hold more locks, by their paths and what each is for, until the end."""
        for path, what in sorted(locks.items()):
            if path not in self._held:
                # Another run may have removed it, empty, in the meantime.
                make_folders(os.path.dirname(path))
                self._held[path] = self._stack.enter_context(hold_lock(path, what))

    def check(self) -> None:
        """Raise if another run took a lock over, because this one seemed dead for long."""
        for lock in self._held.values():
            lock.check()

    def __enter__(self) -> Locks:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def locks_of(places: dict[str, OutputPlace]) -> dict[str, str]:
    """Return the locks of places of labels, and what each is for."""
    return {place.sibling("lock"): f"the output {place.path}" for place in places.values()}


def make_free(place: OutputPlace) -> None:
    """Remove what an earlier run left beside a place, and see that nothing is in the way.

    Raises
    ------
    FileExistsError
        If something is.
    """
    place.partial.clear()
    check_free(place.partial.path)
    # An array that was put aside may be back, and files of others may be in the way.
    fault = place.fault(overwrite=place.replaces)
    if fault:
        raise FileExistsError(fault)


@dataclass(frozen=True)
class Claim:
    """What a run has for itself while it holds its locks.

    Parameters
    ----------
    plan : RunPlan
        The plan, with the tiles of the run that is continued.
    directory : str
        The stage directory.
    run : str
        Name of the run, the same for all calls that continue it; empty for one that cannot be
        continued.
    fingerprint : dict
        The image, the function and the settings.
    resumes : bool
        Whether the stage holds finished work.
    finished : RunReport or None
        Report of an output that is complete already.
    locks : Locks
        What keeps other runs away.
    places : dict of str to OutputPlace
        Where the results of fn go; filled by `name_results` where their names were not known.
    growth : Growth
        What fn may append to, and what an earlier process of the run saw it append to.
    """

    plan: RunPlan
    directory: str
    run: str = ""
    fingerprint: Fingerprint = field(default_factory=dict)
    resumes: bool = False
    finished: RunReport | None = None
    locks: Locks = field(default_factory=Locks)
    growth: Growth = field(default_factory=Growth)
    places: dict[str, OutputPlace] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the results of fn, as far as they are known."""
        return tuple(self.places) or self.plan.names

    def name_results(self, names: tuple[str, ...]) -> None:
        """Take the places of results whose names were not known before fn returned some.

        Raises
        ------
        ValueError, OSError, RuntimeError
            If fn returned one array where several have places, or a place is not free.
        """
        plan = self.plan
        if self.names == names:
            return
        if names == UNNAMED and plan.place is not None:
            raise ValueError(
                f"fn returned one array, and output_component {plan.options.output_component!r} is for a dict "
                "of name to labels; give the name of an array, e.g. 'labels'."
            )
        check_parents(plan.options.parents, names)
        places = plan.places_of(names)
        self.locks.take(locks_of(places))
        for place in places.values():
            make_free(place)
        self.places.update(places)


@contextlib.contextmanager
def claimed(plan: RunPlan, fn: Callable[..., Any]) -> Iterator[Claim]:
    """Hold the output and the stage of a run, and leave behind what the next call needs.

    Parameters
    ----------
    plan : RunPlan
        What will be done.
    fn : callable
        The function, to tell it from that of an earlier run.

    Yields
    ------
    Claim

    Raises
    ------
    RuntimeError
        If another process makes the same output now.
    FileExistsError
        If the output is there, an unfinished stage is there and `resume` was not asked for, or
        something of others lies at either place.
    ValueError
        If the stage is that of another image, function or setting, or holds a symbolic link.
    PermissionError
        If another user made the stage.
    """
    if not plan.is_resumable:
        with throwaway_stage(plan) as claim:
            yield claim
        return
    with Locks() as locks:
        stage = plan.stage_path.removesuffix("stage") + "lock"
        locks.take({**locks_of(plan.places), stage: f"the stage {plan.stage_path}"})
        reach("locked")
        claim = dataclasses.replace(_Claimant(plan, fn, locks).claim(), locks=locks)
        try:
            yield claim
        except BaseException as error:
            # What fn appended to after the last task, so that a later call knows it was fn.
            with contextlib.suppress(OSError, RuntimeError):
                claim.locks.check()  # or the stage may be another run's by now
                grown = claim.growth.look()
                if grown and has_finished_work(claim.directory):
                    with Journal(claim.directory) as journal:
                        journal.append({"grown": grown})
            error.add_note(_how_to_continue(claim))
            raise
        _clear_up(claim)


@contextlib.contextmanager
def throwaway_stage(plan: RunPlan) -> Iterator[Claim]:
    """Make a stage that no later call could find, so that it is kept only when it was asked for."""
    create_stage(plan.stage_path, {"versions": installed_versions()}, PRIVATE)
    claim = Claim(plan, plan.stage_path)
    try:
        yield claim
    except BaseException:
        remove_stage(claim.directory)
        raise
    _clear_up(claim)


@dataclass(frozen=True)
class _Claimant:
    """A run that looks at what is there."""

    plan: RunPlan
    fn: Callable[..., Any]
    locks: Locks

    def claim(self) -> Claim:
        plan = self.plan
        function = identify_function(_without_batches(self.fn), plan.options.fn_version)
        if function.unreadable:
            warn_user(
                f"this run will not be resumable, since a later call could not tell whether fn is the same: "
                f"{', '.join(function.unreadable[:5])} cannot be read; pass fn_version, a string that stands for "
                "it.",
            )
        known: Fingerprint = {
            "format": FORMAT,
            "image": plan.source.identity(),
            "fn": _parts_of(function),
            "frame": function.frame,
        }
        places = self._find_places(known)
        self._finish_moving(places)
        report = self._finished_reports(places, known)
        if report is not None:
            self._finish_clearing(places, known)
            return Claim(plan, plan.stage_path, finished=report, places=places)
        claim = self._continued(known, places) or self._begun(known, places)
        function.growth.grown |= _grown_in(claim.directory)
        return dataclasses.replace(claim, growth=function.growth)

    def _find_places(self, known: Fingerprint) -> dict[str, OutputPlace]:
        """Return the places of the results, also of those that an earlier run has named."""
        plan, path = self.plan, self.plan.stage_path
        if plan.place is None or plan.places:
            return plan.places
        names = read_names(path) if _is_own_stage(path) else None
        if names is None and plan.options.resume:
            names = find_published(plan.place)
            found = plan.places_of(names or ())
            if any(self._look_at(place, known)[0] is None for place in found.values()):
                # What others have put there.
                return {}
        places = {} if names in (None, UNNAMED) else plan.places_of(names or ())
        self.locks.take(locks_of(places))
        return places

    def _finish_moving(self, places: dict[str, OutputPlace]) -> None:
        """Have outputs follow those that a process had put in place when it was killed."""
        path = self.plan.stage_path
        if len(places) > 1 and _is_own_stage(path):
            for record in read_journal(path, "moves"):
                found = [dataclasses.replace(place, replaces=record["moves"]) for place in places.values()]
                finish_moving(found, read_manifest(path)["run"])

    def _finished_reports(self, places: dict[str, OutputPlace], known: Fingerprint) -> RunReport | None:
        """Return the report of outputs that this very call would make; refuse any others."""
        if not self.plan.places and not self.plan.options.resume:
            # Names that an earlier run met need not be those of this one.
            return None
        found = {name: self._look_at(place, known) for name, place in places.items()}
        reports = {name: report for name, (report, _) in found.items() if report is not None}
        if places and len(reports) == len(places):
            return reports[""] if tuple(places) == UNNAMED else RunReport.of_results(reports)
        for name, (_, differences) in found.items():
            place = places[name]
            fault = place.fault(
                overwrite=place.replaces or (self.plan.options.resume and place.partial.waits_for_swap)
            )
            if fault and self.plan.options.resume and os.path.lexists(place.path):
                others = [places[other].path for other in found if other not in reports and other != name]
                missing = [f"{' and '.join(others)} belong to it and are not there, or differ"]
                fault += f" It is not what this call would make: {'; '.join(differences or missing)}."
            if fault:
                raise FileExistsError(fault)
        return None

    def _look_at(self, place: OutputPlace, known: Fingerprint) -> tuple[RunReport | None, list[str]]:
        """Return the report of an output that this very call would make, or why it would not."""
        if not self.plan.options.resume:
            return None, [""]
        try:
            report = RunReport.read(place.array_path)
        except OSError:
            return None, [f"{place.path} was not written by blockbuster"]
        except ValueError as error:
            return None, [str(error).removesuffix(".")]
        differences = self._differences(report.fingerprint, known, report.grown)
        if report.n_failed and self.plan.options.on_error == "raise":
            differences.append(f"{report.n_failed} tiles failed and were skipped")
        if any(text.startswith("measure was None") for text in differences):
            differences.append(MEASURE_LABELS)
        differences = differences or find_changed_pixels(self.plan.source, report.samples)
        return (None, differences) if differences else (report, [])

    def _finish_clearing(self, places: dict[str, OutputPlace], known: Fingerprint) -> None:
        """Remove what a process could not remove any more that was killed as it ended."""
        for place in places.values():
            finish_publishing(place)
        path = self.plan.stage_path
        if not os.path.lexists(path) or is_foreign(path):
            return
        clear_abandoned(path)
        if not is_stage(path) or self.plan.options.keep_stage:
            return
        is_own = False
        # One that is damaged may be of another run.
        with contextlib.suppress(OSError):
            is_own = not self._stage_differences(read_manifest(path), known)
        if is_own or not has_finished_work(path):
            remove_stage(path, keep=_must_stay(self.plan, places))

    def _differences(self, old: Fingerprint, known: Fingerprint, grown: dict[str, int]) -> list[str]:
        plan = self.plan.with_tiles(old.get("settings", {}).get("tiles", []))
        parts, may_vouch = self._fn_before(old, known, grown)
        found = find_differences(old, _with_settings({**known, "fn": parts}, plan))
        if found and may_vouch and all(text.startswith("fn: ") for text in found):
            found.append(VOUCH)
        return found

    def _fn_before(
        self, old: Fingerprint, known: Fingerprint, grown: dict[str, int]
    ) -> tuple[dict[str, str], bool]:
        """Return the parts of fn as they were when a run began, as far as fn itself changed them.

        Besides, say whether `fn_version`, which was not given, could stand for the rest.
        """
        before, now = old.get("fn", {}), known["fn"]
        if before == now or "fn_version" in before:
            return now, False
        function = identify_function(_without_batches(self.fn), before=grown)
        may_vouch = "unreadable" not in before and function.frame == old.get("frame")
        if not may_vouch or self.plan.options.fn_version is None:
            return _parts_of(function), may_vouch
        changed = differing_parts(before, function.parts)
        logger.info("fn_version is given for the first time: fn is taken for the same, though %s differ", changed)
        return before, False

    def _continued(self, known: Fingerprint, places: dict[str, OutputPlace]) -> Claim | None:
        """Continue a stage with finished work, or see that nothing is in the way of a new one."""
        path, options = self.plan.stage_path, self.plan.options
        if os.path.lexists(path):
            refuse_foreign(path)
        clear_abandoned(path)
        if not os.path.lexists(path):
            return None
        if not is_stage(path):
            mark = os.path.join(path, MANIFEST)
            damaged = f" {mark} is damaged, or of something else." if os.path.lexists(mark) else ""
            raise FileExistsError(f"{path} is in the way and not from blockbuster; move it elsewhere.{damaged}")
        refuse_links(path)
        # Even where no task is finished, fn need not see the tiles again that it was timed with.
        if (options.overwrite and not options.resume) or not any(read_journal(path)):
            remove_stage(path, keep=_must_stay(self.plan, places))
            return None
        manifest = read_manifest(path)
        differences = self._stage_differences(manifest, known) if options.resume else []
        if options.resume and not differences:
            plan = self.plan.with_tiles(manifest["fingerprint"]["settings"]["tiles"])
            samples = read_samples(path, plan.grid) if plan.source.sampled else []
            differences = find_changed_pixels(plan.source, samples)
            if not differences:
                return _resumed(plan, manifest, known, places)
        if not has_finished_work(path):
            remove_stage(path, keep=_must_stay(self.plan, places))
            return None
        if not options.resume:
            raise FileExistsError(
                f"{path} holds finished work of an earlier run; pass resume=True to continue it, or "
                "overwrite=True to start anew."
            )
        raise ValueError(
            f"{path} is the stage of another run and is not continued: {'; '.join(differences)}. {REMEDY}"
        )

    def _stage_differences(self, manifest: dict[str, Any], known: Fingerprint) -> list[str]:
        if manifest.get("format") != FORMAT:
            return [f"the format of the stage was {manifest.get('format')}, is {FORMAT}"]
        path = self.plan.stage_path
        return self._differences(_fingerprint_of(path, manifest), known, _grown_in(path))

    def _begun(self, known: Fingerprint, places: dict[str, OutputPlace]) -> Claim:
        plan = self.plan
        for place in places.values():
            place.partial.clear()
        for place in plan.places.values():
            make_free(place)
        fingerprint = _with_settings(known, plan)
        run = uuid.uuid4().hex
        about = {"versions": installed_versions(), "run": run, "fingerprint": fingerprint}
        create_stage(plan.stage_path, about, private_mode())
        reach("stage made")
        return Claim(plan, plan.stage_path, run, fingerprint, places=dict(plan.places))


def _resumed(
    plan: RunPlan, manifest: dict[str, Any], known: Fingerprint, places: dict[str, OutputPlace]
) -> Claim:
    """Take over a stage that this call would make, given the plan with its tiles."""
    path = plan.stage_path
    if is_open_to_others(path):
        warn_user(OPEN_STAGE.format(path=path, share=SHARE))
    if any(place.partial.waits_for_swap for place in places.values()):
        # The run was allowed to replace the old arrays, and had begun to.
        places = {name: dataclasses.replace(place, replaces=True) for name, place in places.items()}
    fingerprint = _fingerprint_of(path, manifest)
    if "fn_version" in known["fn"] and "fn_version" not in fingerprint["fn"]:
        # It is given for the first time, and stands for fn from now on.
        fingerprint = {**fingerprint, "fn": known["fn"]}
        with Journal(path) as journal:
            journal.append({"vouched": known["fn"]})
    return Claim(plan, path, manifest["run"], fingerprint, resumes=True, places=dict(places))


def _is_own_stage(path: str) -> bool:
    return os.path.lexists(path) and not is_foreign(path) and is_stage(path)


def _without_batches(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a predictor as it is whatever its batch size, on which labels do not depend."""
    return dataclasses.replace(fn, batch_size=min(fn.batch_size, 2)) if isinstance(fn, Predictor) else fn


def _parts_of(function: FunctionIdentity) -> dict[str, str]:
    """Return the parts of a function, which nothing equals if it cannot be read."""
    return {**function.parts, **({"unreadable": uuid.uuid4().hex} if function.unreadable else {})}


def _grown_in(path: str) -> dict[str, int]:
    """Read what fn was seen to append to while a stage was worked on, and its size at first."""
    grown: dict[str, int] = {}
    for record in read_journal(path, "grown"):
        grown = record["grown"] | grown
    return grown


def _fingerprint_of(path: str, manifest: dict[str, Any]) -> Fingerprint:
    """Return the fingerprint that a stage began with, with the `fn_version` given since."""
    fingerprint: Fingerprint = dict(manifest.get("fingerprint", {}))
    for record in read_journal(path, "vouched"):
        fingerprint["fn"] = record["vouched"]
    return fingerprint


def find_differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Name the fields in which two fingerprints differ, with both values where they say something.

    Examples
    --------
    >>> find_differences({"settings": {"halo": [8]}}, {"settings": {"halo": [9]}})
    ['halo was [8], is [9]']
    """
    if old.get("format") != new.get("format"):
        # What earlier versions wrote of the same image and function may be another text.
        return [f"the format of its fingerprint was {old.get('format')}, is {new.get('format')}"]
    found: list[str] = []
    for section in ("image", "fn", "settings"):
        before, after = old.get(section, {}), new.get(section, {})
        names = [name for name in differing_parts(before, after) if name != "tiles"]
        for name in names:
            label = name if section == "settings" else f"{section}: {name}"
            values = before.get(name), after.get(name)
            if name == "unreadable":
                found.append("fn: it cannot be read, and nothing tells whether it is the same")
            elif any(isinstance(value, str) and DIGEST.search(value) for value in values):
                found.append(f"{label} differs")
            else:
                found.append(f"{label} was {values[0]}, is {values[1]}")
    tiles = [fingerprint.get("settings", {}).get("tiles") for fingerprint in (old, new)]
    if not found and tiles[0] != tiles[1]:
        found.append("the lengths of the tiles differ")
    return found


def _with_settings(known: Fingerprint, plan: RunPlan) -> Fingerprint:
    """Add the settings, and give all as it comes back from a file: lists for tuples."""
    settings = {name: value for name, value in plan.settings.items() if name != "image"}
    settings["tiles"] = plan.tile_runs
    stored: Fingerprint = json.loads(json.dumps({**known, "settings": settings}))
    return stored


def _must_stay(plan: RunPlan, places: dict[str, OutputPlace]) -> list[str]:
    paths = [plan.source.path, *(place.path for place in places.values())]
    return [path for path in paths if path]


def _how_to_continue(claim: Claim) -> str:
    if claim.finished is not None:
        return "The labels were complete already."
    partials = [place.partial.path for place in claim.places.values()]
    kept = " and ".join([claim.directory, *filter(os.path.isdir, partials)])
    if not has_finished_work(claim.directory):
        return f"The stage is kept in {kept}; no task was finished, and the next call starts anew."
    return (
        f"The stage is kept in {kept}; call again with resume=True to continue from what is finished, or with "
        "overwrite=True to start anew."
    )


def _clear_up(claim: Claim) -> None:
    """Remove the stage of a run that is complete, unless it is to be kept."""
    if claim.finished is None and not claim.plan.options.keep_stage:
        remove_stage(claim.directory, keep=_must_stay(claim.plan, claim.places))
    reach("stage removed")
