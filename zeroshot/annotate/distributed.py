"""Annotate on several devices and nodes with `Trainer.predict` of Lightning.

Every process runs the same command, started by `torchrun`, SLURM or Lightning. Each annotates its
share of the pending cells and stores them in the folder next to the output; the process of rank 0
writes the output.
"""

import logging
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from langcell.counts.reader import CountMatrix
from langcell.model.embed_cells import BLOCK_CELLS
from langcell.runtime.processes import is_first_process
from langcell.runtime.threads import set_threads, thread_count
from zeroshot.annotate.cell_scorer import CellScorer, Progress, annotate_range
from zeroshot.results.partial_results import FolderResults

_RANGE_CELLS = 8 * BLOCK_CELLS
_ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}


def annotate_over_devices(
    results: FolderResults, scorer: CellScorer, matrix: CountMatrix, progress: Progress | None
) -> None:
    """Annotate the pending cells; this process annotates its share of them.

    Return in the process of rank 0 when all cells are done; exit in the other processes.

    Raises
    ------
    RuntimeError
        If cells are missing because another process failed; annotated cells are kept.
    """
    options = scorer.options
    set_threads(max(1, thread_count() // (options.devices if options.device == "cpu" else 1)))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # device banners, tips
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    trainer = Trainer(
        accelerator=_ACCELERATORS[options.device],
        devices=options.devices,
        num_nodes=options.nodes,
        strategy="ddp",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.predict(_AnnotateRanges(results, scorer, matrix, progress), return_predictions=False)
    if not is_first_process():
        sys.exit(0)
    if missing := sum(map(len, results.pending())):
        raise RuntimeError(
            f"{missing:,} cells are missing: another process stopped early; run the command again"
        )


class _AnnotateRanges(LightningModule):
    """Annotates the ranges of cells in the dataloader of its process."""

    def __init__(
        self,
        results: FolderResults,
        scorer: CellScorer,
        matrix: CountMatrix,
        progress: Progress | None,
    ) -> None:
        super().__init__()
        self._results, self._scorer, self._matrix = results, scorer, matrix
        self._progress = progress if is_first_process() else None
        self._ranges: list[tuple[int, int]] = []
        if isinstance(scorer.model, torch.nn.Module):
            self.model = scorer.model  # a submodule, so that Lightning moves it to the device

    def setup(self, stage: str) -> None:
        """Broadcast the pending ranges from rank 0, which listed them before any process wrote."""
        ranges = [
            (first, min(first + _RANGE_CELLS, rows.stop))
            for rows in (self._results.pending() if is_first_process() else ())
            for first in range(rows.start, rows.stop, _RANGE_CELLS)
        ]
        self._ranges = self.trainer.strategy.broadcast(ranges)

    def predict_dataloader(self) -> DataLoader:
        """Return every n-th range, for n processes."""
        # The distributed sampler of Lightning fails with fewer ranges than processes.
        mine = self._ranges[self.trainer.global_rank :: self.trainer.world_size]
        mine = mine or [(0, 0)]  # Lightning fails on an empty dataloader
        return DataLoader(mine, batch_size=None)  # type: ignore[arg-type]

    def on_predict_start(self) -> None:
        """Report the progress at the start."""
        self._report_progress()

    def predict_step(self, batch: tuple[int, int]) -> int:
        """Annotate and store a range; return its size, because Lightning warns about None."""
        if batch[0] == batch[1]:
            return 0
        with self._results.appending(batch[0]) as append:
            for block in annotate_range(self._scorer, self._matrix, range(*batch)):
                append(block)
                self._report_progress()
        return batch[1] - batch[0]

    def _report_progress(self) -> None:
        if self._progress is not None:
            n_cells = self._results.n_cells
            self._progress(min(self._results.n_stored, n_cells), n_cells)
