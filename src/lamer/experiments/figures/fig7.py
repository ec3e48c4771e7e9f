"""Figure 7: where the synthesized data of the methods lies, and each method's share at the outer edge.

As in the paper: embeddings, t-SNE, and DBSCAN (eps 1.5, at least 3 points) to drop noise. What is embedded is the
question with its options, which the examples of every method have: explanations would set AugGPT, which has none,
apart by form alone. A method whose examples are all among another's (LaMer*, Single) is left out.

t-SNE does not keep distances, gives a method room by its number of points, and DBSCAN's noise is found in its
picture. So the shares (see `edge`) are computed twice: on the picture, of equally many examples a method (drawn by
seed) and without noise; and on the embeddings themselves, of all examples, every method weighing the same. The
picture is of each model's first seed; the embeddings' shares are there for all seeds.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lamer.config import load_config
from lamer.errors import DataError
from lamer.experiments.figures.answers import PAPER_METHODS
from lamer.experiments.figures.edge import FRACTION, FRACTIONS, edge_shares
from lamer.experiments.figures.embedding import MIN_POINTS, embed, to_plane
from lamer.experiments.figures.files import save, save_csv, save_json
from lamer.experiments.figures.intervals import Interval
from lamer.experiments.figures.style import (
    FONT_SIZE,
    INK,
    PALE,
    Look,
    drawing,
    looks,
    new_figure,
    plain,
    shortened,
)
from lamer.experiments.results import SeedRun, seed_runs
from lamer.records import Example
from lamer.run import CONFIG

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EPS, MIN_SAMPLES = 1.5, 3
MAX_POINTS = 4000
SPACES = ("embeddings", "t-SNE")


@dataclass(frozen=True, slots=True)
class Picture:
    """Equally many examples of each method in two dimensions."""

    plane: NDArray[np.float64]
    """Shape [num_points, 2]."""
    method_of: NDArray[np.int64]
    """Number of each point's method."""
    is_noise: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Map:
    """The data of one model and seed."""

    methods: tuple[str, ...]
    titles: Mapping[str, str]
    num_examples: Mapping[str, int]
    """By method, before the draw."""
    left_out: tuple[str, ...]
    """Methods whose examples are all among another's."""
    num_used: NDArray[np.int64]
    """By method: examples whose embeddings are counted."""
    encoder: str
    shares: Mapping[tuple[str, float], Sequence[Interval]]
    """By space and fraction, one for each method."""
    picture: Picture | None
    """None for seeds that are not drawn."""


def write(out: Path, *, encoder: str | None = None) -> list[Path]:
    """Write `fig7.svg`, `fig7.png`, `fig7.json` and `fig7.csv` into the experiment's folder.

    Args:
        out: Folder of the experiment.
        encoder: Sentence encoder, Hub id or folder; None: the one of the runs' retrieval where that was dense,
            else TF-IDF, which the figure says.

    Raises:
        UsageError: If the extra `figures` is not installed, or `dense` where an encoder is used.
        DataError: If fewer than two methods have examples of their own.
    """
    found: dict[str, dict[int, Map]] = {}
    for seed_run in seed_runs(out):
        maps = found.setdefault(seed_run.model, {})
        maps[seed_run.seed] = measure(seed_run, encoder or own_encoder(seed_run), is_drawn=not maps)
    first = {model: next(iter(maps.values())) for model, maps in found.items()}
    look = looks(PAPER_METHODS)
    with drawing():
        figure = new_figure(10, 0.5 + 5.2 * len(first))
        axes = figure.subplots(len(first), 2, squeeze=False, width_ratios=[3, 2])
        for (model, shown), (left, right) in zip(first.items(), axes, strict=True):
            _draw_points(left, shown, look)
            left.set_title(shortened(model, 60))
            _draw_shares(right, shown, look)
        notes = dict.fromkeys(_note(model, shown) for model, shown in first.items())
        figure.supxlabel("\n".join(notes), fontsize=7.5, color=PALE)
        files = save(figure, out / "fig7")
    return [*files, save_json(out / "fig7", _json(found)), _csv(out, found)]


