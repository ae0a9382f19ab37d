"""Options of a corpus build."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from langcell.runtime.parameter_names import option

# Names of obs columns in files, in order of preference.
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
    """Options of a corpus build; they and the inputs determine the result.

    Attributes
    ----------
    max_genes
        Maximum genes kept per cell.
    min_genes
        Cells with fewer known genes are left out.
    seed
        Seed of the order of the cells.
    shard_cells
        Cells per shard, on average.
    columns
        Names of obs columns, in order of preference (`COLUMNS`).
    layer, allow_normalized
        As in `langcell.counts.reader.open_counts`.
    keep_unlabelled, keep_secondary, keep_duplicates
        Keep cells without a type, cells that are not primary data, duplicate cells.
    genes
        Vocabulary whose medians rank the genes; '' computes medians from the inputs.
    token_dictionary, gene_medians
        For tokenised inputs, files that map Ensembl ids to tokens, and to medians.
    median_cells
        Cells sampled for the medians, over all inputs; at least 1,000 per input.
    min_observations
        Minimum nonzero values for the median of a gene.
    min_inputs
        Minimum inputs that measure a gene.
    ontology
        'bundled', or the path of an .obo file.
    measurement, soma_layer, obs_filter
        For SOMA experiments: measurement, X layer, and an obs filter in SOMA's query language.
    skip_bad
        Skip inputs that cannot be read, instead of stopping.
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
                raise ValueError(f"{option(name)} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"{option('seed')} must be 0 to 2**64 - 1, got {self.seed}")
        if not 0 <= self.min_genes <= self.max_genes:
            raise ValueError(
                f"{option('min_genes')} must be 0 to {option('max_genes', self.max_genes)}, got"
                f" {self.min_genes}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return {
            **asdict(self),
            "columns": {name: list(each) for name, each in self.columns.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "BuildOptions":
        """Return the options from the values of `to_json`."""
        columns = {name: tuple(each) for name, each in values["columns"].items()}
        return cls(**{**values, "columns": columns})


def with_columns(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Replace default column names by those of the user, such as `study=batch`.

    Raises
    ------
    ValueError
        If a name does not have that form, or our column is unknown.
    """
    columns = dict(COLUMNS)
    for each in given:
        ours, separator, theirs = each.partition("=")
        if not separator or not theirs or ours not in COLUMNS:
            raise ValueError(
                f"{option('columns', flag='--column')} {each!r} must be NAME=OBS_COLUMN, with NAME one of"
                f" {', '.join(COLUMNS)}"
            )
        columns[ours] = (theirs,)
    return columns
