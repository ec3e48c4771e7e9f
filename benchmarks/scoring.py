"""Scoring beside its bounds: lamer's engine, lm-evaluation-harness, and one sequence at a time.

    python benchmarks/scoring.py --ecare train.jsonl.gz --facts FACTS.tsv.gz --out runs/scoring \
        [--dtype float32] [--mode text] [--queries 64] [--shape 7b --device cuda --harness]

The workload is a diagnosis: for each e-CARE query a prompt without a fact and four with one, each with both
options as candidates (text) or their letters. The model is Llama-shaped with 135 M parameters (hidden 576, 30
layers, nine heads of 64, three for keys and values, vocabulary 49,152); its weights are random, for time does not
depend on them, its tokenizer is trained on the same text. Compared in one process, in turns, best of `--repeats`:

    lamer     Scorer on the pairs: tree, the tree through the model's own layers (and there with torch's default
              matrix products), and rows
    harness   lm-evaluation-harness, HFLM log-likelihoods on the same token ids, for each batch size given
    alone     one sequence at a time through transformers, on a part of the pairs, extrapolated by tokens

and the peak: the model's matrix products alone, same shapes, 2,048 tokens at once, by torch's own library and by
oneDNN. MFU is the work that the tree's nodes cannot avoid (linear layers, each node's attention to its ancestors,
the vocabulary where something is predicted), over the time and the highest peak; by turn, over the higher of the
peaks just before and just after, for a machine that others use too; also without the attention. Prints JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lamer.config import DiagnoseSettings, PromptSettings
from lamer.diagnosis.readings import read, subject_of
from lamer.records import Query
from lamer.run import git_commit, versions
from lamer.scoring.model import LoadedModel
from lamer.scoring.render import Renderer
from lamer.scoring.scorer import Pair, Scorer
from lamer.scoring.tree import MIN_TRUNK_TOKENS
from small_model import facts, train_tokenizer

ASKED = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
METHODS = ["tree", "tree, own layers", "tree, default products", "rows"]
VOCABULARY = 49_152


def ecare(path: str, count: int) -> tuple[list[Query], list[str]]:
    """Queries with their options, and human explanations as facts."""
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8") as file:
        for _, line in zip(range(max(count * 5, 1000)), file):
            rows.append(json.loads(line))
    queries = [
        Query(str(i), f"{row['premise']} {ASKED[row['ask_for']]}", tuple(row["options"]), None, "e-CARE")
        for i, row in enumerate(rows[:count])
    ]
    return queries, [row["explanation"] for row in rows]


def requests(queries: Sequence[Query], known: Sequence[str], renderer: Renderer, mode: str) -> list[Pair]:
    """The pairs of one diagnosis: a prior and four posteriors a query, its explanation and three others."""
    rng = random.Random(0)
    settings = DiagnoseSettings(target="letter" if mode == "letter" else "text")
    pairs: list[Pair] = []
    for index, query in enumerate(queries):
        subject = subject_of(query, None, settings)
        for fact in (None, known[index], *rng.sample(known, 3)):
            pairs += [pair for reading in read(subject, fact, "none", renderer) for pair in reading.pairs]
    return pairs


SHAPES: dict[str, dict[str, Any]] = {
    "135m": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "7b": {
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False, "sliding_window": None,
    },
}  # fmt: skip


def random_model(tokenizer: Any, shape: str, dtype: torch.dtype, device: str) -> LoadedModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    given = {"vocab_size": VOCABULARY, "max_position_embeddings": 2048} | SHAPES[shape]
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**given), dtype=dtype)
    return LoadedModel(model.eval(), tokenizer, torch.device(device))


def token_flops(model: Any) -> float:
    """Operations of the linear layers a token, without the vocabulary."""
    head = model.get_output_embeddings().weight
    linear = sum(p.numel() for p in model.parameters() if p.ndim == 2 and p is not head)
    return 2.0 * (
        linear - (0 if model.config.tie_word_embeddings else model.get_input_embeddings().weight.numel())
    )


def attention_flops(model: Any, pairs: Sequence[Pair]) -> float:
    """Operations of the scores and sums of attention, each node of the tree over itself and its ancestors."""
    config = model.config
    seen = {
        ids[:end]
        for pair in pairs
        for ids in [pair.context + pair.continuation[:-1]]
        for end in range(1, len(ids) + 1)
    }
    channels = config.num_attention_heads * (config.hidden_size // config.num_attention_heads)
    return 4.0 * config.num_hidden_layers * channels * sum(map(len, seen))


def peak(model: Any, dtype: torch.dtype, linear: Any, tokens: int = 2048, repeats: int = 3) -> float:
    """FLOP/s of the matrix products of one of the model's layers, best of some repeats."""
    layer = model.model.layers[0]
    weights = [m.weight for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    device = weights[0].device
    weights = [torch.randn(w.shape, dtype=dtype, device=device) for w in weights]
    inputs = {w.shape[1]: torch.randn(tokens, w.shape[1], dtype=dtype, device=device) for w in weights}
    work = sum(2.0 * tokens * w.numel() for w in weights)
    best = 0.0
    with torch.inference_mode():
        for _ in range(repeats + 1):
            wait(device)
            start = time.perf_counter()
            for _ in range(5):
                for w in weights:
                    linear(inputs[w.shape[1]], w)
            wait(device)
            best = max(best, 5 * work / (time.perf_counter() - start))
    return best


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def harness(loaded: LoadedModel, batch_size: int) -> Callable[[Sequence[Pair]], list[float]]:
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(
        pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size, device=str(loaded.device)
    )

    def score(pairs: Sequence[Pair]) -> list[float]:
        asked = [((str(i), ""), list(pair.context), list(pair.continuation)) for i, pair in enumerate(pairs)]
        return [float(logprob) for logprob, _ in lm._loglikelihood_tokens(asked, disable_tqdm=True)]

    return score


def alone(loaded: LoadedModel, pairs: Sequence[Pair]) -> list[float]:
    found = []
    with torch.inference_mode():
        for pair in pairs:
            ids = torch.tensor([pair.context + pair.continuation[:-1]], device=loaded.device)
            logits = loaded.model(input_ids=ids, use_cache=False).logits[0, len(pair.context) - 1 :].float()
            wanted = torch.tensor(pair.continuation, device=loaded.device)
            found.append(float(logits.log_softmax(-1).gather(1, wanted[:, None]).sum()))
    return found


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def measure(options: argparse.Namespace, tokenizer: Any, mode: str, dtype_name: str) -> dict[str, Any]:
    dtype = getattr(torch, dtype_name)
    loaded = random_model(tokenizer, options.shape, dtype, options.device)
    queries, known = ecare(options.ecare, options.queries)
    pairs = requests(queries, known, Renderer(tokenizer, PromptSettings()), mode)
    methods: dict[str, Callable[[], list[float]]] = {}
    scorers = {}
    for name in options.methods:
        scorer = scorers[name] = Scorer(loaded, options.batch_tokens, "rows" if name == "rows" else "tree")
        if "default" in name:
            scorer._forward.products.library = "default"
        if "own" in name:
            scorer._forward.layers._layers = []
        methods[f"lamer {name}"] = lambda scorer=scorer: [score.logprob for score in scorer.score(pairs)]
    if options.harness:
        for size in options.harness:
            score = harness(loaded, size)
            methods[f"harness, batch {size}"] = lambda score=score: score(pairs)
    seconds: dict[str, float] = {}
    scores: dict[str, list[float]] = {}
    libraries = {"default": torch.nn.functional.linear}
    if dtype == torch.float32 and options.device == "cpu" and torch.backends.mkldnn.is_available():
        libraries["oneDNN"] = lambda x, w: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
    peaks = dict.fromkeys(libraries, 0.0)
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}  # seconds, the peak around them
    for _ in range(options.repeats):
        for name, work in methods.items():
            around = [peak(loaded.model, dtype, linear) for linear in libraries.values()]
            spent, scores[name] = timed(work)
            again = [peak(loaded.model, dtype, linear) for linear in libraries.values()]
            peaks = {key: max(peaks[key], a, b) for key, a, b in zip(libraries, around, again)}
            turns[name].append((spent, max(around + again)))
            seconds[name] = min(spent, seconds.get(name, spent))
    some = pairs[:: max(len(pairs) // 40, 1)]
    spent, one = timed(lambda: alone(loaded, some))
    tokens = {name: sum(len(pair) - 1 for pair in group) for name, group in (("all", pairs), ("some", some))}
    seconds["alone (extrapolated)"] = spent * tokens["all"] / tokens["some"]
    reference = dict(zip(some, one))
    difference = {
        name: max(abs(value - reference[pair]) for pair, value in zip(pairs, found) if pair in reference)
        for name, found in scores.items()
    }
    work = scorers[options.methods[0]].work
    runs = options.repeats
    nodes, computed, padding = work.tree_nodes // runs, work.computed_tokens // runs, work.padding_tokens // runs
    flops = token_flops(loaded.model)
    positions = len(
        {pair.context + pair.continuation[:s] for pair in pairs for s in range(len(pair.continuation))}
    )
    products = nodes * flops + positions * 2.0 * VOCABULARY * loaded.model.config.hidden_size
    needed = products + attention_flops(loaded.model, pairs)
    return {
        "mode": mode,
        "dtype": dtype_name,
        "pairs": len(pairs),
        "tokens_of_all_pairs": tokens["all"],
        "tree_nodes": nodes,
        "computed_tokens": computed,
        "computed_to_nodes": computed / nodes,
        "padding_share": padding / (computed + padding),
        "batches": work.batches // runs,
        "peak_gflops": {name: value / 1e9 for name, value in peaks.items()},
        "seconds": seconds,
        "mfu_of_needed_work": {name: needed / spent / max(peaks.values()) for name, spent in seconds.items()},
        "mfu_by_turn": {name: [needed / spent / top for spent, top in found] for name, found in turns.items()},
        "mfu_by_turn_without_attention": {
            name: [products / spent / top for spent, top in found] for name, found in turns.items()
        },
        "times_faster_than_best_harness": {
            name: min(v for k, v in seconds.items() if k.startswith("harness")) / seconds[name]
            for name in seconds
            if name.startswith("lamer") and options.harness
        },
        "largest_difference_to_alone_nats": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ecare", required=True, help="e-CARE JSON lines")
    parser.add_argument("--facts", nargs="+", required=True, help="fact files for the tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tokenizer")
    parser.add_argument("--shape", default="135m", choices=list(SHAPES), help="of the random model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--mode", nargs="+", default=["text", "letter"], choices=["text", "letter"])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--harness", nargs="*", type=int, default=[8, 16, 32], help="batch sizes; none: leave out")
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, choices=METHODS, help="of lamer, the first for MFU"
    )
    parser.add_argument("--batch-tokens", type=int, help="tokens of lamer's batches; none: its own choice")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    from transformers import AutoTokenizer

    folder = options.out / "tokenizer"
    if not folder.exists():
        train_tokenizer(list(facts(options.facts))[:200_000], VOCABULARY).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "commit": git_commit(),
        "versions": versions(),
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor(),
        "shape": options.shape,
        "queries": options.queries,
        "min_trunk_tokens": MIN_TRUNK_TOKENS,
        "results": [measure(options, tokenizer, mode, dtype) for dtype in options.dtype for mode in options.mode],
    }
    text = json.dumps(found, indent=1)
    print(text)
    (options.out / "scoring.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
