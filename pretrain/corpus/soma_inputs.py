"""Read cells of a TileDB-SOMA experiment, such as the CELLxGENE Census (extra `census`)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from langcell.counts.matrix_choice import choose_matrix
from langcell.counts.reader import CountMatrix
from langcell.counts.row_readers import float_values, spread
from langcell.counts.source import GENE_COLUMNS, CountSource, GeneColumns, MatrixSlot, gene_columns
from langcell.runtime.parameter_names import option
from langcell.runtime.threads import thread_count
from pretrain.corpus.options import BuildOptions
from pretrain.recipe.obs_columns import Column, first_present

if TYPE_CHECKING:
    import pandas as pd

# A release of the Census by its date, as `census:2025-11-08`.
_CENSUS = "census:"
_CENSUS_URI = "s3://cellxgene-census-public-us-west-2/cell-census/{}/soma/census_data/homo_sapiens"
_CENSUS_CONFIG = {"vfs.s3.region": "us-west-2", "vfs.s3.no_sign_request": "true"}
_JOINID = "soma_joinid"
_SAMPLE_ROWS = 50
# Columns of var that SOMA adds for the index of an AnnData.
_VAR_INDEX = ("var_id", "feature_id")


def is_soma(name: str) -> bool:
    """Tell whether a name is a URI, a release of the Census or the folder of an experiment."""
    if name.startswith(_CENSUS) or "://" in name:
        return True
    return (Path(name) / "__tiledb_group.tdb").is_file()


@contextmanager
def open_experiment(name: str) -> Iterator[Any]:
    """Open an experiment.

    Raises
    ------
    ImportError
        If tiledbsoma is missing; the message names the extra.
    ValueError
        If it is not an experiment.
    """
    soma = _tiledbsoma()
    is_census = name.startswith(_CENSUS)
    uri = _CENSUS_URI.format(name.removeprefix(_CENSUS)) if is_census else name
    config = {
        "sm.compute_concurrency_level": str(thread_count()),
        **(_CENSUS_CONFIG if is_census else {}),
    }
    try:
        experiment = soma.Experiment.open(uri, context=soma.SOMATileDBContext(tiledb_config=config))
    except (soma.SOMAError, soma.DoesNotExistError, TypeError) as error:
        raise ValueError(f"{uri} cannot be opened as a SOMA experiment ({error})") from error
    with experiment:
        yield experiment


def soma_rows(name: str, options: BuildOptions) -> tuple[int, int]:
    """Return start and stop of the join ids of the cells of an experiment.

    Raises
    ------
    ImportError, ValueError
        As `open_experiment`, or if it has no cells or lacks the measurement or layer.
    """
    with open_experiment(name) as experiment:
        _layer(experiment, name, options)
        if not experiment.obs.count:
            raise ValueError(f"{name}: the experiment has no cells")
        if experiment.obs.index_column_names != (_JOINID,):
            raise ValueError(
                f"{name}: obs is indexed by {', '.join(experiment.obs.index_column_names)}; wanted"
                f" {_JOINID}"
            )
        ((first, last),) = experiment.obs.non_empty_domain()
        return int(first), int(last) + 1


def read_soma_columns(
    experiment: Any, wanted: Mapping[str, tuple[str, ...]], rows: tuple[int, int], obs_filter: str
) -> tuple[np.ndarray, dict[str, Column]]:
    """Return the join ids of the cells of a slice that pass the filter, and their columns."""
    import pyarrow as pa

    found = {ours: first_present(names, experiment.obs.keys()) for ours, names in wanted.items()}
    names = sorted(set(found.values()) - {""})
    table = experiment.obs.read(
        coords=(slice(rows[0], rows[1] - 1),),  # SOMA slices include the end
        column_names=[_JOINID, *names],
        value_filter=obs_filter or None,
    ).concat()
    joinids = table[_JOINID].to_numpy()
    order = np.argsort(joinids, kind="stable")
    table = table.take(pa.array(order))
    columns = {ours: Column.of(table[name].to_pandas()) for ours, name in found.items() if name}
    return joinids[order], columns


def soma_matrix(
    experiment: Any, name: str, joinids: np.ndarray, options: BuildOptions
) -> CountMatrix:
    """Return the counts of cells, validated like those of a file."""
    layer = _layer(experiment, name, options)
    var = experiment.ms[options.measurement].var.read().concat().to_pandas()
    var = var.sort_values(_JOINID)
    genes = _genes(var)
    rows = SomaRows(layer, joinids, var[_JOINID].to_numpy())
    source = CountSource(
        label=name,
        slots={"X": MatrixSlot(open_rows=lambda: rows, read_genes=lambda: genes)},
        read_obs_names=lambda: np.array([f"join id {each}" for each in joinids], dtype=object),
    )
    choice = choose_matrix(
        source, layer=None, allow_normalized=options.allow_normalized, scale=None
    )
    return CountMatrix(source, choice, genes)


class SomaRows:
    """An X layer as a `langcell.counts.row_readers.RowReader`.

    Parameters
    ----------
    layer
        Sparse array of the experiment.
    cells, genes
        Join ids of rows and columns, ascending.
    """

    def __init__(self, layer: Any, cells: np.ndarray, genes: np.ndarray) -> None:
        self.shape = (len(cells), len(genes))
        self._layer, self._cells, self._genes = layer, cells, genes

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows start to stop."""
        import pyarrow as pa

        cells = self._cells[start:stop]
        table = self._layer.read((pa.array(cells),)).tables().concat()
        rows = np.searchsorted(cells, table["soma_dim_0"].to_numpy())
        columns = np.searchsorted(self._genes, table["soma_dim_1"].to_numpy())
        values = float_values(table["soma_data"].to_numpy())
        return sparse.csr_matrix((values, (rows, columns)), shape=(len(cells), self.shape[1]))

    def sample_values(self) -> np.ndarray:
        """Return the values of a sample of rows."""
        pieces = spread(self.shape[0], min(_SAMPLE_ROWS, self.shape[0]))
        return np.concatenate([self.read(each.start, each.stop).data for each in pieces])


def _tiledbsoma() -> ModuleType:
    try:
        import tiledbsoma
    except ImportError as error:
        raise ImportError(
            "SOMA experiments and the Census need tiledbsoma: pip install 'langcell[census]'"
        ) from error
    return tiledbsoma


def _layer(experiment: Any, name: str, options: BuildOptions) -> Any:
    measurements = list(experiment.ms.keys())
    if options.measurement not in measurements:
        raise ValueError(
            f"{name}: no measurement {options.measurement!r}; it has {', '.join(measurements)}"
        )
    layers = experiment.ms[options.measurement].X
    if options.soma_layer not in layers:
        raise ValueError(
            f"{name}: no layer {options.soma_layer!r} of X; it has {', '.join(layers.keys())}: choose"
            f" one with {option('soma_layer')}"
        )
    return layers[options.soma_layer]


def _genes(var: "pd.DataFrame") -> GeneColumns:
    from langcell.counts.anndata_source import text_values

    index = first_present(_VAR_INDEX, var.columns)
    if not index:
        raise ValueError(f"var has no gene ids; it has {', '.join(map(str, var.columns))}")
    names = {"index": text_values(var[index])}
    names |= {name: text_values(var[name]) for name in GENE_COLUMNS if name in var}
    return gene_columns(names, None)
