"""The command line: one command, one Python function, the same names and defaults.

Results go to stdout, progress and errors to stderr. Exit status 0: done, 1: failed, 2: wrong usage.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lamer import __version__
from lamer.errors import LamerError
from lamer.terminal import visible

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
STOPPED = "stopped; the same command continues from here"

app = typer.Typer(
    name="lamer",
    help="Find what an open-weight language model does not know, without labels, and repair it.",
    epilog="Start with `lamer demo`: the whole loop on an embedded world, no network needed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

reproduce = typer.Typer(
    name="reproduce",
    help="Make the paper's tables and figures again, on the embedded world or on your models and data.",
    epilog="Example: lamer reproduce all --out runs/paper --subset",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(reproduce)

OutOption = Annotated[Path, typer.Option("--out", help="Run directory; made if missing, continued if there.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: --set train.lora.rank=16. May be repeated.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output instead of a table.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Hub id or local folder of the model.")]
QueriesOption = Annotated[list[str] | None, typer.Option("--queries", help="Query file(s).")]
FactsOption = Annotated[list[str] | None, typer.Option("--facts", help="Corpus file(s).")]
DataOption = Annotated[
    list[str] | None,
    typer.Option("--data", help="Labelled evaluation file(s), or the folder with the benchmarks'."),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings (YAML); `lamer init` writes one.")]
RestartOption = Annotated[
    str | None, typer.Option("--restart-from", help="Drop the results of this stage and all later ones first.")
]
SkipBadOption = Annotated[
    int | None, typer.Option("--skip-bad", help="Bad input rows that may be left out (each is named).", min=0)
]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"lamer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: lamer init --preset paper > lamer.yaml, or lamer init --recipe mistral > own.yaml")
def init(
    preset: Annotated[str | None, typer.Option(help="default (the default), paper or demo.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="The paper's experiment with one model: mistral, llama3, qwen2 or gemma; gsm8k prepares it."
        ),
    ] = None,
) -> None:
    """Write a commented lamer.yaml to stdout."""
    from lamer.config import load_config, to_yaml
    from lamer.errors import UsageError

    if recipe is not None:
        from lamer.experiments.recipe import recipe_text

        if preset is not None:
            raise UsageError(f"--recipe {recipe} has a preset of its own: leave out --preset {preset}")
        typer.echo(recipe_text(recipe), nl=False)
        return
    typer.echo(to_yaml(load_config({"preset": preset or "default"}), comments=True), nl=False)


@app.command(epilog="Example: lamer demo --out runs/demo")
def demo(
    out: OutOption = Path("runs/demo"),
    set_: SetOption = None,
    restart_from: RestartOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the whole loop on the embedded world: minutes on two cores, no network."""
    from lamer.experiments.demo import run_demo

    run_demo(out, set_ or [], restart_from=restart_from, as_json=as_json)


