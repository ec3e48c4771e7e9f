"""How much of an optimizer batch is in memory at once: measured before the training, halved when it was too much.

Neither micro-batches nor gradient checkpointing change the gradient of a step; they change what is kept between
the forward and the backward pass. Dropout is the exception: micro-batches of another size draw other masks. So a
training that goes on keeps the room that it had (`RoomFile`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lamer.config import TrainSettings
from lamer.errors import ModelError
from lamer.scoring.memory import free_memory, is_out_of_memory
from lamer.tables import write_atomically

USABLE_SHARE = 0.6
"""Of the free memory; the rest is for what lives within one operation, and for others."""
MAX_TOKENS = {"cpu": 2048, "cuda": 32_768}
"""Of a micro-batch, padding included, however much fits: the rest of the memory is left to others."""
STATE_BYTES = 12
"""Of a trainable parameter: its gradient and Adam's two moments, float32."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a micro-batch may hold."""

    rows: int | None
    """Examples; None: as many as the tokens allow."""
    tokens: int | None
    """Tokens, padding included, unless a single example has more; None: as many as the rows have."""
    checkpointing: bool
    """Whether activations are computed again for the backward pass."""
    may_checkpoint: bool = False
    """Whether checkpointing may be switched on when a single example does not fit."""
    num_shortages: int = 0
    """Times that memory ran out on the way here."""

    def __str__(self) -> str:
        size = f"{self.rows} examples" if self.rows is not None else f"{self.tokens} tokens"
        shortages = f", after memory ran out {self.num_shortages} times" if self.num_shortages else ""
        is_on = "on" if self.checkpointing else "off"
        return f"micro-batches of up to {size}, gradient checkpointing {is_on}{shortages}"

    def smaller(self, rows: int, width: int) -> Room:
        """What to try after a micro-batch of `rows` examples, padded to `width` tokens, did not fit.

        Raises:
            ModelError: If there is nothing smaller.
        """
        counted = replace(self, num_shortages=self.num_shortages + 1)
        if rows > 1 and self.rows is not None:
            return replace(counted, rows=rows // 2)
        if rows > 1:
            return replace(counted, tokens=rows * width // 2)
        if self.may_checkpoint and not self.checkpointing:
            return replace(counted, checkpointing=True)
        raise ModelError(
            f"not enough memory to train on one example of {width} tokens"
            f"{' with' if self.checkpointing else ' without'} gradient checkpointing; lower train.max_length or "
            f"train.lora.rank, {'' if self.checkpointing else 'leave train.gradient_checkpointing at null, '}"
            "or use a smaller model"
        )


class RoomFile:
    """The room of a training beside its plan, for when it goes on.

    It holds for the settings and the kind of device that it was found with; under others it is found anew.

    Args:
        path: Of the file.
        settings: `micro_batch_size` and `gradient_checkpointing`.
        device: The model's.
    """

    def __init__(self, path: Path, settings: TrainSettings, device: Any) -> None:
        self.path = path
        self._found_with = {
            "micro_batch_size": settings.micro_batch_size,
            "gradient_checkpointing": settings.gradient_checkpointing,
            "device": device.type,
        }

    def write(self, room: Room) -> None:
        """Keep what the room is, or became."""
        content = {"found_with": self._found_with, "room": asdict(room)}
        write_atomically(self.path, json.dumps(content).encode())

    def read(self) -> Room | None:
        """The room that was kept; None where there is none, or one of other settings."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return Room(**content["room"]) if content["found_with"] == self._found_with else None
        except (OSError, ValueError, TypeError, KeyError):
            return None


def find_room(settings: TrainSettings, model: Any, device: Any, longest: int, forward: Callable[[], Any]) -> Room:
    """The room that the settings give, or the measured one where they leave it open.

    Args:
        settings: `micro_batch_size` and `gradient_checkpointing`.
        model: With adapters, in training mode; it is left with the checkpointing of the result.
        device: The model's.
        longest: Tokens of the longest example.
        forward: The loss of that example.
    """
    if settings.gradient_checkpointing:
        checkpoint(model, required=True)
    may_checkpoint = settings.gradient_checkpointing is None
    room = Room(settings.micro_batch_size, None, bool(settings.gradient_checkpointing), may_checkpoint)
    if settings.micro_batch_size is not None and not may_checkpoint:
        return room
    states = STATE_BYTES * sum(part.numel() for part in model.parameters() if part.requires_grad)
    usable = USABLE_SHARE * max(free_bytes(device) - states, 0.0)
    needed = _needed(model, forward, checkpointing=room.checkpointing)
    if may_checkpoint and needed > usable and checkpoint(model):
        room = replace(room, checkpointing=True)
        needed = _needed(model, forward, checkpointing=True, plain=needed if math.isfinite(needed) else None)
    if room.rows is None:
        room = replace(room, tokens=fitting_tokens(usable, needed / longest, device))
    return room


def _needed(model: Any, forward: Callable[[], Any], *, checkpointing: bool, plain: float | None = None) -> float:
    """`activation_bytes`, infinite when not even the measurement fits."""
    try:
        return activation_bytes(model, forward, checkpointing=checkpointing, plain=plain)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    free_memory()
    return math.inf


def fitting_tokens(usable_bytes: float, bytes_a_token: float, device: Any) -> int:
    """Tokens that fit, between 64 and the most of the device."""
    return int(min(max(usable_bytes / max(bytes_a_token, 1.0), 64), MAX_TOKENS.get(device.type, 2048)))


def free_bytes(device: Any) -> float:
    """Memory that a training on the device may still take."""
    import torch

    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + unused)
    import psutil

    return float(psutil.virtual_memory().available)


def activation_bytes(
    model: Any, forward: Callable[[], Any], *, checkpointing: bool, plain: float | None = None
) -> float:
    """Bytes that a forward pass keeps for its backward pass, parameters left out.

    With checkpointing one layer is computed again at a time, which is added: its share of what is kept without.

    Args:
        model: In training mode.
        forward: Computes a loss.
        checkpointing: Whether the model has it switched on.
        plain: Bytes kept without checkpointing, where known.
    """
    import torch

    parameters = {part.untyped_storage().data_ptr() for part in model.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    devices = [next(model.parameters()).device]
    with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = forward()
        del loss
    found = float(sum(seen.values()))
    if not checkpointing:
        return found
    layers = getattr(getattr(model, "config", None), "num_hidden_layers", None) or 1
    return found + (plain / layers if plain is not None else found)


def checkpoint(model: Any, *, required: bool = False) -> bool:
    """Switch gradient checkpointing on; False where the model has none.

    Raises:
        ModelError: If it is required and the model has none.
    """
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except (ValueError, AttributeError, NotImplementedError) as error:
        if not required:
            return False
        raise ModelError(
            "train.gradient_checkpointing: this model has none; set it to false and lower train.max_length"
        ) from error
    return True
