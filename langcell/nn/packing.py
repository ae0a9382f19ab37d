"""Pack sequences of different lengths without padding, to save computation."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from langcell.nn.flash_attention import RowAttention, find_row_attention

_HALF = (torch.float16, torch.bfloat16)  # dtypes of variable-length attention


@dataclass(frozen=True, kw_only=True, eq=False)
class Packing:
    """Positions of the real tokens of a padded batch, for packing them without padding.

    Attributes
    ----------
    rows, columns
        Row and column of each real token in the padded batch, shape (n_tokens,), row by row.
    starts
        Start of each row among the tokens, then n_tokens, int32, shape (n_rows + 1,).
    mask
        True for real tokens of the padded batch, shape (n_rows, width).
    flash
        Variable-length attention in half precision; None if the device has none.
    """

    rows: Tensor
    columns: Tensor
    starts: Tensor
    mask: Tensor
    flash: RowAttention | None = None

    @classmethod
    def of(cls, attention_mask: Tensor) -> "Packing":
        """Return the packing for a mask (n_rows, width), nonzero for real tokens.

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
        """Return tokens (n_tokens, ...) as a padded batch (n_rows, width, ...), padded with zeros."""
        padded = packed.new_zeros((*self.mask.shape, *packed.shape[1:]))
        return padded.index_put((self.rows, self.columns), packed)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend within each row; query, key and value are (n_tokens, n_heads, head size).

        Uses variable-length FlashAttention in half precision on CUDA, otherwise padded attention,
        with the same result.
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
