"""Typed settings: YAML in, every problem at once, resolved YAML out.

A configuration is a preset (`default`, `paper`, `demo`), overlaid by the file, overlaid by `--set key=value`.
Unknown keys are refused with the nearest right name. The description of a key is its comment in `lamer init`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from lamer.errors import ConfigError, nearest

TierName = Literal["easy", "normal", "hard", "unfair"]
TIER_NAMES: tuple[TierName, ...] = get_args(TierName)
PresetName = Literal["default", "paper", "demo"]


def placeholders(template: str) -> set[str]:
    """Names of the `{placeholders}` of a format string.

    Raises:
        ValueError: If the braces do not match.
    """
    from string import Formatter

    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_MAX_LOWER_CASE = 20
"""Characters of a variable's name with small letters in it; what is longer is taken for a key."""


def _public_address(value: str) -> str:
    """A server's address, which is saved with the run: without a password or key in it."""
    if "@" in value or "?" in value or "#" in value:
        raise ValueError(
            "base_url: holds a user, a key or a query, and is saved with the run; leave those out, and put the "
            "key into the environment variable that api_key_env names"
        )
    return value


def _variable(value: str) -> str:
    """The name of an environment variable, and not the key itself."""
    is_key = not value.isupper() and len(value) > _MAX_LOWER_CASE
    if is_key or not _VARIABLE.fullmatch(value):
        raise ValueError(
            "api_key_env: is no name of an environment variable; if it is the key itself, set a variable to it "
            "and give the variable's name here, because settings are saved with the run"
        )
    return value


Address = Annotated[str, AfterValidator(_public_address)]
VariableName = Annotated[str, AfterValidator(_variable)]


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ServerSettings(Settings):
    """A server that computes the log-probabilities, with `/v1/completions` as OpenAI had it."""

    base_url: Address = Field(description="server address, such as http://localhost:8000/v1")
    model: str | None = Field(
        None, description="model name on the server; null: model.name, or else the only one it serves"
    )
    api_key_env: VariableName = Field(
        "MODEL_API_KEY", description="environment variable that holds the key; never stored"
    )
    prompt: Literal["auto", "ids", "text"] = Field(
        "auto", description="what is sent; auto: token ids where the server takes them, else text"
    )
    max_length: int | None = Field(
        None, ge=2, description="tokens the server reads; null: as it says, else as the tokenizer's folder says"
    )
    concurrency: int = Field(16, ge=1, description="requests in flight")
    timeout_s: float = Field(120.0, gt=0, description="seconds to wait for a reply")
    max_retries: int = Field(6, ge=0, description="tries after a failed request")


class ModelSettings(Settings):
    """The model under diagnosis."""

    name: str = Field(
        "Qwen/Qwen2-7B-Instruct",
        description="Hub id or local folder of a causal language model; with a server, of its tokenizer",
    )
    revision: str | None = Field(None, description="Hub revision (branch, tag or commit)")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="weights in memory; auto: the checkpoint's on a GPU, float32 on a CPU"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:0, ...")
    attention: Literal["sdpa", "eager"] = Field(
        "sdpa", description="attention implementation; eager also where the model has no sdpa"
    )
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the model; only if you trust it"
    )
    adapter: str | None = Field(
        None, description="folder of a LoRA adapter on top of the model, to diagnose what was trained before"
    )
    server: ServerSettings | None = Field(
        None, description="diagnose the model that a server has: {base_url: ..., model: ...}; null: local weights"
    )

    @model_validator(mode="after")
    def _server_has_its_weights(self) -> ModelSettings:
        if self.server is not None and self.adapter is not None:
            raise ValueError(
                "model.adapter: a server has its own weights; serve the adapted model, or set model.server to null"
            )
        return self