def measure(seed_run: SeedRun, encoder: str | None, *, is_drawn: bool) -> Map:
    """Embed the examples of one run's methods and compute their shares; the picture only where it is drawn."""
    titles = {row.name: row.title for row in seed_run.methods()}
    names = [name for name in PAPER_METHODS if name in titles]
    data, left_out = distinct({name: _kept(seed_run, name) for name in names})
    if len(data) < 2:
        raise DataError(
            f"{seed_run.run.path}: fig7 compares the examples of methods; {', '.join(data) or 'none'} has some"
        )
    examples, method_of = draw(data, seed_run.seed)
    if len(examples) < MIN_POINTS:
        raise DataError(f"{seed_run.run.path}: fig7 needs {MIN_POINTS} examples, there are {len(examples)}")
    vectors, made_by = embed([text_of(example) for example in examples], encoder)
    clusters = [fact_of(example) for example in examples]
    shares = {("embeddings", f): edge_shares(vectors, method_of, clusters, fraction=f) for f in FRACTIONS}
    picture = None
    if is_drawn:
        shown = equally_many(method_of)
        plane, methods = to_plane(vectors[shown]), method_of[shown]
        picture = Picture(plane, methods, noise_of(plane, methods))
        kept = ~picture.is_noise
        names_kept = [clusters[number] for number in np.flatnonzero(shown)[kept]]
        for f in FRACTIONS:
            shares["t-SNE", f] = edge_shares(plane[kept], methods[kept], names_kept, fraction=f)
    return Map(
        tuple(data), {name: titles[name] for name in names}, {name: len(rows) for name, rows in data.items()},
        tuple(left_out), np.bincount(method_of), made_by, shares, picture,
    )  # fmt: skip


def distinct(data: Mapping[str, Sequence[Example]]) -> tuple[dict[str, list[Example]], list[str]]:
    """Methods with examples that are not all among another method's, and the names of those whose are.

    Of several methods with the same examples the first named `lamer`, else the first, stays.
    """
    texts = {name: {text_of(row) for row in rows} for name, rows in data.items() if rows}
    order = sorted(texts, key=lambda name: (-len(texts[name]), name != "lamer"))
    kept: list[str] = []
    for name in order:
        if not any(texts[name] <= texts[other] for other in kept):
            kept.append(name)
    return {name: list(rows) for name, rows in data.items() if name in kept}, [n for n in texts if n not in kept]


def draw(data: Mapping[str, Sequence[Example]], seed: int) -> tuple[list[Example], NDArray[np.int64]]:
    """All examples in random order, `MAX_POINTS` in all at most, and the number of each one's method."""
    most = MAX_POINTS // len(data)
    drawn: list[Example] = []
    sizes = []
    for name, rows in data.items():
        sizes.append(min(most, len(rows)))
        drawn += random.Random(f"fig7 {name} {seed}").sample(sorted(rows, key=lambda row: row.id), sizes[-1])
    return drawn, np.repeat(np.arange(len(data), dtype=np.int64), sizes)


def equally_many(method_of: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The first points of each method, as many as the smallest has; shape [num_points]."""
    smallest = int(np.bincount(method_of).min())
    shown = np.zeros(len(method_of), dtype=np.bool_)
    for number in np.unique(method_of):
        shown[np.flatnonzero(method_of == number)[:smallest]] = True
    return shown


def text_of(example: Example) -> str:
    """What is embedded: the question and its options."""
    return "\n".join((example.question, *example.options))


def fact_of(example: Example) -> str:
    """What an example was written from; its id is `query|fact#number`, or `method|fact#number`."""
    return example.id.rsplit("#", 1)[0].rsplit("|", 1)[-1]


def noise_of(plane: NDArray[np.float64], method_of: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Points that DBSCAN puts into no cluster, shape [num_points].

    Where that would leave some method without points (few points lie far apart), nothing counts as noise.
    """
    from sklearn.cluster import DBSCAN

    noise = np.asarray(DBSCAN(eps=EPS, min_samples=MIN_SAMPLES).fit_predict(plane)) < 0
    leaves_all = set(method_of[~noise]) == set(method_of)
    return noise if leaves_all else np.zeros(len(plane), dtype=np.bool_)


def own_encoder(seed_run: SeedRun) -> str | None:
    """The encoder of a run's retrieval, None where that was not dense."""
    file = seed_run.run.path / CONFIG
    if not file.is_file():
        return None
    settings = load_config(file).retrieve
    return settings.encoder if settings.method in ("dense", "hybrid") else None


def _kept(seed_run: SeedRun, method: str) -> list[Example]:
    return [example for example in seed_run.examples(method) if example.status == "kept"]


def _draw_points(panel: Axes, shown: Map, look: Mapping[str, Look]) -> None:
    assert shown.picture is not None
    kept = ~shown.picture.is_noise
    plane, method_of = shown.picture.plane[kept], shown.picture.method_of[kept]
    order = np.random.default_rng(0).permutation(len(plane))  # no method lies on top
    size = float(np.clip(9000 / max(len(plane), 1), 7, 40))
    for number, name in enumerate(shown.methods):
        own = order[method_of[order] == number]
        panel.scatter(
            plane[own, 0], plane[own, 1], size, c=look[name].color, marker=look[name].marker, alpha=0.75,
            edgecolors=INK, linewidths=0.2, label=shortened(shown.titles[name], 30), rasterized=len(plane) > 1500,
        )  # fmt: skip
    radius = _edge_radius(plane, method_of)
    center = np.mean([plane[method_of == number].mean(axis=0) for number in range(len(shown.methods))], axis=0)
    angle = np.linspace(0, 2 * np.pi, 200)
    panel.plot(
        center[0] + radius * np.cos(angle),
        center[1] + radius * np.sin(angle),
        color=INK,
        linewidth=1,
        linestyle="--",
    )
    panel.set_aspect("equal", adjustable="datalim")
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, markerscale=1.5)


