"""Runs that are started, killed, continued, repeated and disturbed in any order (F2, F5, F9 to F18).

A rule-based state machine plays with one folder: an image, and a zarr group into which two label arrays are
written, one with its stage beside the group and one with its stage in a folder of its own. After every step
an output is absent or what an undisturbed run of those settings gives, to the byte, and all else is as it was.
"""

import dataclasses
import itertools
import json
import os
import shutil
import tempfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import naive
import numpy as np
import pytest
import zarr
from disturbed import (
    COMPONENTS,
    IMAGES,
    LOG,
    N_TILES,
    POISONED_TILE,
    VARIANTS,
    Run,
    call,
    skipped,
    write_image,
    write_world,
)
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from outcomes import assert_same_objects, snapshot

from blockbuster.report import REPORT
from blockbuster.rundir.failpoints import VARIABLE
from blockbuster.rundir.folder import MANIFEST

pytestmark = pytest.mark.slow

MIN_STEPS = 200
REFUSALS = ("FileExistsError", "ValueError")
NAMES = st.sampled_from(sorted(VARIANTS))
FAULTY = st.sampled_from(
    [
        {"fault": "once"},
        {"fault": "once", "retries": 1},
        {"fault": "always", "retries": 1},
        {"fault": "always", "on_error": "skip"},
        {"on_error": "skip"},
    ]
)


def labels_in(array):
    """Files of an array but the report, which tells times; None where there is no array."""
    if not os.path.lexists(array):
        return None
    return {name: what for name, what in snapshot(array).items() if name != REPORT}


def key_of(fingerprint):
    """The part of a fingerprint that tells variants apart: all but where the log lies and what is in it."""
    fn = {name: text for name, text in fingerprint["fn"].items() if "log" not in name}
    return json.dumps([fn, fingerprint["settings"]], sort_keys=True)


class Oracles:
    """What runs that nothing disturbs give, and the points at which one can be killed.

    Parameters
    ----------
    zygote : Zygote
        Where runs are forked.
    folder : Path
        An empty folder.
    """

    def __init__(self, zygote, folder):
        write_world(folder)
        self.zygote, self.folder = zygote, folder
        self.labels, self.variants = {}, {}
        for other, variant in itertools.product((False, True), VARIANTS):
            if variant == next(iter(VARIANTS)):
                write_image(folder, other)
            run = Run("labels", variant, overwrite=True, other=other)
            self._learn(run, run.name)
            self._learn(dataclasses.replace(run, fault="always", on_error="skip"), skipped(run.name))
        passed = Counter()
        self.points = [f"{name}:{passed.update([name]) or passed[name]}" for name in self._points()]

    def _learn(self, run, name):
        self.zygote.run(call, self.folder, run, self.folder / "calls").result()
        array = self.folder / "out.zarr" / "labels"
        expected = VARIANTS[run.variant].threshold < IMAGES[run.other]
        found = zarr.open_array(array, mode="r")[...]
        if run.fault:
            expected[POISONED_TILE] = False
            np.testing.assert_array_equal(found > 0, expected)
        else:
            assert_same_objects(found, naive.label(expected, VARIANTS[run.variant].connectivity))
        self.labels[name] = labels_in(array)
        self.variants[key_of(json.loads((array / REPORT).read_text())["fingerprint"])] = run.variant

    def _points(self):
        """Names of the points that a run passes that replaces an array, in their order."""
        listing = self.folder / "points"
        environment = {VARIABLE: f"list:{listing}"}
        run = Run("labels", "plain", overwrite=True)
        self.zygote.run(call, self.folder, run, self.folder / "calls", environment=environment).result()
        return listing.read_text().splitlines()

    def name_of(self, array):
        """Name the labels that lie at a path; they must be those of a run that was not disturbed."""
        found = labels_in(array)
        if found is None:
            return None
        names = [name for name, expected in self.labels.items() if found == expected]
        assert names, f"{array} is not what any run gives"
        return names[0]


