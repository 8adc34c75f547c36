"""Tiny models on disk, students of every method, and a few training steps: what the tests of adapters share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from balora.methods import Adapted, MethodContext, methods
from balora.models.loading import quiet
from tiny import Task, tiny_batch, tiny_model, tiny_tokenizer

NO_DROPOUT = dict.fromkeys(
    (
        "attention_dropout",
        "attention_probs_dropout_prob",
        "attn_pdrop",
        "classifier_dropout",
        "dropout",
        "dropout_rate",
        "embd_pdrop",
        "hidden_dropout_prob",
        "resid_pdrop",
    ),
    0.0,
)


def save_tiny(folder: Path, arch: str, task: Task, seed: int = 0, **config: Any) -> Path:
    """A tiny model with its tokenizer in a folder, as a user would have it."""
    with quiet():
        tiny_model(arch, task, seed, **config).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return folder


def prepare(
    method: str, model: Any, work_dir: Path, *, rank: int | None = 4, seed: int = 0, **options: Any
) -> Adapted:
    """``model`` adapted by a method, calibrated (where it asks for that) on the model's own tiny batch."""
    cls = methods.get(method)
    nlu = model.get_output_embeddings() is None
    task: Task = "classifier" if nlu else "seq2seq" if model.config.is_encoder_decoder else "causal"
    context = MethodContext(
        form="nlu" if nlu else "nlg",
        rank=rank if cls.has_rank else None,
        seed=seed,
        calibration=lambda: [tiny_batch(model, task)],
        work_dir=work_dir,
    )
    return cls(cls.Options.model_validate(options)).prepare(model, context)


def distilled_loss(output: Any, teacher_logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Cross entropy plus KL(teacher || student), mean over examples or label tokens."""
    student, teacher = output.logits, teacher_logits
    if student.dim() == 3:
        keep = batch["labels"] != -100
        student, teacher = student[keep], teacher[keep]
    return output.loss + kl_div(
        log_softmax(student, -1), log_softmax(teacher, -1), log_target=True, reduction="batchmean"
    )


def optimizer_of(model: torch.nn.Module, lr: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)


def train_steps(model: Any, batch: Mapping[str, Tensor], steps: int = 3) -> None:
    """A few plain steps, so that the student is no longer the original model; leaves it in eval mode."""
    optimizer = optimizer_of(model)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval()


def logits_of(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits
