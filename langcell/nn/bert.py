"""Post-LayerNorm BERT blocks with fused projections and optional cross-attention."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from langcell.nn.config import StackConfig
from langcell.nn.packing import Packing

ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_new": lambda states: functional.gelu(states, approximate="tanh"),
    "relu": functional.relu,
}


@dataclass(frozen=True, kw_only=True)
class Attended:
    """States of another encoder (the sources) for cross-attention.

    Attributes
    ----------
    states
        Shape (n_sources, t, width).
    attention_mask
        Shape (n_sources, t), nonzero for real tokens; None if there is no padding.
    rows
        Shape (n,), the source of each of the n rows; None if the rows are grouped by source, with
        the same number of rows (at least one) per source. Keys and values are projected only once
        per source.
    keys_values
        Precomputed keys and values (`BertStack.project`) by cross-attention module, each
        (n_sources, t, h).
    """

    states: Tensor
    attention_mask: Tensor | None = None
    rows: Tensor | None = None
    keys_values: Mapping[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)


def key_mask(attention_mask: Tensor | None) -> Tensor | None:
    """Convert a (n, t) mask to the form for scaled dot-product attention: bool, (n, 1, 1, t)."""
    return None if attention_mask is None else attention_mask.bool()[:, None, None, :]


def masked_mean(states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Average states (n, t, h) over the real tokens of each row; return (n, h)."""
    if attention_mask is None:
        return states.mean(1)
    weights = attention_mask.to(states.dtype)[:, :, None]
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def init_weights(module: nn.Module) -> None:
    """Initialise weights as in BERT: normal(0, 0.02), biases zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class HasModes(Protocol):
    """A module with training and evaluation mode, such as `torch.nn.Module`."""

    training: bool

    def eval(self) -> Any:
        """Switch to evaluation mode."""

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode, or back."""


@contextmanager
def inference(module: HasModes) -> Iterator[None]:
    """Disable dropout and gradients inside the `with` block, and restore the mode afterwards."""
    was_training = module.training
    module.eval()
    try:
        # Not inference_mode: the outputs may be inputs of a few-shot head in training.
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


class Norm(nn.LayerNorm):
    """LayerNorm that returns half-precision states in half precision.

    Autocast would return float32, which doubles the memory traffic of every layer; mean and
    variance are computed in float32 in both cases.
    """

    def forward(self, states: Tensor) -> Tensor:
        """Normalise each position of `states` (..., h)."""
        with torch.autocast(states.device.type, enabled=False):
            weight, bias = self.weight.to(states.dtype), self.bias.to(states.dtype)
            return functional.layer_norm(states, self.normalized_shape, weight, bias, self.eps)


def autocast_states(states: Tensor) -> Tensor:
    """Cast states to the autocast dtype, if autocast is enabled."""
    device = states.device.type
    return (
        states.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else states
    )


class _Attention(nn.Module):
    """Base of self- and cross-attention: heads, output projection, residual, LayerNorm."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.attention_dropout = config.attention_dropout
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = Norm(config.hidden_size, eps=config.layer_norm_eps)
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

    def forward(self, states: Tensor, mask: Tensor | Packing | None, first_only: bool) -> Tensor:
        """Attend within `states` (n, t, h), or (n_tokens, h) if the mask is a `Packing`.

        With `first_only` return only position 0.
        """
        if isinstance(mask, Packing):
            heads = self.query_key_value(states).unflatten(-1, (3, self.n_heads, -1))
            return self._add(states, mask.attend(*heads.unbind(1)).flatten(1))
        if not first_only:
            query, key, value = self.query_key_value(states).chunk(3, dim=-1)
            return self._finish(states, query, key, value, mask)
        first, hidden = states[:, :1], states.shape[-1]
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        query = functional.linear(first, weight[:hidden], bias[:hidden])
        key, value = functional.linear(states, weight[hidden:], bias[hidden:]).chunk(2, dim=-1)
        return self._finish(first, query, key, value, mask)


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
        # The queries of one source form one sequence, so that keys and values are not copied per row.
        queries = states.reshape(len(key), -1, states.shape[-1])  # (n_sources, n_rows * t, h)
        return self._finish(queries, self.query(queries), key, value, mask).view_as(states)

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of states (n_sources, t, width), each (n_sources, t, h)."""
        key, value = self.key_value(states).chunk(2, dim=-1)
        return key, value


