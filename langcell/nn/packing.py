"""Sequences of several lengths end to end, so that no arithmetic is spent on padding."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from langcell.nn.flash_attention import RowAttention, find_row_attention

_HALF = (torch.float16, torch.bfloat16)  # what variable-length attention computes in


@dataclass(frozen=True, kw_only=True, eq=False)
class Packing:
    """Where the tokens of a padded batch stand when they stand end to end.

    Attributes
    ----------
    rows, columns
        Of each real token in the padded batch, shape (n_tokens,), row after row.
    starts
        Where each row begins among the tokens, and their number, int32, shape (n_rows + 1,).
    mask
        True where the padded batch has a token, shape (n_rows, width).
    flash
        Attention in half precision; None where the device has none.
    """

    rows: Tensor
    columns: Tensor
    starts: Tensor
    mask: Tensor
    flash: RowAttention | None = None

    @classmethod
    def of(cls, attention_mask: Tensor) -> "Packing":
        """Return the packing of a mask (n_rows, width), nonzero where a token is real.

        Examples
        --------
        >>> packing = Packing.of(torch.tensor([[1, 1, 0], [1, 0, 0]]))
        >>> packing.starts.tolist(), packing.columns.tolist()
        ([0, 2, 3], [0, 1, 0])
        """
        mask = attention_mask.bool()
        rows, columns = mask.nonzero(as_tuple=True)
        starts = functional.pad(mask.sum(dim=1).cumsum(0), (1, 0)).to(torch.int32)
        return cls(
            rows=rows,
            columns=columns,
            starts=starts,
            mask=mask,
            flash=find_row_attention(mask.device),
        )

    def pack(self, padded: Tensor) -> Tensor:
        """Return the tokens (n_tokens, ...) of a padded batch (n_rows, width, ...)."""
        return padded[self.rows, self.columns]

    def pad(self, packed: Tensor) -> Tensor:
        """Return tokens (n_tokens, ...) as a padded batch (n_rows, width, ...), zero elsewhere."""
        padded = packed.new_zeros((*self.mask.shape, *packed.shape[1:]))
        return padded.index_put((self.rows, self.columns), packed)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend within each row; all (n_tokens, n_heads, head size).

        In half precision on CUDA by variable-length FlashAttention, elsewhere with padding, for the
        attention alone: the numbers are the same.
        """
        if self.flash is not None and query.dtype in _HALF:
            return self.flash(query, key, value, self.starts, self.mask.shape[1])
        attended = functional.scaled_dot_product_attention(
            self.pad(query).transpose(1, 2),
            self.pad(key).transpose(1, 2),
            self.pad(value).transpose(1, 2),
            attn_mask=self.mask[:, None, None, :],
        )
        return self.pack(attended.transpose(1, 2))
