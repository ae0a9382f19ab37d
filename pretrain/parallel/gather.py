"""Gather features over the processes of a run, with gradients flowing back to each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes that train together; a single process is a world of size 1.

    Attributes
    ----------
    rank
        Rank of this process.
    size
        Number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "World":
        """Return the world of this process."""
        if not distributed.is_available() or not distributed.is_initialized():
            return cls()
        return cls(rank=distributed.get_rank(), size=distributed.get_world_size())

    def share(self, n: int) -> slice:
        """Return the slice of n items of this process; slices differ by at most one item.

        >>> [World(rank=rank, size=3).share(8) for rank in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
        """
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def gather(self, values: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """Return the rows of all processes, in the order of their ranks.

        The gradient of each row is summed over all processes.

        Parameters
        ----------
        values
            Rows of this process, shape (n_rows, ...).
        sizes
            Number of rows of each process, by rank; None: the same for all.
        """
        if self.size == 1:
            return values
        sizes = [len(values)] * self.size if sizes is None else sizes
        gathered: Tensor = _Gather.apply(values, self.rank, sizes)
        return gathered

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over processes; no gradient."""
        if self.size == 1:
            return value
        summed = value.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over processes; no gradient."""
        return self.total(value) / self.size

    def weight(self, n: int, n_all: int) -> float:
        """Return the factor that turns the average over processes of means into the overall mean.

        >>> [World(rank=rank, size=2).weight(n, 8) for rank, n in enumerate((6, 2))]
        [1.5, 0.5]
        """
        return n * self.size / max(1, n_all)

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        if self.size == 1:
            return flag
        found = torch.tensor(float(flag))
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        return bool(self.total(found.to(device)) > 0)

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the objects of all processes, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found


class _Gather(torch.autograd.Function):
    """All-gather whose gradient is the sum over processes (reduce-scatter)."""

    @staticmethod
    def forward(context: Any, values: Tensor, rank: int, sizes: Sequence[int]) -> Tensor:
        first = sum(sizes[:rank])
        context.own = slice(first, first + sizes[rank])
        # Backends need the same number of rows per process: pad to the most, then drop the padding.
        padded = values.new_zeros((max(sizes), *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # Gloo has no reduce-scatter; features of a batch are small compared to the activations.
        summed = gradients[0].contiguous().clone()
        distributed.all_reduce(summed)
        return summed[context.own], None, None
