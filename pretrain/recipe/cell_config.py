"""Recipe sections about cells: where they are, how they are sampled and augmented."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scale = Literal["counts", "linear", "log1p", "log2", "ranks"]


class Section(BaseModel):
    """Base of all recipe sections: immutable, rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Columns(Section):
    """Names of the obs columns; only `term_id` is required."""

    term_id: str = "cell_type_ontology_term_id"
    study: str = "study"
    tissue: str = "tissue_ontology_term_id"
    disease: str = "disease_ontology_term_id"
    stage: str = "stage"


class Source(Section):
    """Files of one kind and one scale; the scale is declared, never guessed."""

    files: tuple[str, ...] = Field(min_length=1)  # paths or globs relative to corpus_root
    kind: Literal["cells", "profiles"] = "cells"  # a profile is the mean or sum of a cell type
    scale: Scale = "counts"


class Shards(Section):
    """A corpus of ranked tokens (`langcell corpus build`), instead of `sources`."""

    folder: str = ""  # relative to where the command is started
    verify: bool = True  # verify the checksum of every shard before the first step
    block_cells: int = Field(default=64, ge=1)  # read contiguously
    pool_cells: int = Field(default=16384, ge=1)  # shuffled together in memory
    bucket_cells: int = Field(default=2048, ge=0)  # sorted by length before batching; 0: off
    max_tokens: int = Field(
        default=0, ge=0
    )  # per batch over all processes, with padding; 0: no limit
    max_repeats: int = Field(default=8, ge=1)  # of a cell per epoch, however rare its type
    workers: int = Field(default=0, ge=0)  # DataLoader workers; 0: none


class ValidationFile(Section):
    """One labelled file; files of the same study are averaged first."""

    path: str
    study: str
    scale: Scale = "counts"


class Validation(Section):
    """Labelled studies that select the best checkpoint."""

    files: tuple[ValidationFile, ...] = ()
    every: int = Field(default=500, ge=1)  # steps
    max_cells: int = Field(default=1000, ge=1)  # per file, evenly spaced
    min_cells: int = Field(default=10, ge=1)  # that a class needs to count in macro-F1
    batch_size: int = Field(default=64, ge=1)


class Holdout(Section):
    """Training types held out of the run, to measure zero-shot accuracy on unseen types.

    Their texts remain candidate labels, as those of all types without data. Teachers must have been
    trained with the same holdout.
    """

    share: float = Field(default=0.0, ge=0, lt=1)  # of the training types, descendants included
    seed: int = Field(default=0, ge=0)  # of the hash that selects them


class Vocabulary(Section):
    """Which genes become tokens, and how their medians are estimated."""

    min_sources: int = Field(default=3, ge=1)  # files that measure the gene
    n_draws: int = Field(default=20000, ge=1)  # simulated cells for the medians
    min_observations: int = Field(default=10, ge=1)  # nonzero draws that a median needs
    seed: int = Field(default=0, ge=0)  # of the draws; independent of the run's seed


class Augmentation(Section):
    """Augmentation of an example before its genes are ranked."""

    depth: tuple[float, float] = (
        400,
        20000,
    )  # total counts of a cell drawn from a profile, log-uniform
    overdispersion: float = Field(
        default=0.5, ge=0
    )  # squared coefficient of variation of gene rates
    gene_dropout: float = Field(default=0.2, ge=0, lt=1)  # maximum share of genes dropped, uniform
    thin: float = Field(default=0.5, ge=0, le=1)  # chance of downsampling the counts of a cell
    thin_to: tuple[float, float] = (0.2, 1.0)  # share of counts kept, uniform
    subset: float = Field(default=0.6, ge=0, le=1)  # chance that only a subset of genes is measured
    subset_genes: tuple[float, float] = (1000, 8000)  # its size, log-uniform
    subset_bank: int = Field(default=256, ge=1)  # distinct subsets
    mask: float = Field(default=0.15, ge=0, lt=1)  # share of tokens masked
    keep_tokens: float = Field(default=1.0, gt=0, le=1)  # minimum share of tokens kept, uniform
    second_draw: bool = (
        True  # the two views of a cell are two draws, else one draw with two dropout masks
    )

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "Augmentation":
        for name in ("depth", "thin_to", "subset_genes"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be [low, high] with 0 < low <= high")
        return self


class Balance(Section):
    """Sampling weights of cell types and studies."""

    by_type: bool = True  # else all rows have equal weight, apart from the cap
    type_power: float = Field(
        default=0.5, ge=0, le=1
    )  # weight of a type ~ its number of studies ** power
    study_share: float = Field(default=0.2, gt=0, le=1)  # maximum share of draws from one study
