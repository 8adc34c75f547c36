"""SVD: concentrate the student's outputs in few directions.

Source: BA-LoRA (arXiv 2408.04556), SVD regularizer, against "overfitting to noise". With ``s_1 >= s_2 >= ...`` the
singular values of the logits ``Z`` of one micro-batch:

* NLU, ``Z`` (N, D), one row an example: ``- sum_{i<=k} s_i / sum_j s_j``; k = 5 (2026), 3 (2024). Range [-1, 0).
  With ``k >= min(N, D)`` this is the constant -1 without a gradient, so k is clamped to ``min(N, D) - 1``; one class
  is refused, and for one example (nothing to clamp to) the term does not exist and is left out.
* NLG, ``Z`` (N, V), one row a label token: ``- sum_{i<=k} s_i / ||Z||_F``; k = 10 (2026), 3 (2024).
  Range [-sqrt(k), 0).

Both are left out where all logits are 0, and do not change when the logits are multiplied by a positive number.

Computed from the Gram matrix of the smaller side, (N, N) or (V, V), with the gradient in closed form: a derivative
through an SVD divides by differences of singular values and is not finite where two are equal. With ``Z = U S W^T`` and
``f(s)`` the value, ``df/dZ = sum_j (df/ds_j) u_j w_j^T = U diag(f'_j / s_j) U^T Z``. Directions with ``s_j = 0`` take
the subgradient 0; where ``s_k = s_{k+1}`` the gradient is that of one of the equally good choices.

``estimator: randomized`` is the publication's own way for NLG, ``torch.svd_lowrank(q=k, niter=2)`` with the SVD's
derivative. Measured against the exact term on random matrices it is 7-9 % off in value and 135-160 % in gradient (the
norm of the difference over the norm of the exact gradient). It is there to repeat published runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable

from balora.errors import ConfigError
from balora.regularizers import (
    BatchRegularizer,
    BatchView,
    Form,
    RegularizerContext,
    RegularizerOptions,
    Version,
    regularizers,
)

Denominator = Literal["nuclear", "frobenius"]
BLOCK_BYTES = 64 * 2**20  # of the float64 copy of a block of logits while the Gram matrix is summed up


class SVDOptions(RegularizerOptions):
    """Options of the SVD regularizer."""

    k: int | None = Field(
        default=None,
        ge=1,
        description="number of leading singular values; default 5 (NLU 2026), 10 (NLG 2026), 3 (2024)",
    )
    estimator: Literal["exact", "randomized"] = Field(
        default="exact",
        description="'exact', or for NLG 'randomized': the publication's svd_lowrank, which is 7-9 % off in value and "
        "135-160 % off in gradient",
    )


@regularizers.register("svd")
class SVD(BatchRegularizer):
    """Minus the share of the leading singular values of a micro-batch's logits."""

    Options = SVDOptions
    options: SVDOptions

    def __init__(self, options: SVDOptions, context: RegularizerContext) -> None:
        super().__init__(options, context)
        if context.width < 2:
            raise ConfigError(
                f"svd: the model has {context.width} output class, so its logits have a single singular value and the "
                "term is always -1. Remove the regularizer ('svd: null') or train with at least 2 labels"
            )
        if options.estimator == "randomized" and context.form == "nlu":
            raise ConfigError(
                "svd.estimator: 'randomized' finds the leading singular values alone, and classification divides "
                "by the sum of all of them; use 'exact'"
            )
        self.k: int = options.k or self.defaults(context.form, options.version)["k"]

    @classmethod
    def defaults(cls, form: Form, version: Version) -> Mapping[str, Any]:
        """Published weight, schedule and number of singular values."""
        if version == 2024:
            return {"weight": 1e-4, "schedule": "constant", "k": 3}
        if form == "nlu":
            return {"weight": 0.03, "schedule": "constant", "k": 5}
        return {"weight": 0.005, "schedule": "two-phase", "k": 10}

    def batch(self, view: BatchView) -> Tensor | None:
        """(N, D) or (N, V) logits -> scalar; None for one NLU row, for no rows, and where all logits are 0."""
        logits = view.logits
        if self.context.form == "nlu":
            k = min(self.k, min(logits.shape) - 1)
            denominator: Denominator = "nuclear"
        else:
            k = min(self.k, *logits.shape)
            denominator = "frobenius"
        if k < 1 or not logits.detach().any():
            return None
        # Without this, autocast would multiply in half precision.
        with torch.autocast(logits.device.type, enabled=False):
            if self.options.estimator == "randomized" and torch.isfinite(logits.detach()).all():
                return -torch.svd_lowrank(logits, q=k, niter=2)[1].sum() / logits.norm()
            return -LeadingShare.apply(logits, k, denominator)


