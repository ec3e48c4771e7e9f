"""The embedded world: invented facts in plain English, a small model that knows them in part, and its teacher."""

from __future__ import annotations

import json
from pathlib import Path

from lamer.microworld.teacher import MicroworldTeacher
from lamer.microworld.world import World, WorldFact

__all__ = ["MicroworldTeacher", "World", "WorldFact", "checkpoint_path", "shipped_world"]


def checkpoint_path() -> Path:
    """Folder of the shipped checkpoint; `from_pretrained` loads it."""
    return Path(__file__).parent / "data"


def shipped_world() -> World:
    """The world that the shipped checkpoint was taught."""
    made = json.loads((checkpoint_path() / "accuracy.json").read_text(encoding="utf-8"))["world"]
    return World.build(made["seed"], wrong=made["wrong"])
