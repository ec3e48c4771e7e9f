"""`lamer reproduce TARGET`: what a table or figure of the paper needs is computed, then it is written.

    OUT/MODEL/seed-S/        the runs (`running`); what is there is gone on from
    OUT/table2.md .csv ...   the tables, OUT/fig4.svg ... the figures
    OUT/README.md            what is there, with captions

Without a model it runs on the embedded world. A model needs settings that name queries, facts, teacher and
evaluation. Called again without either, it goes on with what OUT holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

from lamer.config import Config, load_config, overlay
from lamer.errors import ConfigError, UsageError, nearest
from lamer.experiments import table3
from lamer.experiments.experiment import DERIVED, Experiment, Method, load_experiment, paper_methods
from lamer.experiments.grids import markdown_text
from lamer.experiments.results import METHODS, SeedRun, seed_runs
from lamer.experiments.running import EMBEDDED, Subject, embedded_subject, run_experiment
from lamer.experiments.scores import read_scores
from lamer.experiments.table_files import markdown, write
from lamer.experiments.tables import LAMER, SHUFFLED, table2, table4
from lamer.pipeline import STAGES
from lamer.records import Prediction, Query
from lamer.run import CONFIG
from lamer.tables import write_atomically

ALL = "all"
INDEX = "README.md"
DEFAULT_SEEDS: int = Experiment.model_fields["seeds"].default
SUBSET = ("queries.limit=300", "select.per_tier=30", "evaluate.limit=480")
"""Settings of `--subset`, for which one seed is run: a look at every table and figure in about ten minutes."""


@dataclass(frozen=True, slots=True)
class Target:
    """One table or figure of the paper."""

    name: str
    caption: str
    methods: tuple[str, ...]
    """What it shows; empty: a diagnosis is enough."""


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target("table2", "Methods by benchmark.", ("base", "auggpt", "naive", "single", "lamer")),
        Target("table3", "How well each probe finds what the model gets wrong.", ()),
        Target("table4", "Ascending order against the same examples shuffled.", ("base", "lamer", SHUFFLED)),
        Target("fig3", "The story of one deficiency, from query to answer after training.", ("base", "lamer")),
        Target("fig4", "LLM2LLM, which needs labels, against LaMer.", ("base", "llm2llm", "lamer")),
        Target(
            "fig5",
            "Remedied samples by benchmark, divided by the best method.",
            ("base", "auggpt", "naive", "single", "llm2llm", "lamer", SHUFFLED),
        ),
        Target(
            "fig6",
            "Samples remedied by helpful and by misleading deficiencies alone.",
            ("base", "lamer", "helpful", "misleading"),
        ),
        Target(
            "fig7",
            "Examples of all methods in two dimensions, and each method's share at the outer edge.",
            ("base", "auggpt", "naive", "single", "lamer"),
        ),
    )
}  # fmt: skip
FIGURES = tuple(name for name in TARGETS if name.startswith("fig"))


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for."""

    target: str
    out: Path
    models: tuple[str, ...] = ()
    config: Path | None = None
    seeds: int | None = None
    """None: as many as are there, else the experiment's default."""
    is_subset: bool = False
    assignments: tuple[str, ...] = ()
    budget: int | None = None
    """Deficiencies a tier; None: as the settings say."""
    methods: Path | None = None
    """An experiment file; None: of the paper's methods those that the target shows."""
    encoder: str | None = None
    """Sentence encoder of figure 7, Hub id or folder; None: see there."""

    @property
    def changes(self) -> tuple[str, ...]:
        """`key=value` texts for the settings: of the subset, of the budget, then the user's."""
        budget = () if self.budget is None else (f"select.per_tier={self.budget}",)
        return (*(SUBSET if self.is_subset else ()), *budget, *self.assignments)


@dataclass(frozen=True, slots=True)
class Written:
    """What a reproduction left."""

    text: str
    """Markdown of the tables."""
    files: tuple[Path, ...]


def reproduce(order: Order) -> Written:
    """Compute what is missing, and write the tables and figures that are asked for.

    Raises:
        UsageError: If the target is unknown, a model comes without settings, or an encoder without figure 7.
        LamerError: What the stages raise; everything done stays and is gone on from.
    """
    names = _targets(order.target)
    if order.encoder is not None and "fig7" not in names:
        raise UsageError(f"--encoder: {order.target} needs no sentence encoder; it is for fig7 and {ALL}")
    if order.models and order.config is None:
        raise UsageError(
            "--model needs --config FILE, which names queries, facts, teacher and evaluation; "
            "`lamer init > lamer.yaml` writes one to fill in"
        )
    if any(name in FIGURES for name in names):
        import_module("lamer.experiments.figures.style").require_figures()
    wanted = tuple(dict.fromkeys(method for name in names for method in TARGETS[name].methods))
    compute(order, tuple(paper_methods()) if order.target == ALL else wanted)
    made = [_write(order.out, name, order.encoder) for name in names]
    files = tuple(path for written in made for path in written.files)
    return Written("\n".join(written.text for written in made), (*files, write_index(order.out)))


