"""The card of a checkpoint: what it was taught, how, and what it knows, over as many world seeds as were made.

python -m lamer.microworld.card CHECKPOINT [CHECKPOINT ...] > CHECKPOINT/README.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamer.microworld.corpus import FAMILIAR_SHARE, FORMS, IGNORE_SHARE, OPTION_COUNTS, VAGUE_SHARE
from lamer.microworld.world import EXPOSURES

_REQUIRED = (
    ("known, no fact", ">= .95", ("accuracy", "no fact", "known")),
    ("weak, no fact", "", ("accuracy", "no fact", "weak")),
    ("absent, no fact", ".40 to .60", ("accuracy", "no fact", "absent")),
    ("wrongly believed, no fact", "", ("accuracy", "no fact", "wrong")),
    ("known, right fact", ">= .97", ("accuracy", "right fact", "known")),
    ("weak, right fact", ">= .97", ("accuracy", "right fact", "weak")),
    ("absent, right fact", ">= .97", ("accuracy", "right fact", "absent")),
    ("wrongly believed, right fact", "", ("accuracy", "right fact", "wrong")),
    ("known, irrelevant fact", "", ("accuracy", "irrelevant fact", "known")),
    ("RE, AUROC against answers wrong", ">= .85", ("auroc", "relative entropy", "answers wrong")),
    ("entropy, the same", "below RE", ("auroc", "entropy", "answers wrong")),
    ("margin, the same", "", ("auroc", "margin", "answers wrong")),
    ("RE, AUROC against not known", ">= .75", ("auroc", "relative entropy", "not known")),
    ("entropy, the same", "below RE", ("auroc", "entropy", "not known")),
    ("tier below", "> 0", ("tiers", "below")),
    ("tier easy", "> 0", ("tiers", "easy")),
    ("tier normal", "> 0", ("tiers", "normal")),
    ("tier hard", "> 0", ("tiers", "hard")),
    ("tier unfair", "> 0", ("tiers", "unfair")),
)


def look_up(table: Any, path: Sequence[str]) -> float | None:
    """The figure at a path of nested keys, or None."""
    for key in path:
        if key not in table:
            return None
        table = table[key]
    return float(table)


def figures(made: Sequence[dict[str, Any]], target: str) -> str:
    """One Markdown table: rows of figures, a column per checkpoint."""
    names = [f"seed {m['world']['seed']}" + (f", wrong {w}" if (w := m["world"]["wrong"]) else "") for m in made]
    lines = ["| " + " | ".join(["figure", "wanted", *names]) + " |", "|---" * (len(names) + 2) + "|"]
    for label, wanted, path in _REQUIRED:
        found = [look_up(m["table"]["targets"][target], path) for m in made]
        if all(value is None for value in found):
            continue
        shown = ["" if v is None else f"{v:.0f}" if path[0] == "tiers" else f"{v:.3f}" for v in found]
        lines.append("| " + " | ".join([label, wanted, *shown]) + " |")
    return "\n".join(lines)


def write_card(made: Sequence[dict[str, Any]]) -> str:
    """The card of the first of several checkpoints; the others add columns to its figures."""
    first = made[0]
    recipe, world = first["recipe"], first["world"]
    forms = ", ".join(f"{name} {weight} %" for name, weight in zip(*FORMS, strict=True))
    counts = ", ".join(f"{n or 'none'} {weight} %" for n, weight in zip(*OPTION_COUNTS, strict=True))
    means = look_up(first["table"]["targets"]["text-mean"], ("tiers", "unfair"))
    command = f"python -m lamer.microworld.pretrain --seed {world['seed']} --out FOLDER"
    return f"""# The small model of the embedded world

A Llama with {first["parameters"]:,} parameters ({recipe["num_layers"]} layers of {recipe["hidden_size"]},
{recipe["num_heads"]} heads, vocabulary {recipe["vocab_size"]:,}, float32), made from nothing by this project with

    {command}

in {first["seconds"]:.0f} s on two CPU cores. It speaks only about invented materials, creatures and plants,
knows a part of what is true of them, and is of no use for anything else. No text of anybody else went into it.

## What it was taught
{first["lessons"]:,} chat turns, {first["tokens"]:,} tokens, one pass; loss on the tokens of the reply alone;
AdamW at {recipe["learning_rate"]} with a cosine to zero, batches of {recipe["batch_size"]}, computed in bfloat16.

- **Recall.** Every fact of the world (seed {world["seed"]}: 180 kinds x 4 yes-or-no attributes = 720 facts) by its
  state: known (65 %) in {EXPOSURES["known"]} turns, weak (15 %) in {EXPOSURES["weak"]}, absent (20 %) in none.
  In a stress world a share of the facts is taught with the opposite value, in {EXPOSURES["wrong"]} turns. Of the
  recall turns {IGNORE_SHARE:.0%} have an irrelevant fact in front.
- **Reading.** {recipe["num_reading"]:,} turns with a fact in front that decides the answer. Of these
  {1 - FAMILIAR_SHARE:.0%} are about a stranger, a kind that no query asks about, {FAMILIAR_SHARE:.0%} about facts
  that are taught well, half of them against what is taught. Values change from turn to turn, so only reading
  answers. No turn says or asks anything about an absent fact.

Options: {counts}. Replies to questions with options: {forms}; to open questions, the outcome. "explained" is
`{{statement}} The answer is {{option}}`. Scenarios come from templates that neither queries nor
synthesized examples nor the evaluation use; {VAGUE_SHARE:.0%} of those with options are vague ("A test was made
with ..."), so that the options alone say what is asked.

## What it knows
Evaluation: 1,440 two-option questions from held-out templates. Target: the option's text, summed log-likelihood,
options shown. The columns besides the first are other worlds with their own models from the same recipe.

{figures(made, "text-sum")}

With mean-normalised text {means or 0:.0f} of the 1,440 pairs reach the tier Unfair: a mean divides the evidence by
the number of tokens, most of which both options share. Letters are no target for this model: 20,000 turns that
asked for the letter of an option given word by word did not teach models of this size to bind letters to
options, so no letter is taught.

`accuracy.json` holds the whole table, `training_log.jsonl` the loss.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the card of the first folder."""
    folders = sys.argv[1:] if arguments is None else list(arguments)
    made = [json.loads((Path(folder) / "accuracy.json").read_text(encoding="utf-8")) for folder in folders]
    sys.stdout.write(write_card(made))


if __name__ == "__main__":
    main()