@dataclass(frozen=True)
class State:
    """What lies at the places of one output before a run.

    `stage` and `partial`: nothing, ``"ours"`` or ``"theirs"``; `work`: the variant whose finished work the
    stage holds; `stale`: whether it is that of an image which is no more; `aside`: whether an array was put
    aside by a run that was killed before it put its own there; `crowded`: whether files of others lie in what
    is ours.
    """

    visible: str | None
    stage: str
    partial: str
    work: str | None
    stale: bool
    aside: bool
    crowded: bool

    def refusal(self, run):
        """Whether a run must be refused: the class of its error, or nothing."""
        if self.partial == "theirs":
            return "FileExistsError"
        if run.resume and self.visible in run.results:
            return ""
        if not run.overwrite and (self.visible or (self.aside and not run.resume)):
            return "FileExistsError"
        if self.stage == "theirs":
            return "FileExistsError"
        if self.work is None or (run.overwrite and not run.resume):
            # What was put aside is put back before a run begins anew.
            return "FileExistsError" if self.aside and not self.visible and not run.overwrite else ""
        if not run.resume:
            return "FileExistsError"
        return "" if self.work == run.variant and not self.stale else "ValueError"


class Machine(RuleBasedStateMachine):
    """One folder, and what was done in it."""

    def __init__(self, zygote, oracles, count):
        super().__init__()
        self.zygote, self.oracles, self.count = zygote, oracles, count
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.side = Path(tempfile.mkdtemp(prefix="machine-side-"))
        write_world(self.folder)
        self.image = snapshot(self.folder / "image.zarr")
        self.foreign = {}
        self.other, self.made_of = False, {}
        self.numbers = itertools.count()
        self.sound = True

    # -- places

    def array(self, component):
        return self.folder / "out.zarr" / component

    def partial(self, component):
        return self.folder / f"out.zarr.{component}.blockbuster-partial"

    def stage(self, component):
        """The stage of an output, None where there is none."""
        beside = {"labels": self.folder, "nuclei": self.folder / "scratch"}[component]
        return next(beside.glob(f"out.zarr.{component}.*blockbuster-stage"), None)

    def places(self):
        """Folders of runs that did not end."""
        stages = [self.stage(component) for component in COMPONENTS]
        partials = [self.partial(component) for component in COMPONENTS]
        return [path for path in (*stages, *partials) if path is not None and path.exists()]

    def state(self, component):
        stage, partial = self.stage(component), self.partial(component)
        owner = "" if stage is None else "ours" if (stage / "manifest.json").exists() else "theirs"
        mark = "" if not partial.exists() else "ours" if (partial / "blockbuster-partial").exists() else "theirs"
        return State(
            self.oracles.name_of(self.array(component)),
            owner,
            mark,
            self._work(stage) if owner == "ours" else None,
            owner == "ours" and self.made_of.get(self._run_of(stage)) != self.other,
            (partial / "replaced").exists(),
            any(place in path.parents for path in self.foreign for place in (stage, partial)),
        )

    @staticmethod
    def _run_of(stage):
        return json.loads((stage / "manifest.json").read_text())["run"]

    def _work(self, stage):
        lines = (stage / "journal.jsonl").read_bytes().splitlines() if (stage / "journal.jsonl").exists() else []
        whole = [text for crc, _, text in (line.partition(b" ") for line in lines) if is_crc(crc, text)]
        if not any(b'"task":' in text for text in whole):
            return None
        return self.oracles.variants[key_of(json.loads((stage / "manifest.json").read_text())["fingerprint"])]

    # -- steps

    def perform(self, *runs, points=()):
        """Run, all at once, some until they are killed at a point, see what is there, and give how they ended."""
        self.sound = False
        runs = [dataclasses.replace(run, other=self.other) for run in runs]
        before = {run.component: self.state(run.component) for run in runs}
        files = self.files()
        children = [self._start(*pair) for pair in itertools.zip_longest(runs, points, fillvalue="")]
        outcomes = [(run, child.wait(), calls) for run, (child, calls) in zip(runs, children, strict=True)]
        alone = len({run.component for run in runs}) == len(runs)
        for run, outcome, calls in outcomes:
            if not (outcome.killed and points):
                self._check_end(run, outcome, before[run.component], calls, alone)
        if (
            len(runs) == 1
            and outcomes[0][1].error in REFUSALS
            and not self._may_change(before[runs[0].component])
        ):
            assert self.files() == files, "a call that was refused changed something"
        for component, state in before.items():
            self._check_visible(component, state, [pair for pair in outcomes if pair[0].component == component])
        self.settle()
        return [outcome for _, outcome, _ in outcomes]

    def _may_change(self, state):
        """Whether a refusal comes after what was ours was taken away, or what went aside was put back."""
        return state.crowded or state.aside

    def _start(self, run, point):
        calls = self.side / f"calls-{next(self.numbers)}"
        environment = {VARIABLE: point} if point else {}
        return self.zygote.start(call, self.folder, run, calls, environment=environment), calls

    def _check_end(self, run, outcome, before, calls, alone):
        """Check that a run ended as it had to."""
        n_calls = len(calls.read_text()) if calls.exists() else 0
        described = f"{run} on {before}: {outcome.status} {outcome.error} {outcome.message}\n{outcome.output}"
        assert n_calls <= N_TILES + run.retries, described
        expected = before.refusal(run)
        if not alone:
            allowed = {"", "RuntimeError", *REFUSALS} | ({"TileError"} if run.fault else set())
        elif before.crowded:
            # It is refused when it comes to where they are in the way.
            allowed = {"", expected or "FileExistsError", "TileError" if run.fault else ""}
        elif expected:
            allowed = {expected}
        else:
            must_fail = run.fault == "always" and run.on_error == "raise"
            allowed = {"", "TileError"} if must_fail or (run.fault and not run.retries) else {""}
        assert outcome.status == 0, described
        assert outcome.error in allowed, described
        assert outcome.error not in REFUSALS or not n_calls or not alone or before.crowded, described

    def _check_visible(self, component, before, outcomes):
        """Check that what is visible is what was, or what one of the runs gives."""
        now = self.oracles.name_of(self.array(component))
        ended = [run for run, outcome, _ in outcomes if not outcome.error and not outcome.killed]
        killed = [run for run, outcome, _ in outcomes if outcome.killed]
        allowed = {name for run in ended + killed for name in run.results}
        if not ended:
            allowed |= {before.visible}
        if any(run.overwrite or run.resume for run in killed):
            # Between two renames neither is there.
            allowed |= {None} if (self.partial(component) / "replaced").exists() else set()
        if before.aside and before.visible is None:
            # Any of them may have gone aside, and be put back.
            allowed |= set(self.oracles.labels)
        assert now in allowed, f"{now!r} is visible after {outcomes}, not one of {allowed}"

    def settle(self):
        """Check what holds after every step, and count the step."""
        for stage in filter(None, map(self.stage, COMPONENTS)):
            if (stage / "manifest.json").exists():
                self.made_of.setdefault(self._run_of(stage), self.other)
        assert snapshot(self.folder / "image.zarr") == self.image
        assert {path: path.read_bytes() for path in self.foreign if path.exists()} == self.foreign
        self.count()
        self.sound = True

    def files(self):
        """Everything but locks, of which those of killed runs may be taken away."""
        found = {**snapshot(self.folder)}
        return {path: what for path, what in found.items() if "blockbuster-lock" not in path}

    @rule(component=st.sampled_from(COMPONENTS), variant=NAMES, resume=st.booleans(), overwrite=st.booleans())
    def run(self, component, variant, resume, overwrite):
        self.perform(Run(component, variant, resume, overwrite))

    @rule(
        component=st.sampled_from(COMPONENTS),
        variant=NAMES,
        resume=st.booleans(),
        overwrite=st.booleans(),
        point=st.integers(0, 999),
    )
    def crash(self, component, variant, resume, overwrite, point):
        self.perform(Run(component, variant, resume, overwrite), points=[self._point(point)])

    def _point(self, number):
        return self.oracles.points[number % len(self.oracles.points)]

    @rule(component=st.sampled_from(COMPONENTS), point=st.none() | st.integers(0, 999), overwrite=st.booleans())
    def resume(self, component, point, overwrite):
        """Continue what is there, if it can be, until the end or until it is killed again."""
        variant = self.state(component).work or "plain"
        points = [] if point is None else [self._point(point)]
        self.perform(Run(component, variant, resume=True, overwrite=overwrite), points=points)

    @rule(component=st.sampled_from(COMPONENTS), variant=NAMES, overwrite=st.booleans(), how=FAULTY)
    def run_with_a_tile_that_fails(self, component, variant, overwrite, how):
        variant = self.state(component).work or variant
        self.perform(Run(component, variant, resume=True, overwrite=overwrite, **how))

    @rule(
        components=st.tuples(st.sampled_from(COMPONENTS), st.sampled_from(COMPONENTS)),
        variants=st.tuples(NAMES, NAMES),
        flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
        point=st.none() | st.integers(0, 999),
    )
    def run_two_at_once(self, components, variants, flags, point):
        first = Run(components[0], self.state(components[0]).work or variants[0], True, flags[0])
        second = Run(components[1], variants[1], flags[1], flags[2])
        self.perform(first, second, points=[] if point is None else [self._point(point)])

    @rule()
    def change_the_image_behind_its_name(self):
        """Put another image there, once: its files differ, but neither the name of its array nor its shape."""
        if not self.other:
            self.other = True
            write_image(self.folder, other=True)
            self.image = snapshot(self.folder / "image.zarr")
            self.settle()

    @rule(component=st.sampled_from(COMPONENTS))
    def reorder_the_dict_that_fn_holds(self, component):
        """Ask for what is there, or half done, with the same thresholds in another order."""
        state = self.state(component)
        held = state.work or str(state.visible).split()[0].rstrip(",")
        turned = {"plain": "strict", "strict": "plain"}.get(held, "plain")
        self.perform(Run(component, turned, resume=True))

    @rule()
    def let_fn_append_to_its_log_elsewhere(self):
        """Have the log grow that fn was seen to append to, as by a run on another image."""
        with (self.folder / LOG).open("a") as file:
            file.write("elsewhere\n")
        self.settle()

    @rule(which=st.integers(0, 9999), how=st.sampled_from(["remove", "cut", "flip", "empty", "append"]))
    def damage(self, which, how):
        """Damage a file that a later run would use."""
        files = sorted(path for place in self.places() for path in place.rglob("*") if self._can_be_damaged(path))
        if files:
            damage(files[which % len(files)], how)
            self.settle()

    def _can_be_damaged(self, path):
        inner = path.relative_to(self.folder).parts
        return (
            path.is_file()
            and path not in self.foreign
            and "replaced" not in inner
            and path.name not in ("manifest.json", "layout.json", "zarr.json", "blockbuster-partial", REPORT)
        )

    @rule(which=st.integers(0, 9))
    def remove_by_hand(self, which):
        places = [place for place in self.places() if self._can_be_removed(place)]
        if places:
            shutil.rmtree(places[which % len(places)])
            self.settle()

    @staticmethod
    def part(stage):
        """The folder in a stage that its tasks write to."""
        return next(stage.glob("part-*"), stage / "part")

    def _can_be_removed(self, place):
        return not (place / "replaced").exists() and not any(place in path.parents for path in self.foreign)

    @rule(
        where=st.sampled_from(["beside", "group", "stage", "part", "partial", "scratch"]),
        component=st.sampled_from(COMPONENTS),
    )
    def put_a_foreign_file(self, where, component):
        """Put a file of somebody else's anywhere."""
        stage = self.stage(component) or self.folder
        place = {
            "beside": self.folder,
            "group": self.folder / "out.zarr",
            "stage": stage,
            "part": self.part(stage),
            "partial": self.partial(component),
            "scratch": self.folder / "scratch",
        }[where]
        if place.exists():
            path = place / f"mine-{next(self.numbers)}.txt"
            self.foreign[path] = str(path).encode()
            path.write_bytes(self.foreign[path])
            self.settle()

    @rule()
    def move_foreign_files_away(self):
        """Do what the message of a refusal says: move elsewhere what is in the way."""
        if self._move_foreign():
            self.settle()

    def _move_foreign(self):
        """Move folders that are not ours, and files of others in those that are; give how many."""
        moved = 0
        for component in COMPONENTS:
            state = self.state(component)
            for place, owner in ((self.stage(component), state.stage), (self.partial(component), state.partial)):
                inside = [path for path in self.foreign if owner and place in path.parents]
                for path in [place] if owner == "theirs" else inside:
                    self._move(path)
                    moved += 1
        return moved

    def _move(self, place):
        target = self.folder / f"moved-{next(self.numbers)}"
        place.rename(target)
        for path in filter(lambda path: path.is_relative_to(place), list(self.foreign)):
            self.foreign[target / path.relative_to(place)] = self.foreign.pop(path)

    # -- the end

    def teardown(self):
        try:
            if self.sound:
                self._end()
        finally:
            shutil.rmtree(self.folder)
            shutil.rmtree(self.side)

    def _end(self):
        """A last run of each output succeeds, and leaves the output, the image and what others put there."""
        self._move_foreign()
        for component in COMPONENTS:
            state = self.state(component)
            variant = state.work or "plain"
            self.perform(Run(component, variant, resume=not state.stale, overwrite=True))
        self._move_foreign()
        left = {path for path in self.folder.rglob("*") if path.is_file()} - {*self.foreign, self.folder / LOG}
        kept = [self.folder / "image.zarr", self.folder / "out.zarr"]
        assert not [path for path in left if not any(place in path.parents for place in kept)]
        assert not self.places()
        assert not list((self.folder / "tmp").iterdir())