def _edge_radius(plane: NDArray[np.float64], method_of: NDArray[np.int64]) -> float:
    """Distance from the centroid beyond which `FRACTION` of the weight lies, every method alike."""
    sizes = np.bincount(method_of)
    weights = 1 / sizes[method_of] / len(sizes)
    distances = np.linalg.norm(plane - weights @ plane, axis=1)
    order = np.argsort(-distances)
    last = int(np.searchsorted(np.cumsum(weights[order]), FRACTION))
    return float(distances[order[min(last, len(order) - 1)]])


def _draw_shares(panel: Axes, shown: Map, look: Mapping[str, Look]) -> None:
    chance = 100 / len(shown.methods)
    places = np.arange(len(shown.methods), dtype=float)
    for offset, space, is_filled in ((-0.17, "t-SNE", True), (0.17, "embeddings", False)):
        for place, name, share in zip(places, shown.methods, shown.shares[space, FRACTION], strict=True):
            value, low, high = (100 * (x or 0.0) for x in (share.value, share.low, share.high))
            panel.errorbar(
                value, place + offset, xerr=[[max(value - low, 0)], [max(high - value, 0)]],
                color=look[name].color, marker=look[name].marker, markersize=10,
                markerfacecolor=look[name].color if is_filled else "white", markeredgecolor=INK,
                ecolor=INK, elinewidth=1.1, capsize=3,
            )  # fmt: skip
            panel.text(
                103, place + offset, f"{value:.0f} % ({low:.0f} to {high:.0f})  {space}", va="center",
                fontsize=FONT_SIZE - 1.5,
            )  # fmt: skip
    panel.axvline(chance, color=PALE, linestyle=":", linewidth=1.2)
    panel.text(chance, -0.7, "no difference", ha="center", va="bottom", fontsize=7, color=PALE)
    panel.set_yticks(places, [shortened(shown.titles[name], 18) for name in shown.methods])
    panel.tick_params(axis="y", length=0)
    panel.set_ylim(len(shown.methods) - 0.45, -0.65)
    panel.set_xlim(-4, 100)
    panel.set_xticks(range(0, 101, 25))
    panel.set_xlabel("share of the outer edge, %")
    panel.grid(axis="x")


def _note(model: str, shown: Map) -> str:
    assert shown.picture is not None
    fewest, most = int(shown.num_used.min()), int(shown.num_used.max())
    span = f"{fewest:,}" + (f" to {most:,}" if most > fewest else "")
    same = ", ".join(plain(shown.titles[name]) for name in shown.left_out)
    noise = int(shown.picture.is_noise.sum())
    return (
        f"{shortened(model, 40)}: picture of {fewest:,} examples a method, {noise:,} of all dropped as noise; "
        f"embeddings of {span}, every method weighing the same;\n"
        f"dashed: the outermost {FRACTION:.0%}; 95 % bootstrap over facts. "
        + (f"Not drawn, among another's examples: {same}. " if same else "")
        + f"\nVectors: {shortened(shown.encoder, 90)}."
    )


def _json(found: Mapping[str, Mapping[int, Map]]) -> dict[str, Any]:
    return {
        model: {
            f"seed-{seed}": {
                "vectors": shown.encoder,
                "examples": dict(shown.num_examples),
                "used": dict(zip(shown.methods, shown.num_used.tolist(), strict=True)),
                "drawn of each": None if shown.picture is None else int(shown.num_used.min()),
                "among another method's": list(shown.left_out),
                "noise": _noise_counts(shown),
                "no difference": 1 / len(shown.methods),
                "shares": {
                    f"{space}, outermost {fraction:g}": {
                        name: share.to_json() for name, share in zip(shown.methods, shares, strict=True)
                    }
                    for (space, fraction), shares in shown.shares.items()
                },
            }
            for seed, shown in maps.items()
        }
        for model, maps in found.items()
    }


def _noise_counts(shown: Map) -> dict[str, int] | None:
    if shown.picture is None:
        return None
    counts = np.bincount(shown.picture.method_of[shown.picture.is_noise], minlength=len(shown.methods))
    return {name: int(count) for name, count in zip(shown.methods, counts, strict=True)}


def _csv(out: Path, found: Mapping[str, Mapping[int, Map]]) -> Path:
    names = ("model", "seed", "space", "fraction", "method", "share", "low", "high", "no_difference")
    rows = [
        (model, seed, space, fraction, name, share.value, share.low, share.high, 1 / len(shown.methods))
        for model, maps in found.items()
        for seed, shown in maps.items()
        for (space, fraction), shares in shown.shares.items()
        for name, share in zip(shown.methods, shares, strict=True)
    ]
    return save_csv(out / "fig7", names, rows)
