"""Baseline: scANVI, fitted on labelled and unlabelled cells together (Xu et al. 2021)."""

import logging
from typing import Any

import anndata
import numpy as np
import scanpy
from scipy import sparse

from langcell.runtime.lightning_messages import quiet_lightning

UNLABELLED = "unlabelled"
_GENES, _LATENT, _LAYERS = 2000, 30, 2  # as in the authors' tutorials
# Fewer than the 400 by default for scVI, for thousands of cells on a CPU. scANVI has its own default.
_SCVI_EPOCHS, _SCANVI_EPOCHS = 100, 20


class Scanvi:
    """An scVI model of all cells of a file, from which scANVI is fitted for each split of labels.

    It is the only method that also reads the test cells, without their labels.

    Parameters
    ----------
    counts
        Integers, shape (n_cells, n_genes).
    batches
        Donor or condition of each cell; None for none.
    """

    def __init__(self, counts: sparse.csr_matrix, batches: np.ndarray | None) -> None:
        import scvi

        scvi.settings.verbosity = logging.ERROR
        scvi.settings.seed = 0
        self._cells = anndata.AnnData(counts.astype(np.float32))
        log = self._cells.copy()
        scanpy.pp.normalize_total(log, target_sum=1e4)
        scanpy.pp.log1p(log)
        scanpy.pp.highly_variable_genes(log, n_top_genes=min(_GENES, log.n_vars))
        self._cells = self._cells[:, log.var["highly_variable"].to_numpy()].copy()
        self._cells.obs["batch"] = "one" if batches is None else batches.astype(str)
        self._cells.obs["label"] = UNLABELLED
        scvi.model.SCVI.setup_anndata(self._cells, batch_key="batch")
        self._scvi = scvi.model.SCVI(self._cells, n_latent=_LATENT, n_layers=_LAYERS)
        self._train(self._scvi, _SCVI_EPOCHS)

    def labels(self, known: np.ndarray) -> np.ndarray:
        """Predict a label for each cell.

        Parameters
        ----------
        known
            Label of each cell, `UNLABELLED` for test cells, object, shape (n_cells,).
        """
        from scvi.model import SCANVI

        self._cells.obs["label"] = known.astype(str)
        model = SCANVI.from_scvi_model(
            self._scvi, adata=self._cells, labels_key="label", unlabeled_category=UNLABELLED
        )
        # All labelled cells of a type in every epoch, however few they are.
        self._train(model, _SCANVI_EPOCHS, n_samples_per_label=100)
        return model.predict()

    @staticmethod
    def _train(model: Any, n_epochs: int, **options: Any) -> None:
        with quiet_lightning(".*"):
            model.train(
                max_epochs=n_epochs, accelerator="cpu", enable_progress_bar=False, **options
            )