class FeedForward(nn.Module):
    """Two linear layers with an activation in between, then residual and LayerNorm."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm = Norm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, states: Tensor) -> Tensor:
        """Transform each position of `states` (n, t, h) independently."""
        inner = self.activation(self.intermediate(states))
        return self.norm(states + self.dropout(self.output(inner)))


class BertBlock(nn.Module):
    """Self-attention, optional cross-attention, and feed-forward."""

    def __init__(self, config: StackConfig, encoder_width: int = 0) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.cross_attention = CrossAttention(config, encoder_width) if encoder_width else None
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        states: Tensor,
        mask: Tensor | Packing | None,
        attended: Attended | None,
        first_only: bool,
    ) -> Tensor:
        """Return the states after this block; `mask` is bool, (n, 1, 1, t), or a `Packing`."""
        return self.after_attention(self.attention(states, mask, first_only), attended)

    def after_attention(self, states: Tensor, attended: Attended | None) -> Tensor:
        """Run the rest of the block on the output of its self-attention."""
        if attended is not None:
            assert self.cross_attention is not None, "block was built without cross-attention"
            states = self.cross_attention(states, attended)
        return self.feed_forward(states)


class BertStack(nn.Module):
    """A stack of BERT blocks.

    Parameters
    ----------
    config
        Sizes of the blocks.
    encoder_width
        Width of the states for cross-attention; 0: no cross-attention.

    Attributes
    ----------
    pack
        Let `packing` remove padding; the states of padding are then zeros.
    recompute
        Activation checkpointing in training: keep only the states between blocks, and recompute
        each block for the gradient (Chen et al. 2016, arXiv 1604.06174).
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
        attention_mask: Tensor | Packing | None = None,
        *,
        attended: Attended | None = None,
        first_only: bool = False,
        begun: bool = False,
    ) -> Tensor:
        """Run all blocks.

        Parameters
        ----------
        states
            Shape (n, t, h), or (n_tokens, h) of a packed batch.
        attention_mask
            Shape (n, t), nonzero for real tokens; None if there is no padding (faster); or the
            packing of the states, which cannot be combined with `attended` and `first_only`.
        attended
            States for cross-attention in every block.
        first_only
            Compute only position 0 in the last block: the same result, but cheaper.
        begun
            The states come from `begin`.

        Returns
        -------
        Tensor
            Shape (n, t, h), or (n, 1, h) with `first_only`, or (n_tokens, h) if packed.
        """
        states = autocast_states(states)
        mask = attention_mask if isinstance(attention_mask, Packing) else key_mask(attention_mask)
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
        """Run the first self-attention, which needs no attended states; continue with `begun`."""
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

    def packing(self, attention_mask: Tensor | None) -> Packing | None:
        """Return the packing of a batch (n, t), or None if it must stay padded."""
        # Packed attention has no dropout.
        drops = self.training and self._drops_attention
        if not self.pack or attention_mask is None or drops:
            return None
        return Packing.of(attention_mask)

    def _run(self, block: nn.Module, *given: Any) -> Tensor:
        if self.recompute and self.training:
            made: Tensor = checkpoint(block, *given, use_reentrant=False)
        else:
            made = block(*given)
        return made

    def compile_blocks(self) -> None:
        """Compile the blocks for training with torch.compile; the first step then takes 15 seconds."""
        for block in self.blocks:
            # Random numbers of dropout from eager kernels, which are faster than compiled ones.
            block.compile(dynamic=True, options={"fallback_random": True})


class BertEmbeddings(nn.Module):
    """Token plus learned position embeddings (including token type 0), LayerNorm, dropout."""

    def __init__(self, config: StackConfig, *, vocab_size: int, max_positions: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab_size, config.hidden_size)
        self.position = nn.Embedding(max_positions, config.hidden_size)
        self.norm = Norm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, packing: Packing | None = None) -> Tensor:
        """Embed token ids (n, t) as states (n, t, h), or as (n_tokens, h) with a packing."""
        width = input_ids.shape[1]
        if width > self.position.num_embeddings:
            raise ValueError(
                f"input_ids must have at most {self.position.num_embeddings} positions, got {width}"
            )
        if packing is None:
            return self._embed(input_ids, torch.arange(width, device=input_ids.device))
        return self._embed(packing.pack(input_ids), packing.columns)

    def _embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        states = autocast_states(self.token(input_ids) + self.position(positions))
        return self.dropout(self.norm(states))