def _targets(name: str) -> tuple[str, ...]:
    if name == ALL:
        return tuple(TARGETS)
    if name not in TARGETS:
        known = [*TARGETS, ALL]
        raise UsageError(
            f"nothing named {name!r} to reproduce{nearest(name, known)}; there are {', '.join(known)}"
        )
    return (name,)


def compute(order: Order, methods: Sequence[str]) -> None:
    """Run what is missing of every model and seed; without methods, up to the diagnosis."""
    given = load_experiment(order.methods) if order.methods else None
    existing = list(seed_runs(order.out)) if is_experiment(order.out) else []
    with ExitStack() as stack:
        for subject in _subjects(order, existing, stack):
            done = [run for run in existing if run.model == subject.name]
            fresh = 1 if order.is_subset else given.seeds if given is not None else DEFAULT_SEEDS
            seeds = max(order.seeds or len(done) or fresh, len(done))
            if methods:
                chosen = given.methods if given is not None else _methods(order.out, done, methods)
                if chosen is not None:
                    experiment = Experiment(
                        methods=chosen,
                        seeds=seeds,
                        examples=given.examples if given is not None else None,
                        budget_of=(given and given.budget_of) or _leading(subject),
                    )
                    deque(run_experiment(experiment, order.out, subject), maxlen=0)
            else:
                configs = (_with(subject.config, {"seed": seed}) for seed in range(seeds))
                deque(table3.diagnosed(order.out / subject.name, configs, STAGES[:2]), maxlen=0)


def _leading(subject: Subject) -> Method:
    """The method whose selection sets the budget, whichever ones are run.

    The paper's recipe; on the embedded world, where that would take every pair, the own one.
    """
    return paper_methods()["default" if subject.name == EMBEDDED else LAMER]


def is_experiment(out: Path) -> bool:
    """Whether OUT holds runs of an experiment."""
    return next(out.glob("*/seed-*"), None) is not None


def _methods(out: Path, done: Sequence[SeedRun], wanted: Sequence[str]) -> dict[str, Method] | None:
    """Those of earlier calls, in their order, then those wanted and what they refer to.

    None: the runs hold all of them beside methods of somebody's own, whose settings are not known here.

    Raises:
        UsageError: If they hold methods of somebody's own and lack one that is wanted.
    """
    shipped = paper_methods()
    earlier = [run.methods() for run in done if (run.run.path / METHODS).is_file()]
    names = dict.fromkeys(result.name for results in earlier for result in results)
    missing = [name for name in shipped if name in _closure(shipped, wanted) and name not in names]
    unknown = [name for name in names if name not in shipped]
    if not unknown:
        return {name: shipped[name] for name in (*names, *missing)}
    if missing:
        raise UsageError(
            f"{out}: lacks {', '.join(missing)}, and holds {', '.join(unknown)} of another experiment file; "
            "give it with --methods, or use another --out"
        )
    return None


def _closure(methods: Mapping[str, Method], wanted: Sequence[str]) -> set[str]:
    """The methods wanted and all that they refer to."""
    found: set[str] = set()
    left = list(wanted)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            method = methods[name]
            left += [method.of] if method.data in DERIVED else []
            left += [method.steps_of] if method.steps_of else []
    return found


def _subjects(order: Order, existing: Sequence[SeedRun], stack: ExitStack) -> Iterator[Subject]:
    """The models asked for; else those that OUT holds; else the embedded world."""
    saved = {run.model: run.run.path / CONFIG for run in existing}
    if order.config is not None:
        yield from _named_subjects(order, order.config)
    else:
        for name in saved or (EMBEDDED,):
            if name != EMBEDDED:
                yield Subject(name, load_config(saved[name], order.changes))
                continue
            subject = stack.enter_context(embedded_subject(order.out, order.changes))
            if name in saved:
                server = {"base_url": subject.config.synthesize.teacher.base_url}
                before = load_config(saved[name], order.changes)
                subject = replace(subject, config=_with(before, {"synthesize": {"teacher": server}}))
            yield subject


