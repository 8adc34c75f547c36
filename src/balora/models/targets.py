"""Which matrices of a model get an adapter, and whether a rank fits them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from balora.errors import ConfigError, ModelError

ALL_LINEAR = "all-linear"
_ADAPTABLE = (nn.Linear, Conv1D, nn.Embedding)


def find_targets(
    model: PreTrainedModel, targets: str | Sequence[str], skip: Iterable[str] = ()
) -> dict[str, nn.Module]:
    """The modules to adapt, by full name.

    Args:
        model: the model without adapters.
        targets: ``all-linear`` (every linear layer but the LM head), a regular expression over full names, or a list of
            full names and name endings.
        skip: modules that train in full; they and what is inside them are left out.

    Raises:
        ModelError: nothing matches, or an entry of a list matches nothing; lists the names that exist.
        ConfigError: the regular expression is not one.
    """
    skipped = tuple(skip)
    head = model.get_output_embeddings()
    modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _ADAPTABLE)
        and not any(_ends(name, s) or f".{name}".find(f".{s}.") >= 0 for s in skipped)
    }
    if targets == ALL_LINEAR:
        found = {n: m for n, m in modules.items() if m is not head and not isinstance(m, nn.Embedding)}
    elif isinstance(targets, str):
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise ConfigError(f"target_modules: {targets!r} is not a regular expression: {error}") from None
        found = {n: m for n, m in modules.items() if pattern.fullmatch(n)}
    else:
        for entry in targets:
            if not any(_ends(name, entry) for name in modules):
                raise _no_match(entry, modules)
        found = {n: m for n, m in modules.items() if any(_ends(n, entry) for entry in targets)}
    if not found:
        raise _no_match(targets, modules)
    return found


def check_rank(targets: dict[str, nn.Module], rank: int) -> None:
    """Raise ``ConfigError`` where a matrix has no ``rank`` independent directions."""
    name, largest = min(((n, min(matrix_shape(m))) for n, m in targets.items()), key=lambda item: item[1])
    if rank > largest:
        out_features, in_features = matrix_shape(targets[name])
        raise ConfigError(
            f"rank: {rank} is larger than the matrix {name!r} ({out_features} x {in_features}) allows; "
            f"the largest rank for these target_modules is {largest}"
        )


def matrix_shape(module: nn.Module) -> tuple[int, int]:
    """(out, in) of a layer's matrix, however it is stored (transposed, quantised)."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, nn.Embedding):
        return module.embedding_dim, module.num_embeddings
    return int(module.nf), int(module.nx)  # type: ignore[arg-type]  # Conv1D, which has no annotations


def peft_names(model: nn.Module, targets: Iterable[str]) -> list[str]:
    """``target_modules`` for PEFT: short endings where they match just these modules, else full names."""
    wanted = set(targets)
    endings = {name.rsplit(".", 1)[-1] for name in wanted}
    matched = {name for name, _ in model.named_modules() if any(_ends(name, ending) for ending in endings)}
    return sorted(endings if matched == wanted else wanted)


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _no_match(targets: str | Sequence[str], modules: Iterable[str]) -> ModelError:
    names = sorted({name.rsplit(".", 1)[-1] for name in modules})
    return ModelError(
        f"target_modules: {targets!r} matches no layer of this model "
        f"(layers that can be adapted: {', '.join(names)}; or {ALL_LINEAR!r}, or a regular expression over full names)"
    )
