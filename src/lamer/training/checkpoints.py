"""What a training leaves behind while it runs, so that it can go on after a kill.

OUT/plan.json           digest of data, plan and settings
OUT/room.json           what a micro-batch may hold, while the training is not done (see lamer.training.memory)
OUT/order.jsonl         {"step", "ids"} of every optimizer step, written when the step runs
OUT/log.jsonl           {"step", "loss", "learning_rate", "grad_norm"}, and "held_out_loss" where it was measured
OUT/left_out.jsonl      {"id", "num_tokens", "max_length"} of every example that is too long
OUT/best-STEP/          adapter of the lowest held-out loss (see lamer.training.held_out)
OUT/checkpoint-STEP/    adapter, optimizer, schedule, random states; `complete.json` is written last
OUT/result.json         written before the adapter gets its name
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamer.errors import RunError
from lamer.tables import write_atomically

MARKER = "complete.json"
BEST = "best"
ROOM = "room.json"


def mark_complete(checkpoint: Path) -> None:
    """Note the size of every file of a checkpoint that was written whole."""
    sizes = {file.name: file.stat().st_size for file in sorted(checkpoint.iterdir()) if file.is_file()}
    write_atomically(checkpoint / MARKER, json.dumps(sizes, indent=1).encode())


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was finished and still has every byte."""
    try:
        sizes = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        return bool(sizes) and all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def checkpoints(out: Path) -> list[tuple[int, Path]]:
    """(step, folder) of all checkpoints, oldest first, torn ones too."""
    found = [(folder.name.rpartition("-")[2], folder) for folder in out.glob("checkpoint-*") if folder.is_dir()]
    return sorted((int(step), folder) for step, folder in found if step.isdigit())


def last_whole(out: Path) -> tuple[int, Path] | None:
    """The newest checkpoint to go on from; torn ones are removed."""
    whole: tuple[int, Path] | None = None
    for step, folder in checkpoints(out):
        if is_whole(folder):
            whole = (step, folder)
        else:
            shutil.rmtree(folder)
    return whole


def remove_checkpoints(out: Path) -> None:
    """Drop what is needed only to go on."""
    for folder in (*(folder for _, folder in checkpoints(out)), *out.glob(f"{BEST}-*")):
        shutil.rmtree(folder)
    (out / ROOM).unlink(missing_ok=True)


def claim(out: Path, digest: str) -> None:
    """Note what `out` is the training of.

    Raises:
        RunError: If it is another's.
    """
    file = out / "plan.json"
    if not file.exists():
        write_atomically(file, json.dumps({"digest": digest}).encode())
    elif json.loads(file.read_text(encoding="utf-8")).get("digest") != digest:
        raise RunError(
            f"{out}: holds a training with other data or settings; remove it, or use --restart-from train"
        )


class StepLog:
    """A JSON Lines file with one row a step; going on after `step` drops the rows behind it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """The rows written whole."""
        found: list[dict[str, Any]] = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    found.append(json.loads(line))
                except ValueError:
                    break
        return found

    def rewind(self, step: int) -> None:
        """Drop the rows of steps behind `step`, and a torn last line."""
        kept = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
        write_atomically(self.path, "".join(kept).encode())

    def append(self, row: dict[str, Any]) -> None:
        """Add one row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class OrderLog(StepLog):
    """The realised order of examples, checked against the plan as it happens."""

    def __init__(self, path: Path, plan: Sequence[Sequence[str]]) -> None:
        super().__init__(path)
        self.plan = plan

    def record(self, step: int, ids: Sequence[str]) -> None:
        """Note the examples of optimizer step `step` (from 1).

        Raises:
            RunError: If they are not the planned ones.
        """
        planned = self.plan[step - 1] if 0 < step <= len(self.plan) else []
        if sorted(ids) != sorted(planned):
            raise RunError(
                f"training left the planned order at step {step}: planned {_some(planned)}, got {_some(ids)}; "
                "please report this"
            )
        self.append({"step": step, "ids": list(ids)})

    def check(self, num_steps: int | None = None) -> None:
        """Compare the whole realised order with the plan.

        Args:
            num_steps: Where training stopped; None: at the end of the plan.

        Raises:
            RunError: If a step is missing, twice there or different.
        """
        rows, plan = self.rows(), self.plan[:num_steps]
        for number, planned in enumerate(plan, start=1):
            row = rows[number - 1] if number <= len(rows) else {"step": None, "ids": []}
            if row["step"] != number or sorted(row["ids"]) != sorted(planned):
                raise RunError(f"{self.path}: step {number} is not as planned; use --restart-from train")
        if len(rows) != len(plan):
            raise RunError(f"{self.path}: has {len(rows)} steps, planned were {len(plan)}")


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (f", ... ({len(ids)})" if len(ids) > 3 else "")
