from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lamer.errors import ModelError
from lamer.testing import tiny_model
from lamer.training import memory, trainer
from lamer.training.memory import Room, RoomFile, activation_bytes, fitting_tokens
from lamer.training.trainer import completion_loss, train_adapter

OPEN = {"train.micro_batch_size": "null", "train.lora.dropout": 0.0, "train.batch_size": 6, "train.epochs": 2}


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def equal(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-3, atol=1e-5)


def steps_of(out):
    return [json.loads(line) for line in (out / "order.jsonl").read_text().splitlines()]


def losses_of(out):
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_room_halves_and_then_computes_twice_and_then_gives_up():
    room = Room(None, 1000, False, may_checkpoint=True)
    room = room.smaller(5, 100)
    assert (room.tokens, room.rows, room.num_shortages) == (250, None, 1)
    room = room.smaller(1, 300)
    assert (room.tokens, room.checkpointing, room.num_shortages) == (250, True, 2)
    assert str(room) == (
        "micro-batches of up to 250 tokens, gradient checkpointing on, after memory ran out 2 times"
    )
    with pytest.raises(ModelError, match="one example of 300 tokens with gradient checkpointing"):
        room.smaller(1, 300)
    assert Room(5, None, False).smaller(5, 100).rows == 2
    with pytest.raises(ModelError, match=r"leave train\.gradient_checkpointing at null"):
        Room(5, None, False).smaller(1, 100)


def test_the_tokens_that_fit_follow_from_bytes_within_limits():
    cpu = torch.device("cpu")
    assert fitting_tokens(1e6, 1e3, cpu) == 1000
    assert fitting_tokens(1e3, 1e3, cpu) == 64
    assert fitting_tokens(1e12, 1e3, cpu) == memory.MAX_TOKENS["cpu"]


def test_what_a_forward_pass_keeps_is_counted_once_without_parameters():
    layer = torch.nn.Linear(8, 8, bias=False)
    x = torch.randn(10, 8, requires_grad=True)
    # linear keeps x, tanh and the product keep tanh's result (shared): 2 tensors of 10 x 8 float32
    found = activation_bytes(layer, lambda: (layer(x).tanh() * 1.0).sum(), checkpointing=False)
    assert found == 2 * 10 * 8 * 4


def test_checkpointing_keeps_less(examples, settings):
    model, _ = tiny_model("llama")
    batch = {"input_ids": torch.arange(64)[None] % 50, "labels": torch.arange(64)[None] % 50}
    model.train()
    plain = activation_bytes(model, lambda: completion_loss(model, batch), checkpointing=False)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    less = activation_bytes(model, lambda: completion_loss(model, batch), checkpointing=True, plain=plain)
    assert less < plain


@pytest.fixture
def undisturbed(examples, settings, tmp_path):
    config = settings(**OPEN)
    result = train_adapter(examples, config, tmp_path / "whole", tmp_path / "whole-adapter")
    assert result.memory == "micro-batches of up to 2048 tokens, gradient checkpointing off"
    return tmp_path / "whole", tmp_path / "whole-adapter"


@pytest.mark.parametrize("micro_batch_size", ["null", 6])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_step_that_ran_out_of_memory_is_done_again_in_halves(
    where, micro_batch_size, undisturbed, examples, settings, tmp_path, monkeypatch
):
    """The second step fails with more than two rows at once; half of the gradients may be there by then."""
    calls = []

    def scarce(model, batch, **options):
        loss = completion_loss(model, batch, **options)
        rows = len(batch["input_ids"])
        if is_running():
            calls.append(rows)
        if rows > 2 and is_running() and len(calls) > 1:
            if where == "forward":
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            model.get_base_model().model.layers[0].mlp.down_proj.lora_A["default"].weight.register_hook(fail)
        return loss

    def fail(_):
        if calls[-1] > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    def is_running():
        return (tmp_path / "out" / "order.jsonl").exists() and bool(steps_of(tmp_path / "out"))

    monkeypatch.setattr(trainer, "completion_loss", scarce)
    config = settings(**{**OPEN, "train.micro_batch_size": micro_batch_size})
    result = train_adapter(examples, config, tmp_path / "out", tmp_path / "adapter")
    assert max(calls) > 2
    assert set(calls[-3:]) <= {1, 2, 3}
    assert "after memory ran out" in result.memory
    whole, adapter = undisturbed
    equal(weights(tmp_path / "adapter"), weights(adapter))
    assert steps_of(tmp_path / "out") == steps_of(whole)
    assert losses_of(tmp_path / "out") == pytest.approx(losses_of(whole), rel=1e-4)


def test_checkpointing_comes_when_one_example_does_not_fit(undisturbed, examples, settings, tmp_path, monkeypatch):
    real = memory.free_bytes
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1.0)
    result = train_adapter(examples, settings(**OPEN), tmp_path / "out", tmp_path / "adapter")
    assert result.memory == "micro-batches of up to 64 tokens, gradient checkpointing on"
    equal(weights(tmp_path / "adapter"), weights(undisturbed[1]))
    assert real(torch.device("cpu")) > 1e6


DROPOUT = {**OPEN, "train.lora.dropout": 0.05, "train.gradient_checkpointing": "false"}


