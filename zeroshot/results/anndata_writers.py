"""Write annotations to an h5ad file or to an AnnData in memory."""

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from langcell.output.h5ad_writer import H5adWriter
from zeroshot.results.annotations import DECODERS, AnnotationBlock, Annotations, Slots


class H5adAnnotationWriter:
    """Writes obs columns, obsm entries and uns of annotations to an open h5ad file."""

    def __init__(self, writer: H5adWriter, slots: Slots) -> None:
        self._writer = writer
        self._slots = slots
        writer.remove(slots.paths)

    def add(self, block: AnnotationBlock) -> None:
        """Append embeddings, scores and terms to obsm."""
        self._writer.append_rows(f"obsm/{self._slots.features}", block.features)
        self._writer.append_csr(f"obsm/{self._slots.scores}", block.scores.to_csr())
        self._writer.append_csr(f"obsm/{self._slots.terms}", block.probable_terms.to_csr())

    def finish(self, annotations: Annotations) -> None:
        """Write obs columns and uns."""
        for name, column in annotations.table().items():
            is_label = isinstance(column.dtype, pd.CategoricalDtype)
            self._writer.set_obs(str(name), column.array if is_label else column.to_numpy())
        self._writer.set_uns(self._slots.key, annotations.details)


class AnnDataAnnotationWriter:
    """Collects annotations and writes them to an AnnData; `adata=None` writes nothing."""

    def __init__(self, adata: AnnData | None, slots: Slots) -> None:
        self._adata = adata
        self._slots = slots
        self._blocks: list[AnnotationBlock] = []

    def add(self, block: AnnotationBlock) -> None:
        """Keep a block in memory."""
        if self._adata is not None:
            self._blocks.append(block)

    def finish(self, annotations: Annotations) -> None:
        """Write to the AnnData."""
        if self._adata is None:
            return
        for path in self._slots.decoded_paths(DECODERS):
            part, name = path.split("/", 1)
            if part == "obs" and name in self._adata.obs:  # second calls of the old scores
                del self._adata.obs[name]
        table = annotations.table()
        for name in table.columns:
            self._adata.obs[name] = table[name].array
        features = [block.features for block in self._blocks]
        scores = [block.scores.to_csr() for block in self._blocks]
        self._adata.obsm[self._slots.features] = np.concatenate(features)
        self._adata.obsm[self._slots.scores] = sparse.vstack(scores, format="csr")
        terms = [block.probable_terms.to_csr() for block in self._blocks]
        self._adata.obsm[self._slots.terms] = sparse.vstack(terms, format="csr")
        self._adata.uns[self._slots.key] = annotations.details


def check_memory(adata: AnnData, slots: Slots) -> None:
    """Raise if the AnnData already has results of these names."""
    parts = {"obs": adata.obs.columns, "obsm": adata.obsm.keys(), "uns": adata.uns.keys()}
    places = [path.split("/") for path in slots.paths]
    taken = [f"{part}[{name!r}]" for part, name in places if name in parts[part]]
    if taken:
        raise ValueError(
            f"the AnnData already has {', '.join(taken)}; replace them with overwrite=True or "
            "choose another key_added"
        )
