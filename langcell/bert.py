"""Post-LayerNorm BERT blocks with fused projections and optional cross-attention."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from langcell.config import StackConfig
from langcell.packing import Packing

ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_new": lambda states: functional.gelu(states, approximate="tanh"),
    "relu": functional.relu,
}


@dataclass(frozen=True, kw_only=True)
class Attended:
    """States of another encoder that cross-attention reads.

    Attributes
    ----------
    states
        Shape (n_sources, t, width).
    attention_mask
        Shape (n_sources, t), nonzero where a token is real; None where all are.
    rows
        Shape (n,), the source that each of the n rows reads; None where equally many rows follow
        each other for each source, one at least.
        Keys and values are projected once a source, however many rows read it.
    keys_values
        By the cross-attention that reads them, each (n_sources, t, h), where they have been
        projected ahead (`BertStack.project`).
    """

    states: Tensor
    attention_mask: Tensor | None = None
    rows: Tensor | None = None
    keys_values: Mapping[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)


def key_mask(attention_mask: Tensor | None) -> Tensor | None:
    """Shape a (n, t) mask as scaled dot-product attention reads it: bool, (n, 1, 1, t)."""
    return None if attention_mask is None else attention_mask.bool()[:, None, None, :]


def masked_mean(states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Average states (n, t, h) over the real tokens of each row, to (n, h)."""
    if attention_mask is None:
        return states.mean(1)
    weights = attention_mask.to(states.dtype)[:, :, None]
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def init_weights(module: nn.Module) -> None:
    """Initialise as BERT does: normal(0, 0.02), biases zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@contextmanager
def inference(module: nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off within a block, and back to what they were after."""
    was_training = module.training
    module.eval()
    try:
        # Not inference_mode: what comes out may enter a few-shot head that does learn.
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


class _Attention(nn.Module):
    """What self- and cross-attention share: heads, output projection, residual, LayerNorm."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.attention_dropout = config.attention_dropout
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (n, heads, t, h / heads)

    def _finish(
        self, residual: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        attended = functional.scaled_dot_product_attention(
            self._heads(query),
            self._heads(key),
            self._heads(value),
            attn_mask=mask,
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        return self._add(residual, attended.transpose(1, 2).flatten(2))  # (n, t, h)

    def _add(self, residual: Tensor, attended: Tensor) -> Tensor:
        return self.norm(residual + self.dropout(self.output(attended)))


class SelfAttention(_Attention):
    """Multi-head self-attention with one matrix for query, key and value."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__(config)
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, states: Tensor, mask: Tensor | None, first_only: bool) -> Tensor:
        """Attend within `states` (n, t, h); with `first_only` return position 0 alone."""
        if not first_only:
            query, key, value = self.query_key_value(states).chunk(3, dim=-1)
            return self._finish(states, query, key, value, mask)
        first, hidden = states[:, :1], states.shape[-1]
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        query = functional.linear(first, weight[:hidden], bias[:hidden])
        key, value = functional.linear(states, weight[hidden:], bias[hidden:]).chunk(2, dim=-1)
        return self._finish(first, query, key, value, mask)

    def packed(self, states: Tensor, packing: Packing) -> Tensor:
        """Attend within each row of a packed batch (n_tokens, h)."""
        heads = self.query_key_value(states).unflatten(-1, (3, self.n_heads, -1))
        return self._add(states, packing.attend(*heads.unbind(1)).flatten(1))


class CrossAttention(_Attention):
    """Multi-head attention from text states to states of another width."""

    def __init__(self, config: StackConfig, encoder_width: int) -> None:
        super().__init__(config)
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key_value = nn.Linear(encoder_width, 2 * config.hidden_size)

    def forward(self, states: Tensor, attended: Attended) -> Tensor:
        """Attend from `states` (n, t, h) to the sources of `attended`."""
        key, value = attended.keys_values.get(self) or self.project(attended.states)
        mask = key_mask(attended.attention_mask)
        if attended.rows is not None:
            key, value = key[attended.rows], value[attended.rows]
            mask = None if mask is None else mask[attended.rows]
        # Rows of one source ask side by side, so that nothing is copied for each of them.
        queries = states.reshape(len(key), -1, states.shape[-1])  # (n_sources, n_rows * t, h)
        return self._finish(queries, self.query(queries), key, value, mask).view_as(states)

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of states (n_sources, t, width), each (n_sources, t, h)."""
        key, value = self.key_value(states).chunk(2, dim=-1)
        return key, value


class FeedForward(nn.Module):
    """Two linear layers with an activation between, residual and LayerNorm after."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, states: Tensor) -> Tensor:
        """Transform each position of `states` (n, t, h) by itself."""
        inner = self.activation(self.intermediate(states))
        return self.norm(states + self.dropout(self.output(inner)))


