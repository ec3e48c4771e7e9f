"""Where a training's loss, learning rate and gradient norm are shown while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lamer.errors import UsageError
from lamer.progress import say

FOLDER = "tensorboard"
"""In the training's working folder; `tensorboard --logdir RUN/training/tensorboard`."""


def check_trackers(names: Sequence[str]) -> None:
    """See before a training starts that what it reports to is installed.

    Raises:
        UsageError: If a package is missing.
    """
    for name in names:
        if find_spec(name) is None:
            raise UsageError(
                f"train.report_to: {name} is not installed: pip install {name}, or take it out of train.report_to"
            )


def tracking_callbacks(names: Sequence[str], out: Path, step: int) -> list[Any]:
    """What shows the training in each of `names`, from behind `step` on, for the Trainer.

    A tracker that cannot be set up stops the training before its first step; one that fails later (a server gone)
    is told once and left out from there on.

    Raises:
        UsageError: If a tracker cannot be set up; those of transformers when the training begins.
    """
    from transformers.integrations import get_reporting_integration_callbacks

    found = [tensorboard_callback(out, step)] if "tensorboard" in names else []
    for name in names:
        if name != "tensorboard":
            (kind,) = get_reporting_integration_callbacks([name])
            with _set_up(name):
                found.append(guarded(name, kind()))
    return found


def tensorboard_callback(out: Path, step: int) -> Any:
    """Scalars of every step behind `step` into OUT/tensorboard; what an earlier start wrote of them is purged."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    class Scalars(TensorBoardCallback):  # type: ignore[misc]
        """transformers' callback without its copies of arguments and model configuration."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            pass

    return Scalars(SummaryWriter(str(out / FOLDER), purge_step=step + 1 if step else None))


def guarded(name: str, callback: Any) -> Any:
    """A callback whose failure does not end a training that has begun.

    Args:
        name: Of the tracker, for messages.
        callback: A `TrainerCallback`.
    """
    from transformers import TrainerCallback

    failed = False

    def event_called(event: str) -> Callable[..., None]:
        def call(_: Any, *args: Any, **details: Any) -> None:
            nonlocal failed
            if failed:
                return
            if event == "on_train_begin":
                with _set_up(name):
                    getattr(callback, event)(*args, **details)
                return
            try:
                getattr(callback, event)(*args, **details)
            except Exception as error:  # whatever a service's client raises
                failed = True
                say(f"train.report_to: {name} failed ({_first_line(error)}); the training goes on without it")

        return call

    events = {event: event_called(event) for event in dir(TrainerCallback) if event.startswith("on_")}
    return type("Guarded", (TrainerCallback,), events)()


@contextmanager
def _set_up(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a service's client raises
        raise UsageError(
            f"train.report_to: {name} cannot be used ({_first_line(error)}); set it up, or take it out of "
            "train.report_to"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0][:200]}"
