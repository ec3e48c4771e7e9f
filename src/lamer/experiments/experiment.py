"""What an experiment compares: methods on one footing, as settings.

Every method has the same base model, teacher, seed and number of examples; what differs stands in its entry. The
paper's methods and the variants of this project are in `paper.yaml` beside this module; a user's own file has the
same form, or holds `methods: ...` with the number of seeds and examples beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from lamer.config import Config, SelectSettings, Settings, TrainSettings, load_config, overlay, read_yaml
from lamer.errors import ConfigError, nearest

Data = Literal[
    "none", "deficiencies", "one a deficiency", "uniform", "right facts", "helpful", "misleading", "random facts",
    "errors", "entropy", "perplexity", "random queries",
]  # fmt: skip
DERIVED: frozenset[Data] = frozenset(
    {
        "one a deficiency",
        "uniform",
        "right facts",
        "helpful",
        "misleading",
        "entropy",
        "perplexity",
        "random queries",
    }
)
"""Made from the deficiencies of another method (`of`)."""
LABELLED: frozenset[Data] = frozenset({"errors", "perplexity", "helpful", "misleading"})
"""Need labelled queries with options."""


class Method(Settings):
    """One row of the tables."""

    title: str = Field(description="as tables show it")
    data: Data = Field(
        description="none: no training; deficiencies: as `select` picks them; one a deficiency: one random "
        "example of each of another method's (`of`); uniform: its deficiencies, each with the same number of "
        "examples; right facts: its queries, each with the fact that decides it (embedded world); helpful, "
        "misleading: its deficiencies whose fact makes the right answer more, less probable; random facts: facts "
        "drawn blindly; errors: labelled queries answered wrongly, one example each; entropy, perplexity (by "
        "label), random queries: other queries with its quotas"
    )
    of: str = Field("lamer", description="method that the data refers to")
    select: Literal["paper", "default"] = Field(
        "paper", description="deficiencies: caps and choice of facts as in the preset"
    )
    replay: float = Field(
        0.0, ge=0, lt=1, description="share of the examples that is about pairs below the threshold"
    )
    prompt: str | None = Field(None, description="teacher's prompt; null: synthesize.prompt")
    steps_of: str | None = Field(
        None, description="train for as many optimizer steps as this method; null: train.epochs"
    )
    train: dict[str, Any] = Field(default_factory=dict, description="settings of `train` that differ")

    @property
    def referred(self) -> list[str]:
        """Methods that must be made before this one."""
        return [*([self.of] if self.data in DERIVED else []), *([self.steps_of] if self.steps_of else [])]

    def trained_with(self, config: Config, steps: int | None = None) -> Config:
        """The run's settings with this method's own; what is replayed is the method's alone.

        Raises:
            ConfigError: If `train` names something that is no setting.
        """
        own: Mapping[str, Any] = self.train if steps is None else {**self.train, "steps": steps}
        given = overlay(overlay(config.train.model_dump(), {"replay": {"share": 0.0}}), own)
        try:
            return config.model_copy(update={"train": TrainSettings.model_validate(given)})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"method {self.title}: train.{where}: {first['msg'].lower()}") from error

    def selection(self, config: Config) -> SelectSettings:
        """How this method picks deficiencies: budget and quotas of the run, caps of the preset."""
        fixed = SelectSettings()
        caps: dict[str, Any] = {
            "decisive": fixed.decisive, "max_per_query": fixed.max_per_query, "max_per_fact": fixed.max_per_fact,
        }  # fmt: skip
        if self.select == "paper":
            caps = {"decisive": False, "max_per_query": None, "max_per_fact": None}
        return config.select.model_copy(update={**caps, "replay": self.replay})


class Experiment(Settings):
    """Methods, and how often they are compared."""

    methods: dict[str, Method]
    seeds: int = Field(3, ge=1, description="runs a model; they differ in everything random")
    examples: int | None = Field(
        None,
        ge=1,
        description="examples a method; null: as many as the smallest selection of deficiencies asks for",
    )
    budget_of: Method | None = Field(
        None, description="method whose selection says how many, compared or not; null: the smallest of all"
    )


def paper_methods() -> dict[str, Method]:
    """The paper's methods and the variants that go with them."""
    text = (resources.files(__package__) / "paper.yaml").read_text(encoding="utf-8")
    return check_methods(yaml.safe_load(text), "paper.yaml")


def load_experiment(path: Path) -> Experiment:
    """An experiment file: methods by name, or under `methods`, with `seeds`, `examples` and `budget_of` beside it.

    `budget_of` is the name of a method there.

    Raises:
        ConfigError: If the file cannot be read, or something in it is wrong; names file and method or key.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; it holds methods by name, such as `mine: {{title: Mine, data: errors}}`"
        )
    given = read_yaml(path)
    inner = given.get("methods")
    if not isinstance(inner, Mapping) or "data" in inner:  # a method may be called `methods`
        return Experiment(methods=check_methods(given, str(path)))
    methods = check_methods(inner, f"{path}: methods")
    fields = {key: value for key, value in given.items() if key != "methods"}
    leading = fields.get("budget_of")
    if leading is not None:
        if leading not in methods:
            raise ConfigError(f"{path}: budget_of: {leading!r} is no method{nearest(str(leading), list(methods))}")
        fields["budget_of"] = methods[leading]
    try:
        return Experiment.model_validate({**fields, "methods": methods})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = nearest(key, list(Experiment.model_fields)) if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{path}: {key}: {first['msg'].lower()}{hint}") from error


def check_methods(given: Mapping[str, Any], where: str) -> dict[str, Method]:
    """Methods by name, in the order given.

    Raises:
        ConfigError: Naming the method and what is wrong.
    """
    methods: dict[str, Method] = {}
    for name, fields in given.items():
        if not isinstance(fields, Mapping):
            raise ConfigError(f"{where}: {name}: expected title, data and so on, found {fields!r}")
        try:
            method = Method.model_validate(dict(fields))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            hint = nearest(key, list(Method.model_fields)) if first["type"] == "extra_forbidden" else ""
            raise ConfigError(f"{where}: {name}.{key}: {first['msg'].lower()}{hint}") from error
        method.trained_with(load_config())
        methods[str(name)] = method
    if not methods:
        raise ConfigError(f"{where}: no methods; see `lamer reproduce --help`")
    for name, method in methods.items():
        for other in method.referred:
            if other not in methods:
                raise ConfigError(
                    f"{where}: {name}: refers to {other!r}, no method{nearest(other, list(methods))}"
                )
    in_turn(methods)
    return methods


def in_turn(methods: Mapping[str, Method]) -> list[str]:
    """Names in the order given, but each behind the methods that it refers to.

    Raises:
        ConfigError: If methods refer to each other in a circle.
    """
    turn: list[str] = []

    def place(name: str, waiting: tuple[str, ...]) -> None:
        if name in waiting:
            raise ConfigError(f"methods refer to each other: {', '.join((*waiting, name))}")
        for other in methods[name].referred:
            place(other, (*waiting, name))
        if name not in turn:
            turn.append(name)

    for name in methods:
        place(name, ())
    return turn