class PromptSettings(Settings):
    """How a query becomes text; the same for diagnosis, training and evaluation."""

    fact: str = Field("Fact: {fact}\n", description="put before the question when a fact is given")
    question: str = Field("Question: {question}", description="the question line")
    options: str = Field("\nOptions: {options}", description="the options line")
    option: str = Field("({letter}) {option}", description="one option; options are joined by a space")
    completion: str = Field(
        "{explanation} The answer is ({letter}) {option}",
        description="what a training example teaches to reply; {explanation}, {letter}, {option}",
    )
    plain: str = Field(
        "{prompt}\nAnswer:", description="used instead of a chat template when the tokenizer has none"
    )
    chat_template: Literal["auto", "plain"] = Field(
        "auto", description="auto: the tokenizer's; plain: never use it"
    )

    @model_validator(mode="after")
    def _placeholders(self) -> PromptSettings:
        wanted = {
            "fact": {"fact"}, "question": {"question"}, "options": {"options"}, "option": {"letter", "option"},
            "completion": {"explanation", "letter", "option"}, "plain": {"prompt"},
        }  # fmt: skip
        for name, allowed in wanted.items():
            unknown = placeholders(getattr(self, name)) - allowed
            if unknown:
                known = ", ".join(f"{{{key}}}" for key in sorted(allowed))
                raise ValueError(f"prompt.{name} has unknown placeholder {{{min(unknown)}}}; known: {known}")
        return self


class QuerySettings(Settings):
    """Unlabelled user queries."""

    path: list[str] = Field(
        default_factory=list, description="files (JSONL, CSV, Parquet; .gz) or hf://data-set[:split]"
    )
    format: Literal["auto", "generic", "ecare", "gsm8k", "chat"] = Field(
        "auto", description="form of the rows; auto looks at the columns"
    )
    limit: int | None = Field(None, ge=1, description="take only the first N queries")
    skip_bad: int = Field(0, ge=0, description="bad rows that may be left out, each named; more is an error")


class FactSettings(Settings):
    """The corpus that facts are retrieved from."""

    path: list[str] = Field(
        default_factory=list, description="files (TSV, JSONL, CSV, Parquet, text; .gz) or hf://data-set[:split]"
    )
    documents: list[str] = Field(
        default_factory=list,
        description="files, folders or globs of documents (Markdown, text, HTML, PDF) to extract facts from",
    )
    extract: Literal["teacher", "sentences"] = Field(
        "teacher", description="facts of documents: written by the teacher, or the documents' own sentences"
    )
    passage_words: int = Field(200, ge=20, description="words of a passage at most")
    facts_per_passage: int = Field(10, ge=1, description="facts the teacher may write for a passage")
    max_document_mib: float = Field(32.0, gt=0, description="a larger document is a bad one")
    document_timeout_s: float = Field(300.0, gt=0, description="a document that takes longer to read is a bad one")
    min_score: float = Field(0.7, ge=0, description="drop facts whose score is lower; facts without a score stay")
    skip_bad: int = Field(0, ge=0, description="bad rows and documents that may be left out, each named")


class RetrieveSettings(Settings):
    """Which facts belong to which query."""

    method: Literal["dense", "bm25", "hybrid", "teacher"] = Field(
        "dense",
        description="dense: encoder and exact search; bm25: lexical; hybrid: reciprocal rank fusion of both; "
        "teacher: the teacher writes facts (for math queries, prompt C.1)",
    )
    top_k: int = Field(4, ge=1, description="facts a query")
    min_score: float | None = Field(
        None, description="leave out facts with a lower similarity to the query (unit of the method); null: none"
    )
    min_score_ratio: float = Field(
        0.0,
        ge=0,
        le=1,
        description="leave out facts whose similarity is less than this share of the query's best one",
    )
    encoder: str = Field("BAAI/bge-large-en-v1.5", description="sentence encoder: Hub id or local folder")
    query_instruction: str = Field(
        "Represent this sentence for searching relevant passages: ",
        description="put before queries (not facts) for dense retrieval; empty for encoders that want none",
    )
    batch_size: int = Field(64, ge=1, description="texts encoded at once")
    devices: list[str] = Field(
        default_factory=list,
        description="where the encoder runs, one process each (cuda:0, cuda:1; cpu); empty: one, chosen by itself",
    )
    embeddings: str | None = Field(
        None,
        description="folder that keeps embeddings for later runs; null: LAMER_CACHE or the user's cache folder",
    )
    embedding_dtype: Literal["float32", "float16"] = Field(
        "float32", description="numbers on disk; float16 takes half the room"
    )
    index: str = Field(
        "flat", min_length=1,
        description="flat: exact search; or a FAISS factory string for large corpora (IVF1024,Flat; IVF4096,SQ8; "
        "HNSW32), whose recall is measured",
    )  # fmt: skip
    self_answer: int = Field(
        0, ge=0,
        description="method teacher: times the teacher answers each query again, blind; 0: never",
    )  # fmt: skip
    agreement: float = Field(
        0.6, gt=0, le=1,
        description="share of blind answers that must equal the teacher's answer; else the query stays open",
    )  # fmt: skip
    index_search: str = Field(
        "", description="FAISS search parameters (nprobe=64; efSearch=128); empty: chosen for the index"
    )

    @field_validator("index")
    @classmethod
    def _flat(cls, value: str) -> str:
        return "flat" if value.strip().lower() == "flat" else value.strip()