def test_a_training_that_goes_on_keeps_its_micro_batches_whatever_is_free_now(
    examples, settings, tmp_path, monkeypatch, stopped_at
):
    """With dropout, whose masks depend on them."""
    config, out, adapter = settings(**DROPOUT), tmp_path / "out", tmp_path / "adapter"
    whole = train_adapter(examples, config, tmp_path / "whole", tmp_path / "whole-adapter")

    def start():
        return train_adapter(examples, config, out, adapter)

    stopped_at(3, start)
    assert (out / "room.json").exists()
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1.0)
    assert start() == whole
    adapters = [folder / "adapter_model.safetensors" for folder in (adapter, tmp_path / "whole-adapter")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    assert not (out / "room.json").exists()
    other = train_adapter(examples, config, tmp_path / "out2", tmp_path / "adapter2")
    assert other.memory == "micro-batches of up to 64 tokens, gradient checkpointing off"
    assert (tmp_path / "adapter2" / adapters[0].name).read_bytes() != adapters[1].read_bytes(), (
        "the case must matter"
    )


def test_a_training_that_starts_over_or_has_other_settings_measures_anew(
    examples, settings, tmp_path, monkeypatch, stopped_at
):
    config, out, adapter = settings(**DROPOUT), tmp_path / "out", tmp_path / "adapter"

    def start(config=config):
        return train_adapter(examples, config, out, adapter)

    stopped_at(1, start)  # before the first checkpoint
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1.0)
    stopped_at(3, start)
    assert json.loads((out / "room.json").read_text())["room"]["tokens"] == 64
    result = start(settings(**{**DROPOUT, "train.micro_batch_size": 3}))
    assert result.memory == "micro-batches of up to 3 examples, gradient checkpointing off"


def test_what_the_room_became_is_kept(tmp_path, settings):
    cpu = torch.device("cpu")
    file = RoomFile(tmp_path / "room.json", settings(**OPEN).train, cpu)
    assert file.read() is None
    room = Room(None, 1000, False, may_checkpoint=True).smaller(5, 100).smaller(1, 300)
    file.write(room)
    assert RoomFile(file.path, settings(**{**OPEN, "train.epochs": 5}).train, cpu).read() == room
    assert RoomFile(file.path, settings().train, cpu).read() is None
    assert RoomFile(file.path, settings(**OPEN).train, torch.device("meta")).read() is None
    for torn in ("", "{", "[]", "{}", json.dumps({**json.loads(file.path.read_text()), "room": {"rows": 1}})):
        file.path.write_text(torn)
        assert file.read() is None


def test_a_training_killed_after_memory_ran_out_goes_on_in_the_smaller_micro_batches(
    examples, settings, tmp_path, monkeypatch, stopped_at
):
    config, out = settings(**{**DROPOUT, "train.micro_batch_size": 6}), tmp_path / "out"
    rows = []

    def scarce(model, batch, **options):
        rows.append(len(batch["input_ids"]))
        if rows[-1] > 3:
            raise RuntimeError("CUDA out of memory")
        return completion_loss(model, batch, **options)

    def start():
        return train_adapter(examples, config, out, tmp_path / "adapter")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "completion_loss", scarce)
        stopped_at(3, start)
        assert max(rows) > 3
        kept = Room(**json.loads((out / "room.json").read_text())["room"])
        rows.clear()
        result = start()
    assert max(rows) <= kept.rows <= 3
    assert kept.num_shortages > 0
    assert result.memory == str(kept), "nothing ran out again"


def test_a_measurement_that_does_not_fit_switches_checkpointing_on(
    undisturbed, examples, settings, tmp_path, monkeypatch
):
    calls = []

    def scarce(model, batch, **options):
        calls.append(len(batch["input_ids"]))
        if len(calls) == 1:
            raise MemoryError
        return completion_loss(model, batch, **options)

    monkeypatch.setattr(trainer, "completion_loss", scarce)
    result = train_adapter(examples, settings(**OPEN), tmp_path / "out", tmp_path / "adapter")
    assert result.memory == "micro-batches of up to 2048 tokens, gradient checkpointing on"
    equal(weights(tmp_path / "adapter"), weights(undisturbed[1]))


def test_checkpointing_can_be_asked_for_and_leaves_the_adapter_as_it_is(undisturbed, examples, settings, tmp_path):
    config = settings(**{**OPEN, "train.gradient_checkpointing": "true"})
    result = train_adapter(examples, config, tmp_path / "out", tmp_path / "adapter")
    assert "gradient checkpointing on" in result.memory
    equal(weights(tmp_path / "adapter"), weights(undisturbed[1]))


def test_what_is_too_large_in_every_way_is_one_line(examples, settings, tmp_path, monkeypatch):
    def never(model, batch, **options):
        raise RuntimeError("CUDA out of memory")

    config = settings(**{**OPEN, "train.micro_batch_size": 4, "train.gradient_checkpointing": "true"})
    monkeypatch.setattr(trainer, "completion_loss", never)
    with pytest.raises(ModelError, match=r"not enough memory to train on one example of \d+ tokens with"):
        train_adapter(examples, config, tmp_path / "out", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_memory_settings_may_change_before_a_training_goes_on(undisturbed, examples, settings):
    config = settings(**{**OPEN, "train.micro_batch_size": 1, "train.gradient_checkpointing": "true"})
    train_adapter(examples, config, *undisturbed)
