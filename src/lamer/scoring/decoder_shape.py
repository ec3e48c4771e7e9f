"""Which decoder layers have the Llama shape: transformers' own, of the families named here, on a CPU.

They have these parts and no others, and no adapter has changed them and no hook watches them.
"""

from __future__ import annotations

from typing import Any

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma")
_PACKAGES = {f"transformers.models.{family}" for family in FAMILIES}
_ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


def decoder_layers(model: Any) -> list[Any]:
    """The model's decoder layers, if all have this shape; else none."""
    import torch

    lists = [part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part)]
    layers = [layer for part in lists for layer in part if hasattr(layer, "self_attn")]
    return layers if all(map(has_shape, layers)) else []


def has_shape(layer: Any) -> bool:
    """Whether a layer has these parts and no others, none of them changed by an adapter or a hook."""
    parts = dict(layer.named_children())
    if set(parts) != _PARTS or type(layer).__module__.rpartition(".")[0] not in _PACKAGES:
        return False
    attention, mlp = dict(parts["self_attn"].named_children()), dict(parts["mlp"].named_children())
    if set(attention) - _HEAD_NORMS != _ATTENTION_PARTS or set(mlp) != _MLP_PARTS:
        return False
    linears = [part for name, part in (attention | mlp).items() if name.endswith("_proj")]
    norms = [parts["input_layernorm"], parts["post_attention_layernorm"]]
    norms += [part for name, part in attention.items() if name in _HEAD_NORMS]
    return (
        all(map(is_linear, linears))
        and all(_is_plain(getattr(norm, "weight", None)) for norm in norms)
        and len({part.weight.dtype for part in (*linears, *norms)}) == 1
        and not any(_is_changed(part) for part in layer.modules())
    )


def is_linear(part: Any) -> bool:
    import torch

    return type(part) is torch.nn.Linear and _is_plain(part.weight) and not _is_changed(part)


def _is_plain(weight: Any) -> bool:
    import torch

    return (
        isinstance(weight, torch.Tensor)
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and weight.is_contiguous()
    )


def _is_changed(part: Any) -> bool:
    """Whether something watches or replaces what the part computes."""
    return bool(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part))


def made_up(layer: Any) -> tuple[Any, dict[str, Any]]:
    """Two rows of five tokens: hidden states, small beside what a layer adds to them, and its other arguments."""
    import torch

    draw = torch.Generator().manual_seed(0)
    weight = layer.self_attn.q_proj.weight
    hidden = 0.01 * torch.randn(2, 5, weight.shape[1], generator=draw)
    angles = 3 * torch.rand(2, 5, layer.self_attn.head_dim // 2, generator=draw)
    angles = torch.cat([angles, angles], dim=-1)
    mask = torch.ones(5, 5, dtype=torch.bool).tril().expand(2, 1, 5, 5)
    turns = (angles.cos().to(weight.dtype), angles.sin().to(weight.dtype))
    return hidden.to(weight.dtype), {"attention_mask": mask, "position_embeddings": turns}


def own_output(layer: Any, hidden: Any, options: dict[str, Any]) -> Any:
    """What the model's own code gives, with the mask in the form that its attention takes."""
    import torch

    mask = options["attention_mask"]
    if layer.self_attn.config._attn_implementation == "eager":
        mask = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill_(~mask, torch.finfo(hidden.dtype).min)
    with torch.inference_mode():
        return layer(hidden, **options | {"attention_mask": mask})