DEFAULT_EDGE = 0.1
"""Lowest tier edge of the paper, in nats."""
DEFAULT_LEVEL = 0.1
"""False discovery rate that a numeric threshold is compared with."""

_FDR = re.compile(r"fdr\(([^()]*)\)")


def _threshold(value: Any) -> float | str:
    """A number of nats, or `fdr(q)` in its one spelling."""
    text = "".join(value.split()).lower() if isinstance(value, str) else ""
    fdr = _FDR.fullmatch(text)
    given = fdr[1] if fdr else text or value
    try:
        number = float(given) if not isinstance(given, bool) else 0.0
    except (TypeError, ValueError):
        number = 0.0
    if not isfinite(number) or number <= 0 or (fdr and number >= 1):
        raise ValueError(
            "diagnose.threshold: expected nats above 0 (such as 0.1), or fdr(q) with q between 0 and 1 "
            f"(such as fdr(0.1)), got {value!r}"
        )
    return f"fdr({number:.12g})" if fdr else number


class DiagnoseSettings(Settings):
    """Relative entropy of the answers before and after a fact."""

    target: Literal["auto", "letter", "text"] = Field(
        "auto",
        description="what is scored; auto: letter for queries with options, text for sampled responses",
    )
    normalization: Literal["mean", "sum"] = Field(
        "mean", description="score of a text candidate: mean or sum of its token log-probabilities"
    )
    permutations: Literal["none", "cyclic", "all"] = Field(
        "none", description="letter target: average over option orders to cancel label bias"
    )
    show_options: bool = Field(True, description="list the options in the prompt (always, for the letter target)")
    threshold: Annotated[float | str, BeforeValidator(_threshold)] = Field(
        DEFAULT_EDGE,
        description="what a deficiency is: a relative entropy in nats to reach, or fdr(q): all pairs significant "
        "against placebo facts at false discovery rate q, such as fdr(0.1)",
    )
    placebos: int = Field(
        1, ge=0, description="random facts scored with each query to calibrate the threshold; 0: none"
    )
    num_candidates: int = Field(2, ge=2, description="responses sampled for a query without options")
    max_candidate_tokens: int = Field(64, ge=1, description="length limit of a sampled response")
    temperature: float = Field(1.0, gt=0, description="sampling temperature of the responses")
    max_temperature: float = Field(
        1.5, gt=0,
        description="what the temperature of repeated tries rises to when responses are the same",
    )  # fmt: skip
    top_p: float = Field(
        1.0, gt=0, le=1, description="sample from the likeliest tokens that have this probability together"
    )
    max_batch_tokens: int | None = Field(
        None, ge=1, description="tokens scored at once, padding included; null: measured from the free memory"
    )
    rescore: bool = Field(
        True,
        description="in bfloat16 or float16, score pairs again in float32 whose tier rounding could have changed",
    )
    shard_size: int = Field(256, ge=1, description="queries a shard: the unit of resume")

    @property
    def edge(self) -> float:
        """The numeric threshold in nats; where the threshold is a false discovery rate, the default one."""
        return self.threshold if isinstance(self.threshold, float) else DEFAULT_EDGE

    @property
    def level(self) -> float:
        """The false discovery rate; where the threshold is numeric, the default one."""
        return DEFAULT_LEVEL if isinstance(self.threshold, float) else float(self.threshold[len("fdr(") : -1])

    @property
    def is_calibrated(self) -> bool:
        """Whether deficiencies are decided by false discovery rate."""
        return isinstance(self.threshold, str)

    @model_validator(mode="after")
    def _has_placebos(self) -> DiagnoseSettings:
        if self.is_calibrated and not self.placebos:
            raise ValueError(
                f"diagnose.threshold: {self.threshold} is calibrated on placebo facts; set diagnose.placebos to 1 "
                "or more"
            )
        return self