def is_crc(crc, text):
    return crc == b"%08x" % zlib.crc32(text)


def damage(path, how):
    """Damage a file in one of the ways that disks and people have."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if how == "remove":
        path.unlink()
    elif how == "append":
        path.write_bytes(content + b"0badc0de {")
    elif how == "flip" and content:
        content[middle] ^= 16
        path.write_bytes(content)
    else:
        path.write_bytes(content[: middle if how == "cut" else 0])


@pytest.fixture(scope="module")
def oracles(zygote, tmp_path_factory):
    return Oracles(zygote, tmp_path_factory.mktemp("oracles"))


@pytest.fixture
def machine(zygote, oracles):
    """A machine to be moved by hand."""
    machine = Machine(zygote, oracles, bool)
    yield machine
    machine.teardown()


def test_F5_F16_any_sequence_of_runs_kills_and_damage_leaves_the_right_labels_or_none(zygote, oracles):
    steps = itertools.count()
    chosen = settings(
        max_examples=int(os.environ.get("MACHINE_EXAMPLES", 13)),
        stateful_step_count=26,
        derandomize="MACHINE_EXAMPLES" not in os.environ,
        database=None,
        deadline=None,
        # A step takes a tenth of a second, and shrinking takes thousands of them.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: Machine(zygote, oracles, lambda: next(steps)), settings=chosen)
    n_steps = next(steps)
    print(f"{n_steps} steps")
    assert n_steps >= MIN_STEPS


# -- what the machine found


@pytest.mark.parametrize("how", ["remove", "cut", "flip", "empty", "append"])
def test_F9_F10_F11_a_damaged_piece_of_a_partial_output_is_written_anew_where_zarr_would_read_it_first(
    how, machine
):
    machine.perform(Run("labels", "plain"), points=["output flushed:1"])
    pieces = sorted(path for path in machine.partial("labels").rglob("c/*/*") if path.is_file())
    for piece in pieces[-2:]:
        damage(piece, how)
    machine.perform(Run("labels", "plain", resume=True))
    assert machine.oracles.name_of(machine.array("labels")) == "plain"


@pytest.mark.parametrize("where", ["stage", "part"])
def test_F14_files_of_others_anywhere_in_a_stage_stay_when_it_is_removed(where, machine):
    machine.perform(Run("labels", "plain"), points=["task journalled:3"])
    machine.put_a_foreign_file(where=where, component="labels")
    machine.perform(Run("labels", "plain", resume=True))
    stage = machine.stage("labels")
    # The mark stays with them, so that the folder is known for ours once they are gone.
    assert {path for path in stage.rglob("*") if path.is_file()} == {*machine.foreign, stage / MANIFEST}


def test_F14_a_partial_output_with_files_of_others_is_in_the_way_before_any_work(machine):
    machine.perform(Run("labels", "strict"), points=["partial made:1"])
    machine.put_a_foreign_file(where="partial", component="labels")
    (outcome,) = machine.perform(Run("labels", "plain", overwrite=True))
    assert outcome.error == "FileExistsError"
    assert "move it elsewhere" in outcome.message
    machine.move_foreign_files_away()
    machine.perform(Run("labels", "plain", overwrite=True))
    assert machine.oracles.name_of(machine.array("labels")) == "plain"


def test_F14_a_stage_with_files_of_others_cannot_be_started_anew_until_they_are_moved(machine):
    machine.perform(Run("nuclei", "strict"), points=["task journalled:2"])
    machine.put_a_foreign_file(where="stage", component="nuclei")
    (outcome,) = machine.perform(Run("nuclei", "plain", overwrite=True))
    assert outcome.error == "FileExistsError"
    assert "move it elsewhere" in outcome.message


def test_F26_a_stage_without_finished_work_goes_when_the_output_is_found_complete(machine):
    machine.perform(Run("labels", "plain"))
    machine.perform(Run("labels", "strict", overwrite=True), points=["stage made:1"])
    machine.perform(Run("labels", "plain", resume=True))
    assert not machine.places()


def test_F18_an_array_that_went_aside_is_back_before_a_run_that_may_not_replace_it_begins(machine):
    machine.perform(Run("labels", "plain"))
    machine.perform(Run("labels", "strict", overwrite=True), points=["old output aside:1"])
    assert machine.oracles.name_of(machine.array("labels")) is None
    shutil.rmtree(machine.stage("labels"))
    (outcome,) = machine.perform(Run("labels", "strict", resume=True))
    assert outcome.error == "FileExistsError"
    assert machine.oracles.name_of(machine.array("labels")) == "plain"


CHANGED = {"labels": "image: content differs", "nuclei": "are not those that the earlier run read"}


@pytest.mark.parametrize("component", COMPONENTS)
def test_F32_an_output_does_not_outlive_the_image_behind_its_name(component, machine):
    machine.perform(Run(component, "plain"))
    machine.change_the_image_behind_its_name()
    (outcome,) = machine.perform(Run(component, "plain", resume=True))
    assert outcome.error == "FileExistsError"
    assert CHANGED[component] in outcome.message
    machine.perform(Run(component, "plain", resume=True, overwrite=True))
    assert machine.oracles.name_of(machine.array(component)) == "plain of the other image"


@pytest.mark.parametrize("component", COMPONENTS)
def test_F32_a_stage_does_not_outlive_the_image_behind_its_name(component, machine):
    machine.perform(Run(component, "plain"), points=["task journalled:3"])
    machine.change_the_image_behind_its_name()
    (outcome,) = machine.perform(Run(component, "plain", resume=True))
    assert outcome.error == "ValueError"
    assert CHANGED[component] in outcome.message
    machine.perform(Run(component, "plain", overwrite=True))
    assert machine.oracles.name_of(machine.array(component)) == "plain of the other image"


def test_F13_neither_a_stage_nor_an_output_is_that_of_a_dictionary_in_another_order(machine):
    machine.perform(Run("labels", "plain"), points=["task journalled:3"])
    machine.reorder_the_dict_that_fn_holds(component="labels")
    machine.perform(Run("labels", "plain", resume=True))
    machine.reorder_the_dict_that_fn_holds(component="labels")
    assert machine.oracles.name_of(machine.array("labels")) == "plain"


def test_F33_a_run_goes_on_however_its_log_has_grown(machine):
    machine.perform(Run("labels", "plain"), points=["task journalled:3"])
    machine.let_fn_append_to_its_log_elsewhere()
    machine.perform(Run("nuclei", "strict"))
    machine.perform(Run("labels", "plain", resume=True))
    machine.let_fn_append_to_its_log_elsewhere()
    for component, variant in (("labels", "plain"), ("nuclei", "strict")):
        (outcome,) = machine.perform(Run(component, variant, resume=True))
        assert not outcome.error
