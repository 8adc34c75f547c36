"""The LM head as numbers: what turns a hidden state into logits, and a way to record those hidden states.

``logits = softcap(scale * (hidden @ weight.T + bias))`` with ``softcap(z) = cap * tanh(z / cap)`` where the model has a
cap (Gemma 2), and a scale where it has one (Cohere, Granite, Falcon-H1).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from balora.errors import ModelError


@dataclass(frozen=True)
class Head:
    """One LM head. ``weight`` and ``bias`` are the model's own tensors where the head is frozen and plain."""

    weight: Tensor  # (V, d)
    bias: Tensor | None = None  # (V,)
    softcap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., d) head inputs -> (..., V) logits in float32 (float64 stays float64)."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(dtype)
        logits = nn.functional.linear(hidden.to(dtype), self.weight.to(dtype), bias)  # (..., V)
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class HeadInputs:
    """What ``capture_head_inputs`` records: ``hidden`` is the head's latest input, (B, T, d), with its gradient."""

    def __init__(self) -> None:
        self._hidden: Tensor | None = None

    @property
    def hidden(self) -> Tensor:
        if self._hidden is None:
            raise ModelError("no head input was recorded: the model's forward did not reach its LM head")
        return self._hidden


def head_of(model: PreTrainedModel | PeftModel) -> Head:
    """The LM head as it stands now: of the student, or of the original model while its adapters are off.

    A head that is trained in full is read through its wrapper; one with a LoRA adapter gives its effective weight,
    with gradient to the adapter.

    Raises:
        ModelError: the model has no LM head, or a DoRA adapter on it.
    """
    module = _head_module(model)
    if isinstance(module, ModulesToSaveWrapper):
        off = module.disable_adapters or not module.active_adapters
        module = module.original_module if off else module.modules_to_save[module.active_adapters[0]]
    if isinstance(module, LoraLayer):
        weight, bias = _adapted_weight(module), getattr(module.get_base_layer(), "bias", None)
    else:
        weight, bias = module.weight, getattr(module, "bias", None)
    config = _plain(model).config.get_text_config(decoder=True)
    return Head(weight, bias, getattr(config, "final_logit_softcapping", None), _scale(config))


@contextmanager
def capture_head_inputs(model: PreTrainedModel | PeftModel) -> Iterator[HeadInputs]:
    """Record what enters the LM head during forwards inside the block.

    With ``logits_to_keep`` the recorded states are only those of the kept positions.
    """
    record = HeadInputs()

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record._hidden = args[0] if args else kwargs["input"]

    handle = _head_module(model).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield record
    finally:
        handle.remove()


def _plain(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _head_module(model: PreTrainedModel | PeftModel) -> Any:
    plain = _plain(model)
    module = plain.get_output_embeddings()
    if module is None:
        raise ModelError(f"{type(plain).__name__} has no LM head; a language model is needed here")
    return module


def _adapted_weight(layer: LoraLayer) -> Tensor:
    weight = layer.get_base_layer().weight  # (V, d)
    if layer.disable_adapters or layer.merged:
        return weight
    for name in layer.active_adapters:
        if name in layer.lora_variant:
            raise ModelError(
                "the LM head carries a DoRA adapter, which is no linear head; leave it out of the targets"
            )
        if name in layer.lora_A:
            delta = layer.lora_B[name].weight @ layer.lora_A[name].weight  # (V, r) @ (r, d)
            weight = weight + layer.scaling[name] * delta
    return weight


def _scale(config: Any) -> float:
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        return 1.0 / float(divisor)
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere, Falcon-H1
        if (factor := getattr(config, name, None)) is not None:
            return float(factor)
    return 1.0
