"""Options of the decoders."""

from dataclasses import dataclass
from typing import Literal

from langcell.runtime.parameter_names import option

AUTO = "auto"  # cluster key: cluster the embeddings by k-means
STRENGTH = 3.0  # chosen on the validation studies
WORTH = 0.1

Pooling = Literal["mean", "log"]


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How to decode; nothing is done by default.

    Raises
    ------
    ValueError
        If a number is out of range, or labels are to be assigned to clusters that are made.
    """

    smooth: float | None = None  # lambda of graph smoothing
    cluster_key: str | None = None  # column of obs, or "auto": clusters are made of the features
    pooling: Pooling = "mean"  # of the scores of a cluster; see `cluster_consensus`
    assign_within: str | None = None  # column of obs: labels are unique within each of its values
    worth: float | None = WORTH  # of a label, below which none is assigned; see `assign_labels`
    key_added: str = "langcell"  # what the names of all results begin with
    seed: int = 0  # of the clusters that are made

    def __post_init__(self) -> None:
        if self.smooth is not None and not 0 <= self.smooth < float("inf"):
            raise ValueError(f"{option('smooth')} must not be negative, got {self.smooth}")
        if self.pooling not in ("mean", "log"):
            raise ValueError(f"{option('pooling')} must be 'mean' or 'log', got {self.pooling!r}")
        if self.worth is not None and not 0 < self.worth <= 1:
            raise ValueError(f"{option('worth')} must be above 0 and at most 1, got {self.worth}")
        if self.assign_within is not None and self.cluster_key == AUTO:
            raise ValueError(
                f"{option('assign_within', self.assign_within)} gives each label to one cluster, and "
                f"{option('cluster_key', AUTO)} makes many clusters of each type; name a column with "
                "one cluster per type"
            )

    @property
    def decoders(self) -> tuple[str, ...]:
        """Names of the decoders to run, in order."""
        wanted = {
            "smooth": self.smooth,
            "cluster": self.cluster_key,
            "assigned": self.assign_within,
        }
        return tuple(name for name, value in wanted.items() if value is not None)

    @property
    def columns_read(self) -> tuple[str, ...]:
        """Obs columns that the decoders need."""
        keys = (self.cluster_key, self.assign_within)
        return tuple(key for key in keys if key is not None and key != AUTO)


def read_strength(given: str) -> float:
    """Parse the value of `--smooth`.

    >>> read_strength("0.5"), read_strength("auto")
    (0.5, 3.0)

    Raises
    ------
    ValueError
        If it is neither a number nor "auto".
    """
    if given == AUTO:
        return STRENGTH
    try:
        return float(given)
    except ValueError as error:
        raise ValueError(
            f"{option('smooth')} must be a number or {AUTO!r}, got {given!r}"
        ) from error
