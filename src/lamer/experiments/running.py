"""Running an experiment: what methods share is made once, then each is trained and asked the same samples.

    OUT/SUBJECT/seed-S/    a run directory: queries, facts, matches, diagnoses, the teacher's ledger, predictions
    .../methods/NAME/      units (what the teacher was asked for), examples (trained on), training, adapter

Killed and started again, it goes on where it was. A method may be added at the end of an experiment; a changed one
is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamer.config import Config, flatten, load_config, overlay
from lamer.errors import DataError, RunError
from lamer.experiments.data import BELOW, Pool, of_units, one_a_deficiency
from lamer.experiments.experiment import DERIVED, LABELLED, Experiment, Method, in_turn
from lamer.experiments.random_facts import random_examples
from lamer.experiments.results import METHODS, MethodResult, SeedRun
from lamer.records import Deficiency, Example
from lamer.run import CONFIG, Run, StageResult, digest, stopwatch
from lamer.tables import write_atomically

if TYPE_CHECKING:
    from lamer.microworld.world import World

EMBEDDED = "embedded"
"""Folder of the embedded world's runs."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with its data: what an experiment is made on."""

    name: str
    """Of its folder."""
    config: Config
    """Settings of its runs; the seed is the experiment's."""
    right_facts: Mapping[str, str] | None = None
    """The fact that decides each query, by query id, where it is known."""


@contextmanager
def embedded_subject(
    out: Path,
    assignments: Sequence[str] = (),
    *,
    world: World | None = None,
    checkpoint: Path | None = None,
    name: str = EMBEDDED,
) -> Iterator[Subject]:
    """The embedded world with its teacher behind a local server.

    Args:
        out: Folder of the experiment; the world's files go to `OUT/NAME/world`.
        assignments: `key=value` texts that change settings.
        world: Another world than the shipped one, together with
        checkpoint: the folder of the model that was taught it.
        name: Of the subject's folder.
    """
    from lamer.experiments.demo import demo_config, serve_teacher
    from lamer.microworld import checkpoint_path, shipped_world

    if world is None or checkpoint is None:
        world, checkpoint = shipped_world(), checkpoint_path()
    world.write(out / name / "world")
    right_facts = {query.id: world.gold_fact(query.id) for query in world.queries()}
    with serve_teacher(world) as base_url:
        yield Subject(name, demo_config(out / name, checkpoint, base_url, assignments), right_facts)


def run_experiment(experiment: Experiment, out: Path, subject: Subject) -> Iterator[SeedRun]:
    """Do what is missing of every seed; yields each when it is complete.

    Raises:
        RunError: If a run there was made with other settings or methods.
        LamerError: What the stages raise; everything done stays and is gone on from.
    """
    from lamer.pipeline import STAGES, execute

    for seed in range(experiment.seeds):
        config = load_config(overlay(subject.config.model_dump(), {"seed": seed}), preset=subject.config.preset)
        with Run.open(out / subject.name / f"seed-{seed}") as run, _settings_kept(run):
            for _ in execute(run, config, stages=STAGES[:2]):
                pass
            _compare_methods(run, config, experiment, subject)
        yield SeedRun(subject.name, seed, run)


@contextmanager
def _settings_kept(run: Run) -> Iterator[None]:
    """A start that is refused leaves the settings as they were: they are what the next start goes on with."""
    file = run.path / CONFIG
    before = file.read_bytes() if file.exists() else None
    try:
        yield
    except RunError:
        if before is not None:
            write_atomically(file, before)
        raise


def _compare_methods(run: Run, config: Config, experiment: Experiment, subject: Subject) -> None:
    """Train and ask every method of one run."""
    pool = Pool(run, config, subject.right_facts)
    names = list(experiment.methods)
    known = _known_methods(run)
    if known[: len(names)] != names[: len(known)] or len(known) > len(names):
        raise RunError(
            f"{run.path}: was made with the methods {', '.join(known)}, in this order; a method may only be added "
            "at the end: use another --out"
        )
    _check_labels(run, experiment.methods, pool)
    leading = experiment.methods.values() if experiment.budget_of is None else [experiment.budget_of]
    making = _Making(run, config, pool, experiment.methods)
    results = making.all(experiment.examples or pool.budget(leading))
    rows = [asdict(results[name]) for name in names]
    write_atomically(run.path / METHODS, json.dumps(rows, ensure_ascii=False, indent=1).encode())
    _ask(run, config, names, results)


