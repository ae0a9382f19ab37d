"""Sections of a recipe that are about cells: where they are, how they are drawn and varied."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scale = Literal["counts", "linear", "log1p", "log2", "ranks"]


class Section(BaseModel):
    """A part of a recipe: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Columns(Section):
    """Names of the obs columns. A file may lack any but `term_id`."""

    term_id: str = "cell_type_ontology_term_id"
    study: str = "study"
    tissue: str = "tissue_ontology_term_id"
    disease: str = "disease_ontology_term_id"
    stage: str = "stage"


class Source(Section):
    """Files of one kind and one scale (architecture decision: the scale is declared, not guessed)."""

    files: tuple[str, ...] = Field(min_length=1)  # paths or globs below corpus_root
    kind: Literal["cells", "profiles"] = "cells"  # a profile is the mean or sum of a cell type
    scale: Scale = "counts"


class Shards(Section):
    """A corpus of ranked tokens (`langcell corpus build`), in the place of `sources`."""

    folder: str = ""  # relative to where the command is started
    verify: bool = True  # compare the checksum of every shard before the first step
    block_cells: int = Field(default=64, ge=1)  # read side by side
    pool_cells: int = Field(default=16384, ge=1)  # shuffled with each other in memory
    bucket_cells: int = Field(default=2048, ge=0)  # sorted by length before they are cut; 0: none
    max_tokens: int = Field(
        default=0, ge=0
    )  # of a batch of all processes together, padding counted; 0: no limit
    max_repeats: int = Field(default=8, ge=1)  # of a cell in an epoch, however rare its type
    workers: int = Field(default=0, ge=0)  # processes that gather batches ahead; 0: none


class ValidationFile(Section):
    """One labelled file; files with one study name are averaged first."""

    path: str
    study: str
    scale: Scale = "counts"


class Validation(Section):
    """Labelled studies on which the best checkpoint is chosen."""

    files: tuple[ValidationFile, ...] = ()
    every: int = Field(default=500, ge=1)  # steps
    max_cells: int = Field(default=1000, ge=1)  # of each file, evenly spaced, at each validation
    min_cells: int = Field(default=10, ge=1)  # of a class that counts in macro-F1
    batch_size: int = Field(default=64, ge=1)


class Holdout(Section):
    """Training types that the run never sees, to measure how well it names unseen ones.

    Their texts stay among the labels, as those of all other types without data do. Teachers must
    have been trained with the same holdout.
    """

    share: float = Field(default=0.0, ge=0, lt=1)  # of the training types, descendants counted
    seed: int = Field(default=0, ge=0)  # of the hash that chooses them


class Vocabulary(Section):
    """Which genes become tokens, and how their medians are estimated."""

    min_sources: int = Field(default=3, ge=1)  # files that measure the gene
    n_draws: int = Field(default=20000, ge=1)  # simulated cells behind the medians
    min_observations: int = Field(default=10, ge=1)  # nonzero draws that a median needs
    seed: int = Field(default=0, ge=0)  # of the draws; apart from that of the run


class Augmentation(Section):
    """Ranges of what is done to an example before it is ranked."""

    depth: tuple[float, float] = (400, 20000)  # counts of a cell drawn from a profile, log-uniform
    overdispersion: float = Field(
        default=0.5, ge=0
    )  # squared coefficient of variation of gene rates
    gene_dropout: float = Field(
        default=0.2, ge=0, lt=1
    )  # at most this share of genes is lost, uniform
    thin: float = Field(default=0.5, ge=0, le=1)  # chance of thinning a cell of counts
    thin_to: tuple[float, float] = (0.2, 1.0)  # share of counts kept, uniform
    subset: float = Field(default=0.6, ge=0, le=1)  # chance that only a subset of genes is measured
    subset_genes: tuple[float, float] = (1000, 8000)  # its size, log-uniform
    subset_bank: int = Field(default=256, ge=1)  # distinct subsets
    mask: float = Field(default=0.15, ge=0, lt=1)  # share of tokens masked
    keep_tokens: float = Field(default=1.0, gt=0, le=1)  # at least this share of tokens is read
    second_draw: bool = True  # the views of a cell are two draws, else two dropouts of one

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "Augmentation":
        for name in ("depth", "thin_to", "subset_genes"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be [low, high] with 0 < low <= high")
        return self


class Balance(Section):
    """How often each cell type, and each study in it, is drawn."""

    by_type: bool = True  # else each row is as likely as any other, but for the cap
    type_power: float = Field(
        default=0.5, ge=0, le=1
    )  # weight of a type ~ its number of studies ** power
    study_share: float = Field(
        default=0.2, gt=0, le=1
    )  # no study gives more than this share of draws
