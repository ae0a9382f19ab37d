"""What a corpus is to be built of, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# Names that files give a column of obs, first choice first.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "label": ("cell_type_ontology_term_id", "cell_type"),
    "study": ("study", "dataset_id"),
    "donor": ("donor_id", "donor"),
    "tissue": ("tissue_ontology_term_id", "tissue"),
    "disease": ("disease_ontology_term_id", "disease"),
    "stage": ("development_stage_ontology_term_id", "development_stage", "stage"),
    "assay": ("assay_ontology_term_id", "assay"),
    "primary": ("is_primary_data",),
}


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a corpus is built; the result depends on these and on the inputs alone.

    Attributes
    ----------
    max_genes
        Genes kept of a cell at most.
    min_genes
        A cell with fewer known genes is left out.
    seed
        Of the order of the cells.
    shard_cells
        Cells of a shard, on average.
    columns
        Names of obs columns, first choice first (`COLUMNS`).
    layer, allow_normalized
        As for `langcell.counts.reader.open_counts`.
    keep_unlabelled, keep_secondary, keep_duplicates
        Keep cells without a type, cells that are not primary data, cells seen before.
    genes
        Vocabulary whose medians rank the genes; '' computes medians from the inputs.
    token_dictionary, gene_medians
        Of inputs that are tokenised already: Ensembl id -> token, and -> median.
    median_cells
        Cells behind the medians, over all inputs; at least 1,000 of each input.
    min_observations
        Nonzero values that a gene's median needs.
    min_inputs
        Inputs that must measure a gene.
    ontology
        'bundled', or the path of an .obo file.
    measurement, soma_layer, obs_filter
        Of a SOMA experiment: measurement, layer of X, and a filter on obs in SOMA's language.
    skip_bad
        Leave inputs out that cannot be read, instead of stopping.
    """

    max_genes: int = 2048
    min_genes: int = 200
    seed: int = 0
    shard_cells: int = 32768
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(COLUMNS))
    layer: str | None = None
    allow_normalized: bool = False
    keep_unlabelled: bool = False
    keep_secondary: bool = False
    keep_duplicates: bool = False
    genes: str = ""
    token_dictionary: str = ""
    gene_medians: str = ""
    median_cells: int = 200_000
    min_observations: int = 10
    min_inputs: int = 1
    ontology: str = "bundled"
    measurement: str = "RNA"
    soma_layer: str = "raw"
    obs_filter: str = ""
    skip_bad: bool = False

    def __post_init__(self) -> None:
        for name in ("max_genes", "shard_cells", "min_observations", "min_inputs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be 0 to 2**64 - 1, got {self.seed}")
        if not 0 <= self.min_genes <= self.max_genes:
            raise ValueError(
                f"min_genes must be 0 to max_genes={self.max_genes}, got {self.min_genes}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON holds them."""
        return {
            **asdict(self),
            "columns": {name: list(each) for name, each in self.columns.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "BuildOptions":
        """Return what `to_json` was made of."""
        columns = {name: tuple(each) for name, each in values["columns"].items()}
        return cls(**{**values, "columns": columns})


def with_columns(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Put names that a user gives, such as `study=batch`, in the place of the default ones.

    Raises
    ------
    ValueError
        If one is not of that form or names no column of ours.
    """
    columns = dict(COLUMNS)
    for each in given:
        ours, separator, theirs = each.partition("=")
        if not separator or not theirs or ours not in COLUMNS:
            raise ValueError(
                f"--column {each!r} must read NAME=OBS_COLUMN, with NAME one of {', '.join(COLUMNS)}"
            )
        columns[ours] = (theirs,)
    return columns