def _check_labels(run: Run, methods: Mapping[str, Method], pool: Pool) -> None:
    """Told before a teacher is asked or anything is trained."""
    needing = [name for name, method in methods.items() if method.data in LABELLED]
    if needing and not pool.labelled:
        raise DataError(
            f"{run.path}: {', '.join(needing)} need labelled queries with options, and there are none; without "
            "labels table2, table4, fig3 and fig7 can be made, and methods of --methods that do without"
        )


def _known_methods(run: Run) -> list[str]:
    file = run.path / METHODS
    return [row["name"] for row in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []


@dataclass(frozen=True, slots=True)
class _Making:
    """The methods of one run, and what they are made from."""

    run: Run
    config: Config
    pool: Pool
    methods: Mapping[str, Method]

    def all(self, num_examples: int) -> dict[str, MethodResult]:
        """Every method with so many examples, each after those it refers to."""
        results: dict[str, MethodResult] = {}
        for name in in_turn(self.methods):
            steps_of = self.methods[name].steps_of
            results[name] = self._made(name, num_examples, results[steps_of].num_steps if steps_of else None)
        return results

    def _made(self, name: str, num_examples: int, num_steps: int | None) -> MethodResult:
        """One method's examples and adapter; from the manifest when they are there."""
        stage, method = f"methods/{name}", self.methods[name]
        if self.run.begin(stage, self._dependencies(name, num_examples)):
            with stopwatch() as seconds:
                training = method.trained_with(self.config, num_steps)
                own = num_examples - round(training.train.replay.share * num_examples)
                units, examples = self._examples(name, own)
                counts = {**_train(self.run, training, name, units, examples), "units": len(units)}
            notes = _shortage(method, units, len(examples), own)
            self.run.complete(stage, StageResult(counts, notes), seconds[0])
        entry = self.run.manifest()[stage]
        counts = entry.counts
        return MethodResult(
            name, method.title, counts["examples"], counts["steps"], counts.get("replayed", 0), tuple(entry.notes)
        )

    def _dependencies(self, name: str, num_examples: int) -> dict[str, Any]:
        """Everything a method's adapter depends on besides the diagnosis."""
        from lamer.pipeline import HARMLESS

        method = self.methods[name]
        sections = ("select.", "synthesize.", "train.")
        leaves = {
            key: value
            for key, value in flatten(self.config).items()
            if key.startswith(sections) and key not in HARMLESS and not key.endswith((".path", ".held_out"))
        }
        others = [method.of] if method.data in DERIVED else []
        referred = {other: digest(self.methods[other].model_dump_json()) for other in others}
        return {"method": method.model_dump(), "refers to": referred, "num_examples": num_examples, **leaves}

    def _examples(self, name: str, num_examples: int) -> tuple[list[Deficiency], list[Example]]:
        """What a method trains on, stored in its tables `units` and `examples`."""
        method, run = self.methods[name], self.run
        settings = self.config.synthesize
        settings = settings.model_copy(update={"prompt": method.prompt or settings.prompt})
        asking = self.config.model_copy(update={"synthesize": settings})
        if method.data == "none":
            return [], []
        if method.data == "random facts":
            return [], random_examples(run, asking, num_examples, name)
        table = run.table(f"methods/{name}/examples", Example)
        unit_table = run.table(f"methods/{name}/units", Deficiency)
        if not (table.has(0) and unit_table.has(0)):
            reference = list(run.table(f"methods/{method.of}/units", Deficiency)) if method.data in DERIVED else []
            units = self.pool.units(method, num_examples, reference)
            if units:
                examples = _write(run, asking, self.pool, units, name)
            else:
                written = [
                    row for row in run.table(f"methods/{method.of}/examples", Example) if row.status == "kept"
                ]
                examples = _drawn(method, self.pool, reference, written)
                named = {example.deficiency_id for example in examples}
                units = [unit for unit in reference if unit.id in named]
            unit_table.write(0, units)
            table.write(0, examples)
        return list(unit_table), [row for row in table if row.status == "kept"]


def _shortage(method: Method, units: Sequence[Deficiency], count: int, wanted: int) -> list[str]:
    """Why a method has fewer examples than the budget allows."""
    if count >= wanted or method.data in ("none", "one a deficiency", "helpful", "misleading"):
        return []
    asked = sum(unit.quota for unit in units) if units else wanted
    reasons = [f"its units ask for {asked:,}"] if asked < wanted else []
    reasons += [f"{asked - count:,} could not be had from the teacher"] if count < asked else []
    return [f"{count:,} of {wanted:,} examples: {'; '.join(reasons)}"]


def _write(run: Run, config: Config, pool: Pool, units: Sequence[Deficiency], name: str) -> list[Example]:
    """Ask the teacher; what another method asked already comes from the ledger."""
    from lamer.synthesis.stage import open_ledger, open_verifier, synthesize_units
    from lamer.teacher.teacher import Teacher

    with open_ledger(run) as ledger:
        teacher = Teacher(config.synthesize.teacher, ledger)
        verifier = open_verifier(run, config, teacher, name)
        return synthesize_units(
            units, pool.queries, pool.facts, config, ledger, teacher=teacher, progress=name,
            verifier=verifier,
        )  # fmt: skip


def _drawn(
    method: Method, pool: Pool, reference: Sequence[Deficiency], examples: Sequence[Example]
) -> list[Example]:
    """Examples of another method that this one trains on."""
    deficient = {unit.id for unit in reference if unit.tier != BELOW}
    own = of_units(examples, deficient.__contains__)
    if method.data == "one a deficiency":
        return one_a_deficiency(own, pool.config.seed)
    found = pool.influences()
    return of_units(own, lambda name: found.get(name) == method.data)


def _train(
    run: Run, config: Config, name: str, units: Sequence[Deficiency], examples: Sequence[Example]
) -> dict[str, int]:
    """Train an adapter unless it is there; examples, replayed ones among them, and optimizer steps."""
    from lamer.training.replay import num_replayed, replay_examples
    from lamer.training.trainer import train_adapter

    if not examples:
        return {"examples": 0, "replayed": 0, "steps": 0}
    folder = run.path / "methods" / name
    tiers = {unit.id: unit.tier for unit in units}
    replay = replay_examples(run, config, num_replayed(config, len(examples)))
    result = train_adapter(examples, config, folder / "training", folder / "adapter", tiers, replay=replay)
    return {"examples": result.num_examples, "replayed": result.num_replayed, "steps": result.num_steps}


def _ask(run: Run, config: Config, names: Sequence[str], results: Mapping[str, MethodResult]) -> None:
    """Answers of every method to every sample; a method without examples answers as the base model does."""
    from lamer.evaluation.stage import evaluate_methods

    adapters = {
        name: run.path / "methods" / name / "adapter" if results[name].num_examples else None for name in names
    }
    depends = {key: value for key, value in flatten(config).items() if key.startswith("evaluate.")}
    depends = {key: value for key, value in depends.items() if key not in ("evaluate.max_batch_tokens",)}
    stages = run.manifest()
    if "evaluate" in stages and stages["evaluate"].counts.get("asked") != names:
        run.check("evaluate", depends)
        run.write_manifest({name: entry for name, entry in stages.items() if name != "evaluate"})
    if run.begin("evaluate", depends):
        with stopwatch() as seconds:
            result = evaluate_methods(run, config, adapters)
        run.complete("evaluate", StageResult({**result.counts, "asked": names}, result.notes), seconds[0])