class SelectSettings(Settings):
    """Which deficiencies are worth examples, and how many."""

    per_tier: int | None = Field(375, ge=1, description="deficiencies taken from each tier at most; null: all")
    quota: dict[TierName, int] = Field(
        default={"easy": 1, "normal": 2, "hard": 3, "unfair": 4},
        description="examples for each deficiency of a tier",
    )
    decisive: bool = Field(
        True,
        description="of a query's facts, consider only the one that leaves the model surest of its answer",
    )
    max_per_query: int | None = Field(1, ge=1, description="deficiencies of one query at most; null: no cap")
    max_per_fact: int | None = Field(3, ge=1, description="deficiencies of one fact at most; null: no cap")
    replay: float = Field(
        0.0, ge=0, lt=1,
        description="share of all examples written for pairs below the threshold, against forgetting; 0: none "
        "(train.replay does the same without the teacher)",
    )  # fmt: skip


class TeacherSettings(Settings):
    """The model that writes examples, behind an OpenAI-compatible server."""

    model: str = Field("gpt-4o-mini", description="model name on the server")
    base_url: Address | None = Field(None, description="server address; null: OpenAI's")
    api_key_env: VariableName = Field(
        "OPENAI_API_KEY", description="environment variable that holds the key; never stored"
    )
    mode: Literal["online", "batch"] = Field(
        "online", description="online: concurrent requests; batch: OpenAI's Batch API, half the price, up to a day"
    )
    format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="text: the paper's format; json: structured output by a JSON schema; auto: json where a trial "
        "request shows that the server honours it",
    )
    temperature: float = Field(1.0, ge=0, description="sampling temperature")
    top_p: float | None = Field(None, gt=0, le=1, description="nucleus of the sampling; null: the server's own")
    max_tokens: int = Field(2048, ge=1, description="length limit of a reply")
    timeout_s: float = Field(120.0, gt=0, description="seconds to wait for a reply")
    concurrency: int = Field(16, ge=1, description="most requests in flight; fewer while the server is overloaded")
    requests_per_minute: int | None = Field(None, ge=1, description="the account's limit; null: none")
    tokens_per_minute: int | None = Field(
        None, ge=1, description="the account's limit, prompt and reply tokens; null: none"
    )
    max_retries: int = Field(6, ge=0, description="tries after a failed request")
    max_retry_after_s: float = Field(
        600.0, gt=0, description="longest wait that a server's Retry-After is granted, in seconds"
    )
    poll_s: float = Field(60.0, gt=0, description="seconds between looks at a batch")
    prices: str | None = Field(
        None, description="price table (YAML, see docs/synthesis.md); null: the one shipped"
    )
    max_cost: float | None = Field(
        None, gt=0, description="most money to spend in this run directory, in the price table's currency"
    )
    max_calls: int | None = Field(None, ge=1, description="most answered calls in this run directory")


class VerifySettings(Settings):
    """Optional checks of an example that cost teacher calls or model time; all off by default."""

    self_answer: int = Field(
        0, ge=0, description="times the teacher answers the question blind, with options re-ordered; 0: off"
    )
    agreement: float = Field(
        0.6, gt=0, le=1, description="share of blind answers that must equal the written answer"
    )
    self_answer_sees_fact: bool = Field(
        False,
        description="show the fact with the blind question: for facts the teacher cannot know, such as those of "
        "your own documents",
    )
    judge: TeacherSettings | None = Field(None, description="another model that judges each example; null: off")
    student: bool = Field(
        False, description="keep only examples that the fact makes easier for the model under diagnosis"
    )

    @property
    def is_on(self) -> bool:
        """Whether any of the checks is."""
        return self.self_answer > 0 or self.judge is not None or self.student