@app.command(epilog="Example: lamer run lamer.yaml --out runs/first --until diagnose")
def run(
    config: Annotated[Path, typer.Argument(help="Settings (YAML); `lamer init` writes one.")],
    out: OutOption = Path("runs/lamer"),
    set_: SetOption = None,
    until: Annotated[str | None, typer.Option(help="The last stage to run.")] = None,
    skip_bad: SkipBadOption = None,
    restart_from: RestartOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run all stages: retrieve, diagnose, select, synthesize, train, evaluate, report."""
    settings = _settings(out, config, set_, skip_bad=skip_bad)
    _execute(settings, out, until=until, restart_from=restart_from, as_json=as_json)


@app.command(epilog="Example: lamer estimate lamer.yaml --gpu a100, or lamer estimate mistral.yaml --experiment 3")
def estimate(
    config: Annotated[Path, typer.Argument(help="Settings (YAML); `lamer init` writes one.")],
    out: OutOption = Path("runs/lamer"),
    set_: SetOption = None,
    rejection_rate: Annotated[
        float | None,
        typer.Option(help="Share of items that are rejected; measured in a run, else 0.2.", min=0.0, max=0.99),
    ] = None,
    gpu: Annotated[str, typer.Option(help="GPU that is counted on: a100, h100 or h200.")] = "h100",
    gpu_price: Annotated[float | None, typer.Option(help="Money for an hour of the GPU.", min=0.0)] = None,
    mfu: Annotated[float, typer.Option(help="Share of the GPU's peak that is reached.", min=0.01, max=1.0)] = 0.4,
    experiment: Annotated[
        int | None, typer.Option(help="Estimate `reproduce all` with so many seeds, not one run.", min=1)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a run will cost before anything is spent: teacher's calls and money, GPU time, disk."""
    from lamer.estimate import estimate as make
    from lamer.estimate import existing, show
    from lamer.estimate.compute import Machine, gpu_named

    machine = Machine(gpu_named(gpu), mfu, gpu_price)
    settings = _settings(out, config, set_)
    found = make(settings, existing(out), rejection_rate=rejection_rate, machine=machine, seeds=experiment)
    if as_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        typer.echo("\n".join(show(found)))


@app.command(epilog="Example: lamer retrieve --queries queries.jsonl --facts facts.tsv --out runs/first")
def retrieve(
    out: OutOption = Path("runs/lamer"),
    queries: QueriesOption = None,
    facts: FactsOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    skip_bad: SkipBadOption = None,
    restart_from: RestartOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load queries and corpus, and retrieve facts for every query."""
    settings = _settings(out, config, set_, queries=queries, facts=facts, skip_bad=skip_bad)
    _execute(settings, out, until="retrieve", restart_from=restart_from, as_json=as_json)


@app.command(epilog="Example: lamer diagnose --model ./model --queries q.jsonl --facts facts.tsv --out runs/first")
def diagnose(
    out: OutOption = Path("runs/lamer"),
    model: ModelOption = None,
    queries: QueriesOption = None,
    facts: FactsOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    skip_bad: SkipBadOption = None,
    restart_from: RestartOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how far each fact moves the model's answers, and list the deficiencies."""
    settings = _settings(out, config, set_, model=model, queries=queries, facts=facts, skip_bad=skip_bad)
    _execute(settings, out, until="select", restart_from=restart_from, as_json=as_json)


@app.command(epilog="Example: lamer synthesize --out runs/first --set synthesize.teacher.model=gpt-4o-mini")
def synthesize(
    out: OutOption = Path("runs/lamer"),
    config: ConfigOption = None,
    set_: SetOption = None,
    restart_from: RestartOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the teacher write examples in proportion to severity."""
    _execute(_settings(out, config, set_), out, until="synthesize", restart_from=restart_from, as_json=as_json)


@app.command(
    epilog="Example: lamer train --out runs/first --set train.order=ascending, "
    "or lamer train --model ./model --examples examples.jsonl --out runs/mine"
)
def train(
    out: OutOption = Path("runs/lamer"),
    model: ModelOption = None,
    examples: Annotated[
        list[str] | None,
        typer.Option("--examples", help="Your own file(s): question, options, answer, severity."),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    restart_from: RestartOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a LoRA adapter on the examples of a run, or of your own files."""
    settings = _settings(out, config, set_, model=model, examples=examples)
    _execute(
        settings, out, until="train", only="train" if settings.train.path else None,
        restart_from=restart_from, as_json=as_json, paid=False,
    )  # fmt: skip


@app.command(
    epilog="Example: lamer evaluate --model ./model --data test.jsonl --out runs/base, or "
    "lamer evaluate --model ./model --benchmark arc --benchmark mmlu --data FOLDER --out runs/base"
)
def evaluate(
    out: OutOption = Path("runs/lamer"),
    model: ModelOption = None,
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="Folder of an adapter, instead of the run's own.")
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            help="comm, agieval, arc, mmlu, bbh, crass, gsm_plus, or a task of lm-evaluation-harness; repeatable.",
        ),
    ] = None,
    data: DataOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Take only the first N samples of each file or task.", min=1)
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    restart_from: RestartOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the model before and after on labelled samples; without an adapter, measure the base model."""
    chosen = {"adapter": adapter, "benchmarks": benchmark, "limit": limit}
    settings = _settings(out, config, set_, model=model, data=data, evaluate=chosen)
    alone = not (out / "adapter").exists() or bool(settings.train.path or settings.evaluate.adapter)
    _execute(
        settings, out, until="evaluate", only="evaluate" if alone else None,
        restart_from=restart_from, as_json=as_json, paid=False,
    )  # fmt: skip


@app.command(epilog="Example: lamer compare runs/first runs/second, or lamer compare runs/demo --reference naive")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ...", help="Run directories.")],
    reference: Annotated[
        str | None,
        typer.Option(help="Method that the others are compared with, as the table names it; the first without."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the methods of evaluated runs side by side, on the samples that all of them answered."""
    from lamer.evaluation.compare import compare_runs

    table = compare_runs(runs, reference=reference)
    typer.echo(json.dumps(table.to_json(), ensure_ascii=False) if as_json else table.to_markdown())


@app.command(
    epilog="Example: lamer merge runs/first --out model-merged, "
    "or lamer merge my-adapter --model ./base --out model-merged"
)
def merge(
    source: Annotated[Path, typer.Argument(help="Run directory, or folder of an adapter.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the merged model; must not exist.")],
    model: ModelOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge an adapter into its base model, after checking that the merged model answers the same."""
    from lamer.training.merge import merge_adapter, merge_source

    adapter, examples, named = merge_source(source)
    config = _settings(source, None, set_, model=model or named)
    merged = merge_adapter(config, adapter, out, examples)
    typer.echo(json.dumps(merged.to_json()) if as_json else merged.to_text())


@app.command(epilog="Example: lamer report --out runs/first")
def report(out: OutOption = Path("runs/lamer"), as_json: JsonOption = False) -> None:
    """Write the HTML report of a run (again)."""
    from lamer.pipeline import restart
    from lamer.run import Run

    Run.existing(out)
    with Run.open(out) as opened:
        restart(opened, "report")
    _execute(_settings(out, None, None), out, only="report", as_json=as_json)


@app.command(epilog="Example: lamer show runs/first deficiencies --json --limit 5")
def show(
    run_: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    table: Annotated[
        str,
        typer.Argument(
            help="queries, passages, facts, matches, diagnoses, placebos, deficiencies, examples, replay or "
            "predictions."
        ),
    ],
    as_json: JsonOption = False,
    limit: Annotated[int | None, typer.Option(help="Show only the first N rows.", min=0)] = None,
) -> None:
    """Show a table of a run; with --json, one line a row with exactly the fields on disk."""
    from lamer.summary import show_table

    show_table(run_, table, as_json=as_json, limit=limit)


@app.command(
    epilog="Example: lamer export runs/first --format alpaca, or "
    "lamer export runs/first --format dataset --push OWNER/NAME"
)
def export(
    run_: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    format_: Annotated[
        str,
        typer.Option("--format", help="trl, alpaca, sharegpt, or dataset (a data set of the Hub, with a card)."),
    ] = "trl",
    out: Annotated[
        Path | None, typer.Option("--out", help="File, or folder for a data set; RUN/export/... by default.")
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", help="Send the data set to the Hub as OWNER/NAME; the key is HF_TOKEN.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see what is pushed.")] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="Data set: rejected items too, in a part of their own.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the kept examples as training data for other trainers, or as a data set of the Hub."""
    from lamer.synthesis.hub import export_run

    exported = export_run(run_, format_, out, push=push, is_public=public, with_rejected=all_)
    text = json.dumps(exported.to_json(), ensure_ascii=False) if as_json else exported.to_text()
    typer.echo(visible(text))


@app.command(epilog="Example: lamer explain runs/first q17")
def explain(
    run_: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    query_id: Annotated[str, typer.Argument(help="Id of a query; `lamer show RUN queries` lists them.")],
    fact_id: Annotated[str | None, typer.Argument(help="Id of a fact; the most severe one by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show prompt, token ids, candidates, log-probabilities, P, Q and relative entropy step by step."""
    from lamer.diagnosis.explain import explain as explain_pair
    from lamer.run import Run

    explanation = explain_pair(Run.existing(run_), query_id, fact_id)
    text = json.dumps(explanation.to_json(), ensure_ascii=False) if as_json else explanation.to_text()
    typer.echo(visible(text))


@app.command(epilog="Example: lamer score --model ./model pairs.jsonl > scores.jsonl")
def score(
    pairs: Annotated[Path, typer.Argument(help="JSONL: {context: text or chat messages, continuation: text}.")],
    model: Annotated[str, typer.Option("--model", help="Hub id or local folder of the model.")],
    server: Annotated[
        str | None, typer.Option("--server", help="Score with a served model (URL); --model names its tokenizer.")
    ] = None,
    set_: SetOption = None,
) -> None:
    """Log-likelihood (nats) of continuations: one JSON line {logprob, num_tokens} a row, in order."""
    from lamer.config import load_config
    from lamer.scoring.pairs import read_pairs, score_file
    from lamer.scoring.remote import open_scorer

    served = {"server": {"base_url": server}} if server is not None else {}
    config = load_config({"model": {"name": model, **served}}, set_ or [])
    read_pairs(pairs)
    scorer, renderer = open_scorer(config)
    for row in score_file(pairs, scorer, renderer):
        typer.echo(json.dumps(row))


TARGETS = {
    "all": "Every table and figure.",
    "table2": "Methods by benchmark, and their differences.",
    "table3": "How well each probe finds wrong answers.",
    "table4": "LaMer against the same examples shuffled.",
    "fig3": "The story of one deficiency.",
    "fig4": "LLM2LLM, which needs labels, against LaMer.",
    "fig5": "Remedied samples by benchmark.",
    "fig6": "What helpful, and misleading, facts remedy.",
    "fig7": "All examples in two dimensions.",
}
"""What `lamer reproduce` makes, as its help tells it."""

ModelsOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="Hub id or local folder; may be repeated. Without: the embedded world."),
]
SeedsOption = Annotated[
    int | None, typer.Option("--seeds", help="Runs a model that are averaged: 3, with --subset 1.", min=1)
]
SubsetOption = Annotated[
    bool, typer.Option("--subset", help="Fewer queries, examples and samples: a look in about ten minutes.")
]
BudgetOption = Annotated[
    int | None,
    typer.Option("--budget", help="Deficiencies a tier; the paper took 375, of LLaMA-3 150.", min=1),
]

MethodsOption = Annotated[
    Path | None,
    typer.Option("--methods", help="Experiment file (docs/experiments.md) instead of the paper's methods."),
]


EncoderOption = Annotated[
    str | None,
    typer.Option(
        help="Of fig7 and all: sentence encoder, Hub id or folder. Without: that of the retrieval, else words."
    ),
]


def _add_target(name: str, help_: str) -> None:
    @reproduce.command(name, help=help_, epilog=f"Example: lamer reproduce {name} --out runs/paper")
    def make(
        out: OutOption = Path("runs/paper"),
        model: ModelsOption = None,
        config: ConfigOption = None,
        seeds: SeedsOption = None,
        subset: SubsetOption = False,
        budget: BudgetOption = None,
        methods: MethodsOption = None,
        encoder: EncoderOption = None,
        set_: SetOption = None,
        as_json: JsonOption = False,
    ) -> None:
        _reproduce(
            name, out, as_json=as_json, models=tuple(model or ()), config=config, seeds=seeds, is_subset=subset,
            budget=budget, methods=methods, encoder=encoder, assignments=tuple(set_ or ()),
        )  # fmt: skip


def _table3(
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the runs and tables; runs/table3, or with --run that run's own."),
    ] = None,
    model: ModelsOption = None,
    seeds: SeedsOption = None,
    run: Annotated[Path | None, typer.Option("--run", help="Read this diagnosed run (labelled queries).")] = None,
    config: ConfigOption = None,
    subset: SubsetOption = False,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Of an experiment in OUT, from its own diagnoses; else of runs up to `diagnose` in OUT/seed-S."""
    from lamer.errors import UsageError
    from lamer.experiments.reproduce import SUBSET, is_experiment
    from lamer.experiments.table3 import reproduce as make
    from lamer.experiments.table3 import to_markdown

    if run is not None and (config is not None or set_ or model or subset):
        raise UsageError("--run reads a run as it is: leave out --config, --model, --subset and --set")
    folder = out if out is not None or run is not None else Path("runs/table3")
    if run is None and folder is not None and (model or is_experiment(folder)):
        _reproduce(
            "table3", folder, as_json=as_json, models=tuple(model or ()), config=config, seeds=seeds,
            is_subset=subset, assignments=tuple(set_ or ()),
        )  # fmt: skip
        return
    assignments = [*(SUBSET if subset else ()), *(set_ or ())]
    table = make(folder, seeds=seeds or (1 if subset else 3), run=run, config=config, assignments=assignments)
    typer.echo(json.dumps(table.to_json(), ensure_ascii=False) if as_json else to_markdown(table), nl=as_json)


for _name, _help in TARGETS.items():
    if _name == "table3":
        reproduce.command(_name, help=_help, epilog="Example: lamer reproduce table3 --out runs/table3")(_table3)
    else:
        _add_target(_name, _help)


def _reproduce(target: str, out: Path, *, as_json: bool, **options: Any) -> None:
    """Compute what is missing, write, and say what came out: Markdown, and the files on the last lines."""
    from lamer.experiments.reproduce import Order
    from lamer.experiments.reproduce import reproduce as make

    written = make(Order(target, out, **options))
    files = [str(file) for file in written.files]
    if as_json:
        typer.echo(json.dumps({"target": target, "files": files}, ensure_ascii=False))
    else:
        typer.echo(visible("\n".join([written.text, *files])))


def _settings(
    out: Path,
    config: Path | None,
    assignments: list[str] | None,
    *,
    model: str | None = None,
    queries: list[str] | None = None,
    facts: list[str] | None = None,
    data: list[str] | None = None,
    examples: list[str] | None = None,
    evaluate: dict[str, Any] | None = None,
    skip_bad: int | None = None,
) -> Any:
    """Settings of a stage command: the file given, else the run's own, else the default; then the options."""
    from lamer.config import load_config, overlay, read_yaml

    saved = out / "lamer.yaml"
    source = config or (saved if saved.exists() else None)
    given: dict[str, Any] = read_yaml(source) if source else {}
    options: dict[str, Any] = {}
    if model is not None:
        options["model"] = {"name": model}
    for section, path in (("queries", queries), ("facts", facts), ("train", examples)):
        if path:
            options[section] = {"path": path}
    options["evaluate"] = {key: value for key, value in (evaluate or {}).items() if value} | _data(data or [])
    if skip_bad is not None:
        options = overlay(options, {"queries": {"skip_bad": skip_bad}, "facts": {"skip_bad": skip_bad}})
    return load_config(overlay(given, options), assignments or [], name=str(source) if source else None)


def _data(paths: list[str]) -> dict[str, Any]:
    """One folder holds benchmarks, everything else is a file of samples."""
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return {"data": paths[0]}
    return {"path": paths} if paths else {}


def _execute(
    config: Any,
    out: Path,
    *,
    until: str | None = None,
    only: str | None = None,
    restart_from: str | None = None,
    as_json: bool = False,
    paid: bool = True,
) -> None:
    """Run stages and show what each has to say."""
    from lamer.pipeline import execute, stage_named
    from lamer.run import Run
    from lamer.summary import show_stage

    for name in (until, restart_from):
        if name is not None:
            stage_named(name)
    with Run.open(out) as opened:
        for stage, entry, is_new in execute(
            opened, config, until=until, only=only, restart_from=restart_from, paid=paid
        ):
            show_stage(opened, stage.name, entry, is_new=is_new, as_json=as_json)


def main() -> None:
    """Entry point: turns errors into one line and an exit status."""
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    usage_error: Any = typer.BadParameter.__bases__[0]
    try:
        result = app(args=arguments, standalone_mode=False)
        status = result if isinstance(result, int) else 0
        return _fail(STOPPED, status) if status == INTERRUPTED else status
    except LamerError as error:
        return _fail(str(error), error.exit_status)
    except (typer.Abort, KeyboardInterrupt):
        return _fail(STOPPED, INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'system'}: {error.strerror or error}", 1)
    except MemoryError:
        return _fail("out of memory; use fewer rows at once (diagnose.max_batch_tokens) or a smaller model", 1)
    except usage_error as error:
        return _usage(error)


def _usage(error: Any) -> int:
    """Typer's own complaint about the command line, in our form."""
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return 2
    command = error.ctx.command_path if error.ctx is not None else "lamer"
    return _fail(f"{message} (see `{command} --help`)", 2)


def _fail(message: str, status: int) -> int:
    for line in visible(message).splitlines() or [""]:
        sys.stderr.write(f"lamer: {line}\n")
    return status