class BertBlock(nn.Module):
    """Self-attention, cross-attention where the block has it and is given states, feed-forward."""

    def __init__(self, config: StackConfig, encoder_width: int = 0) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.cross_attention = CrossAttention(config, encoder_width) if encoder_width else None
        self.feed_forward = FeedForward(config)

    def forward(
        self, states: Tensor, mask: Tensor | None, attended: Attended | None, first_only: bool
    ) -> Tensor:
        """Return the next layer's states; `mask` is (n, 1, 1, t) bool."""
        return self.after_attention(self.attention(states, mask, first_only), attended)

    def after_attention(self, states: Tensor, attended: Attended | None) -> Tensor:
        """Return the next layer's states from those that self-attention has left."""
        if attended is not None:
            assert self.cross_attention is not None, "block was built without cross-attention"
            states = self.cross_attention(states, attended)
        return self.feed_forward(states)

    def packed(self, states: Tensor, packing: Packing) -> Tensor:
        """Return the next layer's states of a packed batch (n_tokens, h)."""
        return self.feed_forward(self.attention.packed(states, packing))


class BertStack(nn.Module):
    """A stack of BERT blocks.

    Parameters
    ----------
    config
        Sizes.
    encoder_width
        Width of the states that cross-attention reads; 0 builds no cross-attention.

    Attributes
    ----------
    pack
        Spend nothing on padding, whose states come out as zeros.
    recompute
        In training, keep the states between blocks alone and compute the rest of each block again
        for the gradient (Chen et al. 2016, arXiv 1604.06174).
    """

    def __init__(self, config: StackConfig, *, encoder_width: int = 0) -> None:
        super().__init__()
        self.pack = self.recompute = False
        self._drops_attention = config.attention_dropout > 0
        self.blocks = nn.ModuleList(
            BertBlock(config, encoder_width) for _ in range(config.n_layers)
        )

    def forward(
        self,
        states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        attended: Attended | None = None,
        first_only: bool = False,
        begun: bool = False,
    ) -> Tensor:
        """Run all blocks.

        Parameters
        ----------
        states
            Shape (n, t, h).
        attention_mask
            Shape (n, t), nonzero where a token is real; None where all are (the fast path).
        attended
            Given, every block also attends to these states.
        first_only
            Compute only position 0 in the last block, exact and cheaper.
        begun
            The states are from `begin`.

        Returns
        -------
        Tensor
            Shape (n, t, h), or (n, 1, h) with `first_only`.
        """
        # Packed rows have no dropout of attention.
        drops = self.training and self._drops_attention
        may_pack = not (attended or first_only or begun or drops)
        if self.pack and attention_mask is not None and may_pack:
            return self._packed(states, Packing.of(attention_mask))
        mask = key_mask(attention_mask)
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            first = first_only and layer == last
            if begun and layer == 0:
                assert isinstance(block, BertBlock)
                states = block.after_attention(states[:, :1] if first else states, attended)
            else:
                states = self._run(block, states, mask, attended, first)
        return states

    def begin(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Run what no attended state changes, the first self-attention; to go on with `begun`."""
        block = self.blocks[0]
        assert isinstance(block, BertBlock)
        return block.attention(states, key_mask(attention_mask), False)

    def project(self, states: Tensor) -> dict[nn.Module, tuple[Tensor, Tensor]]:
        """Return `Attended.keys_values` of states (n_sources, t, width) for all blocks."""
        found: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        for block in self.blocks:
            assert isinstance(block, BertBlock) and block.cross_attention is not None
            found[block.cross_attention] = block.cross_attention.project(states)
        return found

    def _packed(self, states: Tensor, packing: Packing) -> Tensor:
        """Run all blocks without padding, where nothing but states within a row meets."""
        packed = packing.pack(states)
        for block in self.blocks:
            assert isinstance(block, BertBlock)
            packed = self._run(block.packed, packed, packing)
        return packing.pad(packed)

    def _run(self, block: Callable[..., Tensor], *given: Any) -> Tensor:
        if self.recompute and self.training:
            made: Tensor = checkpoint(block, *given, use_reentrant=False)
            return made
        return block(*given)


class BertEmbeddings(nn.Module):
    """Token plus learned position embeddings, LayerNorm, dropout; token type 0 is folded in."""

    def __init__(self, config: StackConfig, *, vocab_size: int, max_positions: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab_size, config.hidden_size)
        self.position = nn.Embedding(max_positions, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed token ids (n, t) as states (n, t, h)."""
        width = input_ids.shape[1]
        if width > self.position.num_embeddings:
            raise ValueError(
                f"input_ids must have at most {self.position.num_embeddings} positions, got {width}"
            )
        positions = torch.arange(width, device=input_ids.device)
        return self.dropout(self.norm(self.token(input_ids) + self.position(positions)))
