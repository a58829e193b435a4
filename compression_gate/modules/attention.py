"""Attention whose heads need not fill its width: what is left when whole heads are removed."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class TakesPart:
    """Stands where torch's encoder looks for a fused weight; by torch's own protocol it then runs layer by layer."""

    requires_grad = False

    @classmethod
    def __torch_function__(cls, *arguments: Any, **more: Any) -> Any:
        return NotImplemented


class HeadAttention(nn.Module):
    """Multi-head attention of ``num_heads`` heads of ``head_dim`` each, called as ``nn.MultiheadAttention`` is.

    There ``num_heads × head_dim`` must equal ``embed_dim``; here it need not. The projections are linear layers, so
    that other methods find them.

    Args:
        embed_dim: width of the query and of the output; keys and values may be of other widths.
        num_heads, head_dim: of the heads that are left.
        bias: whether the four projections add one.
        dropout: of the attention weights while training.
        batch_first: whether tensors are ``(N, L, E)`` rather than ``(L, N, E)``.

    Source: A. Vaswani et al., Attention Is All You Need, 2017, §3.2.
    """

    # What torch's encoder layers look at before they take their fused path, which needs one matrix for all projections.
    in_proj_weight: ClassVar[TakesPart] = TakesPart()
    in_proj_bias: ClassVar[None] = None
    _qkv_same_embed_dim: ClassVar[bool] = False

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        bias: bool = True,
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, head_dim
        self.dropout, self.batch_first = dropout, batch_first
        self.q_proj = nn.Linear(embed_dim, inner, bias=bias)
        self.k_proj = nn.Linear(embed_dim, inner, bias=bias)
        self.v_proj = nn.Linear(embed_dim, inner, bias=bias)
        self.out_proj = nn.Linear(inner, embed_dim, bias=bias)

    def constructor_arguments(self) -> dict[str, Any]:
        """Return what builds a layer of this shape."""
        return {
            "embed_dim": self.embed_dim,
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "bias": self.out_proj.bias is not None,
            "dropout": float(self.dropout),
            "batch_first": self.batch_first,
        }

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # a hint about attn_mask, which is applied as it is
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output, in the query's form, and the attention weights ``(N, L, S)`` where they are wanted."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = (part.unsqueeze(0) for part in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        mask = self.joined_mask(attn_mask, key_padding_mask, query)
        context, weights = self.attended(
            self.q_proj(query), self.k_proj(key), self.v_proj(value), mask, need_weights=need_weights
        )
        output = self.out_proj(context)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def attended(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the heads' outputs side by side ``(N, L, H·D)`` and, where wanted, their weights ``(N, H, L, S)``."""
        heads = (self.num_heads, self.head_dim)
        query, key, value = (part.unflatten(-1, heads).transpose(1, 2) for part in (query, key, value))
        rate = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            logits = query @ key.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = functional.dropout((logits if mask is None else logits + mask).softmax(-1), rate)
            context = weights @ value
        else:
            context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        return context.transpose(1, 2).flatten(2), weights

    def joined_mask(self, mask: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """Return what is added to the logits ``(N, H, L, S)``: minus infinity where a mask forbids.

        Args:
            mask: ``(L, S)`` or ``(N·H, L, S)``; True or minus infinity forbids.
            padding: ``(N, S)``, likewise.
        """
        total = None
        if mask is not None:
            total = added(mask, like)
            total = total.unflatten(0, (-1, self.num_heads)) if total.dim() == 3 else total
        if padding is not None:
            keys = added(padding, like)[:, None, None, :]
            total = keys if total is None else total + keys
        return total


def added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as numbers to add."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


LAYER_TYPES: dict[str, type[nn.Module]] = {"HeadAttention": HeadAttention}