class LeadingShare(torch.autograd.Function):
    """``(Z (N, V), k, denominator) -> sum_{i<=k} s_i / (sum_j s_j or ||Z||_F)``, gradient in closed form.

    Logits that are NaN or infinite give NaN, value and gradient, so that the caller's own check can name the term.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, k: int, denominator: Denominator) -> Tensor:
        rows, width = logits.shape
        ctx.wide = rows <= width
        gram = gram_matrix(logits if ctx.wide else logits.T)  # (m, m) float64, m = min(N, V)
        if not torch.isfinite(gram).all():
            ctx.save_for_backward(logits, torch.full_like(gram, math.nan).to(logits))
            return logits.new_tensor(math.nan)
        eigenvalues, vectors = torch.linalg.eigh(gram)  # ascending: (m,), (m, m) in columns
        share, slopes = leading_share(eigenvalues.flip(0), k, denominator)
        vectors = vectors.flip(1)
        factor = (vectors * slopes) @ vectors.T  # (m, m): U diag(f'_j / s_j) U^T
        ctx.save_for_backward(logits, factor.to(logits))
        return share.to(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, factor = ctx.saved_tensors
        with torch.autocast(logits.device.type, enabled=False):
            gradient = factor @ logits if ctx.wide else logits @ factor  # (N, V)
        return grad * gradient, None, None


def gram_matrix(rows: Tensor) -> Tensor:
    """``rows (m, n) -> rows rows^T (m, m)`` in float64, without a float64 copy of ``rows``.

    In float32 the squares would lose the singular values below 1e-3 of the largest, and with them the directions of
    the gradient: logits have one dominant direction. On a device without float64 the sum is made on the CPU.
    """
    device = torch.device("cpu") if rows.device.type == "mps" else rows.device
    block = max(1, BLOCK_BYTES // (8 * rows.shape[0]))
    gram = torch.zeros(rows.shape[0], rows.shape[0], dtype=torch.float64, device=device)
    for part in rows.split(block, dim=1):
        part = part.to(device, torch.float64)  # (m, block)
        gram.addmm_(part, part.T)
    return gram


def leading_share(eigenvalues: Tensor, k: int, denominator: Denominator) -> tuple[Tensor, Tensor]:
    """The share ``f`` and its slopes ``(df/ds_j) / s_j`` from the Gram matrix's eigenvalues ``s_j^2``.

    Args:
        eigenvalues: (m,) float64 in descending order; below 0 only by rounding.
        k: number of leading singular values, at most m.
        denominator: ``nuclear`` (sum of all singular values) or ``frobenius`` (root of the sum of their squares).

    Returns:
        f, a scalar, and (m,) slopes, 0 for directions with no more than rounding in them.
    """
    values = eigenvalues.clamp(min=0).sqrt()  # (m,)
    top = values[:k].sum()
    leading = torch.zeros_like(values)
    leading[:k] = 1
    if denominator == "nuclear":
        # f = S / T: df/ds_j = [j <= k] / T - S / T^2, since every s_j is part of T
        total = values.sum()
        slopes = (leading / total - top / total**2) / values
    else:
        # f = S / F with F^2 = sum s_j^2: df/ds_j = [j <= k] / F - S s_j / F^3
        total = values.square().sum().sqrt()
        slopes = leading / (total * values) - top / total**3
    rounding = eigenvalues[0] * len(values) * torch.finfo(eigenvalues.dtype).eps
    return top / total, slopes.masked_fill(eigenvalues <= rounding, 0.0)