class SynthesizeSettings(Settings):
    """Training examples by severity."""

    teacher: TeacherSettings = TeacherSettings()
    prompt: str = Field(
        "reasoning", description="prompt C.2 of the paper (reasoning or math), a plain variant, or your own file"
    )
    num_options: int = Field(3, ge=2, le=10, description="options of an example")
    max_tries: int = Field(4, ge=1, description="requests for one deficiency until its quota is met")
    similarity: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of word sets at which a question is a duplicate"
    )
    encoder: str | None = Field(
        None, description="sentence encoder that finds paraphrased duplicates as well; null: words only"
    )
    encoder_similarity: float = Field(
        0.92, gt=0, le=1, description="cosine similarity at which the encoder calls a question a duplicate"
    )
    decontaminate: bool = Field(
        True, description="reject examples that repeat n-grams of evaluate.path and of held_out files"
    )
    held_out: list[str] = Field(
        default_factory=list,
        description="further files (JSONL or text) that no example may repeat, besides evaluate.path",
    )
    verify: VerifySettings = VerifySettings()


class LoraSettings(Settings):
    """Low-rank adapters (PEFT)."""

    rank: int = Field(128, ge=1, description="rank r")
    alpha: float = Field(
        8.0, gt=0, description="alpha; the update is scaled by alpha / r (rslora: alpha / sqrt r)"
    )
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout on the adapter's input")
    target_modules: str | list[str] = Field("all-linear", description="modules that get an adapter")
    rslora: bool = Field(False, description="rank-stabilised scaling")
    dora: bool = Field(False, description="weights split into magnitude and direction, both trained (DoRA)")


class ReplaySettings(Settings):
    """General examples mixed into the training, against forgetting."""

    share: float = Field(
        0.3, ge=0, le=0.5, description="share of all training examples; 0: none; see docs/results.md"
    )
    path: list[str] = Field(
        default_factory=list,
        description="files of general examples; empty: the model's own answers to queries without a deficiency",
    )


class HeldOutSettings(Settings):
    """Examples that are measured and not trained on, to stop early and to choose a checkpoint."""

    share: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="share of the deficiencies whose examples are held out, whole facts; 0: none",
    )
    path: list[str] = Field(default_factory=list, description="files of held-out examples instead of a share")
    every_steps: int | None = Field(
        None, ge=1, description="optimizer steps between measurements; null: once an epoch"
    )
    keep: Literal["last", "best"] = Field(
        "last", description="which checkpoint becomes the adapter; best: the lowest held-out loss"
    )
    patience: int | None = Field(
        None, ge=1, description="measurements without a lower loss after which training stops; null: never"
    )

    @model_validator(mode="after")
    def _has_examples(self) -> HeldOutSettings:
        if self.share and self.path:
            raise ValueError("train.held_out: has a share and files; give one of them")
        if (self.keep == "best" or self.patience) and not (self.share or self.path):
            key = "patience" if self.patience else "keep: best"
            raise ValueError(
                f"train.held_out: {key} needs held-out examples; set train.held_out.share or train.held_out.path"
            )
        return self


Tracker = Literal["tensorboard", "wandb", "mlflow"]