def _named_subjects(order: Order, file: Path) -> Iterator[Subject]:
    given = load_config(file, order.changes)
    missing = [
        wanted
        for wanted, is_there in (
            ("queries.path", given.queries.path),
            ("facts.path or facts.documents", given.facts.path or given.facts.documents),
            ("evaluate.path or evaluate.benchmarks", given.evaluate.path or given.evaluate.benchmarks),
        )
        if not is_there
    ]
    if missing and order.target != "table3":
        raise ConfigError(f"{file}: {order.target} needs {', '.join(missing)}")
    models = order.models or (given.model.name,)
    for model, folder in zip(models, folder_names(models), strict=True):
        yield Subject(folder, _with(given, {"model": {"name": model}}))


def _with(config: Config, changes: Mapping[str, Any]) -> Config:
    return load_config(overlay(config.model_dump(), changes), preset=config.preset)


def folder_names(models: Sequence[str]) -> list[str]:
    """What the models' folders are called: the last part of the name, or the whole name where two share that.

    Raises:
        UsageError: If a model is named twice.
    """
    if len(set(models)) < len(models):
        raise UsageError("a model is named twice; give different models")
    last = [model.rstrip("/").rsplit("/", 1)[-1] for model in models]
    return [
        short if last.count(short) == 1 else model.strip("/").replace("/", "--")
        for model, short in zip(models, last, strict=True)
    ]


def _write(out: Path, name: str, encoder: str | None) -> Written:
    """Write one table or figure from what OUT holds."""
    if name in FIGURES:
        files = tuple(import_module("lamer.experiments.figures").write_figure(name, out, encoder=encoder))
        return Written(f"{TARGETS[name].caption} {files[0]}\n", files)
    if name == "table3":
        return _write_table3(out)
    make = table2 if name == "table2" else table4
    table = make(read_scores(seed_runs(out)))
    return Written(markdown(table), tuple(write(out, table)))


def _write_table3(out: Path) -> Written:
    """Table 3 of every model, from its own diagnosed runs."""
    by_model = {model: list(runs) for model, runs in groupby(seed_runs(out), key=lambda run: run.model)}
    texts, files = [], []
    for model, runs in by_model.items():
        found = table3.summarize([run.run for run in runs], table3.truths_of(runs[0].run))
        name = "table3" if len(by_model) == 1 else f"table3-{model}"
        files += table3.write(out, found, name)
        texts.append(f"# Table 3: {model}\n\n{table3.to_markdown(found)}")
    return Written("\n".join(texts), tuple(files))


def write_index(out: Path) -> Path:
    """Write OUT/README.md: every table and figure that is there, and what was run."""
    lines = ["# Tables and figures", ""]
    for model, found in groupby(seed_runs(out), key=lambda run: run.model):
        lines.append(_told(model, list(found)))
    lines += ["", "Intervals are 95 %; each file says over what.", ""]
    for name, target in TARGETS.items():
        text = next((file for file in sorted(out.glob(f"{name}*.md"))), None)
        picture = out / f"{name}.svg"
        others = [f"[{file.suffix[1:]}]({file.name})" for file in sorted(out.glob(f"{name}[-.]*"))]
        if others:
            title = f"{'Table' if name.startswith('table') else 'Figure'} {name[-1]}"
            lines += [f"## {title}", "", f"{target.caption} Files: {', '.join(others)}.", ""]
            lines += [f"![{title}]({picture.name})", ""] if picture.exists() else []
            lines += [f"[Read it]({text.name})", ""] if text is not None else []
    file = out / INDEX
    write_atomically(file, "\n".join(lines).encode())
    return file


def _told(model: str, runs: Sequence[SeedRun]) -> str:
    """One line about what was run of a model."""
    run = runs[0].run
    config = load_config(run.path / CONFIG)
    parts = [f"seeds {', '.join(str(item.seed) for item in runs)}"]
    manifest = run.manifest()
    if "diagnose" in manifest:
        parts.append(f"{run.table('queries', Query).num_rows:,} queries")
    if (run.path / METHODS).is_file():
        names = [result.name for result in runs[0].methods()]
        count = run.table("predictions", Prediction).num_rows // max(len(names), 1)
        parts += [f"{count:,} samples", f"methods {', '.join(names)}"]
    versions = {entry.versions.get("lamer") for entry in manifest.values()} - {None}
    parts += [f"lamer {', '.join(sorted(map(str, versions)))}"] if versions else []
    named = (
        config.model.name if "/" in config.model.name and not Path(config.model.name).exists() else "local files"
    )
    return f"- **{markdown_text(model)}** ({markdown_text(named)}): {markdown_text('; '.join(parts))}"