class TrainSettings(Settings):
    """Fine-tuning with LoRA."""

    path: list[str] = Field(
        default_factory=list, description="files of examples to train on instead of the run's own"
    )
    lora: LoraSettings = LoraSettings()
    order: Literal["ascending", "descending", "shuffled", "interleaved", "blocks"] = Field(
        "shuffled",
        description="ascending: by severity, as in the paper; interleaved: ascending with the examples of one "
        "deficiency spread out; blocks: tiers ascending, shuffled inside; the default follows docs/results.md",
    )
    scope: Literal["epoch", "tier"] = Field(
        "epoch",
        description="epoch: every epoch replays the order; tier: all epochs of a tier before the next",
    )
    epochs: int = Field(3, ge=1, description="passes over the examples")
    steps: int | None = Field(
        None, ge=1, description="optimizer steps instead of epochs: the order is replayed until there are so many"
    )
    batch_size: int = Field(32, ge=1, description="examples an optimizer step")
    micro_batch_size: int | None = Field(
        None, ge=1, description="examples in memory at once, accumulated to batch_size; null: from measured memory"
    )
    gradient_checkpointing: bool | None = Field(
        None, description="compute activations twice to save memory; null: where one example needs it to fit"
    )
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate of Adam")
    schedule: Literal["constant", "linear", "cosine", "constant_with_warmup"] = Field(
        "linear", description="learning-rate schedule"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of steps with rising learning rate")
    max_length: int = Field(
        1024, ge=8, description="tokens an example may have; a longer one is left out and listed"
    )
    save_steps: int = Field(50, ge=1, description="optimizer steps between checkpoints to resume from")
    replay: ReplaySettings = ReplaySettings()
    held_out: HeldOutSettings = HeldOutSettings()
    report_to: list[Tracker] = Field(
        default=["tensorboard"],
        description="where loss, learning rate and gradient norm are logged; empty: nowhere",
    )
    push_to_hub: str | None = Field(
        None, description="Hub repository the finished adapter is pushed to (private; OWNER/NAME); null: none"
    )

    @model_validator(mode="after")
    def _steps_replay_epochs(self) -> TrainSettings:
        if self.steps is not None and self.scope != "epoch":
            raise ValueError("train.steps: replays whole epochs and goes with train.scope epoch only")
        return self


class EvaluateSettings(Settings):
    """Before and after, on labelled files."""

    path: list[str] = Field(default_factory=list, description="JSONL files with question, options, answer")
    benchmarks: list[str] = Field(
        default_factory=list,
        description="the paper's benchmarks by name (comm, agieval, arc, mmlu, bbh, crass, gsm_plus), or tasks of "
        "lm-evaluation-harness by theirs",
    )
    data: str | None = Field(
        None,
        description="folder that holds the benchmarks as files (comm.jsonl, arc.jsonl, ...); null: from the Hub",
    )
    adapter: str | None = Field(
        None, description="folder of an adapter to evaluate instead of the run's own; null: the run's"
    )
    stop: list[str] = Field(default_factory=list, description="texts that end a free-form reply, besides its turn")
    limit: int | None = Field(None, ge=1, description="take only the first N samples of each file or task")
    max_new_tokens: int = Field(512, ge=1, description="length limit of a free-form reply")
    max_batch_tokens: int = Field(16384, ge=1, description="prompt and reply tokens at once")
    shard_size: int = Field(256, ge=1, description="samples a shard: the unit of resume")
    bootstrap: int = Field(2000, ge=100, description="resamples of the paired bootstrap")


class Config(Settings):
    """All settings of a run."""

    preset: PresetName = Field("default", description="default, paper (the literal reading) or demo")
    seed: int = Field(0, ge=0, description="of everything random")
    rounds: int = Field(
        1, ge=1, description="times to diagnose, synthesize and train on what is still deficient, at most"
    )
    model: ModelSettings = ModelSettings()
    prompt: PromptSettings = PromptSettings()
    queries: QuerySettings = QuerySettings()
    facts: FactSettings = FactSettings()
    retrieve: RetrieveSettings = RetrieveSettings()
    diagnose: DiagnoseSettings = DiagnoseSettings()
    select: SelectSettings = SelectSettings()
    synthesize: SynthesizeSettings = SynthesizeSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()


RENAMED: Mapping[str, str] = {"diagnose.tau": "diagnose.threshold (nats, or fdr(q))"}
"""Keys of earlier versions, and what they are called now."""

PRESETS: dict[PresetName, dict[str, Any]] = {
    "default": {},
    "paper": {
        "select": {"decisive": False, "max_per_query": None, "max_per_fact": None, "replay": 0.0},
        "train": {"order": "ascending", "replay": {"share": 0.0}},
    },
    "demo": {
        "prompt": {"completion": "{option}"},
        "retrieve": {"method": "bm25", "top_k": 8, "min_score_ratio": 0.8},
        "diagnose": {"target": "text", "normalization": "sum", "max_candidate_tokens": 24},
        "select": {"per_tier": None},
        "train": {
            "lora": {"rank": 32, "alpha": 64, "dropout": 0.0},
            "learning_rate": 3e-3,
            "micro_batch_size": 32,
            "max_length": 256,
        },
        "evaluate": {"max_new_tokens": 48},
    },
}


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` over `base`, key by key through nested mappings."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = overlay(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def parse_assignment(text: str) -> dict[str, Any]:
    """`a.b=value` as nested mappings; the value is read as YAML, nothing after `=` is the empty text.

    Raises:
        ConfigError: If there is no `=` or the value is not YAML.
    """
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: expected key=value, for example --set train.lora.rank=16")
    try:
        value: Any = yaml.safe_load(raw) if raw else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {raw!r} is not a YAML value") from error
    if isinstance(value, str):
        value = _number(value)
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def _number(text: str) -> float | str:
    """YAML 1.1 reads `1e-3` as text; people mean the number."""
    try:
        return float(text) if any(digit in text for digit in "0123456789") else text
    except ValueError:
        return text


def load_config(
    source: Path | Mapping[str, Any] | None = None,
    assignments: Iterable[str] = (),
    *,
    preset: PresetName | None = None,
    name: str | None = None,
) -> Config:
    """The resolved configuration.

    Args:
        source: A YAML file, a mapping, or nothing.
        assignments: `key=value` texts that win over the file.
        preset: Wins over the file's own `preset`.
        name: File that problems are told of; None is the file itself.

    Raises:
        ConfigError: With every problem, one a line.
    """
    given = read_yaml(source) if isinstance(source, Path) else dict(source or {})
    for text in assignments:
        given = overlay(given, parse_assignment(text))
    chosen = preset or given.get("preset", "default")
    if chosen not in PRESETS:
        raise ConfigError(
            f"preset: unknown preset {chosen!r}{nearest(str(chosen), list(PRESETS))}; known: {', '.join(PRESETS)}"
        )
    told = name or (str(source) if isinstance(source, Path) else None)
    where = f"{told}: " if told else ""
    try:
        return Config.model_validate(overlay(overlay(PRESETS[chosen], given), {"preset": chosen}))
    except ValidationError as error:
        raise ConfigError("\n".join(where + _problem(item) for item in error.errors())) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: If there is none, naming file and line.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; `lamer init > {path}` writes one") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder, expected a YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected keys and values, found a {type(loaded).__name__}")
    return loaded


def _problem(item: ErrorDetails) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    if key in RENAMED:
        return f"{key}: is now called {RENAMED[key]}"
    if item["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        if set(known) == set(TIER_NAMES):
            return f"{key}: unknown tier{nearest(location[-1], known)}; known: {', '.join(known)}"
        return f"{key}: unknown key{nearest(location[-1], known)}"
    if location[-1:] == ["[key]"]:
        tier, where = str(item["input"]), ".".join(location[:-1])
        return f"{where}: unknown tier{nearest(tier, TIER_NAMES)}; known: {', '.join(TIER_NAMES)}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        names_key = bool(location) and message.startswith(f"{location[-1]}: ")
        return key + message.removeprefix(location[-1]) if names_key else message
    if location[-1:] == ["api_key_env"]:
        return f"{key}: {message[0].lower()}{message[1:]}"
    given = item["input"]
    return f"{key}: {message[0].lower()}{message[1:]}, got {given!r}"


def _known_keys(location: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location:
        field = model.model_fields.get(part)
        choices = (field.annotation, *get_args(field.annotation)) if field else ()
        nested = [choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    return list(model.model_fields)


def flatten(settings: BaseModel, prefix: str = "") -> dict[str, Any]:
    """`{"train.lora.rank": 128, ...}`: every leaf value under its dotted name."""
    leaves: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        key = f"{prefix}{name}"
        leaves.update(flatten(value, f"{key}.") if isinstance(value, BaseModel) else {key: value})
    return leaves


def to_yaml(config: BaseModel, *, comments: bool = False, indent: int = 0) -> str:
    """The settings as YAML; with `comments`, each key is explained by its description."""
    lines: list[str] = []
    pad = "  " * indent
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            summary = (type(value).__doc__ or "").strip().splitlines()[0]
            if comments:
                lines += ["", f"{pad}# {summary}"] if indent == 0 else [f"{pad}# {summary}"]
            lines += [f"{pad}{name}:", to_yaml(value, comments=comments, indent=indent + 1).rstrip("\n")]
            continue
        if comments and field.description:
            lines.append(f"{pad}# {field.description}{_choices(field.annotation)}")
        lines.append(f"{pad}{name}: {_yaml_value(value)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _choices(annotation: Any) -> str:
    options = get_args(annotation)
    return f" ({' | '.join(options)})" if options and all(isinstance(option, str) for option in options) else ""


def _yaml_value(value: Any) -> str:
    """One line of YAML; texts with line breaks or odd ends as double-quoted (JSON) strings."""
    if isinstance(value, str) and (value != value.strip() or not value.isprintable()):
        return json.dumps(value, ensure_ascii=False)
    plain = dict(value) if isinstance(value, Mapping) else value
    return (
        yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=True)
        .removesuffix("\n...\n")
        .rstrip("\n")
    )
