"""Annotating on several devices and nodes, through the predict loop of Lightning.

Every process runs the same command, as `torchrun`, SLURM and Lightning's own launcher have it: each
takes its share of the cells that are still to be done and stores them in the folder beside the
output, and the first of them writes the output.
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
from zeroshot.annotation.cell_scorer import CellScorer, Progress, annotate_range
from zeroshot.results.partial_results import FolderResults

_RANGE_CELLS = 8 * BLOCK_CELLS
_ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}


def annotate_over_devices(
    results: FolderResults, scorer: CellScorer, matrix: CountMatrix, progress: Progress | None
) -> None:
    """Annotate the cells that the results still lack, a share of them in this process.

    Returns in the first process alone, when all are done; the others end here.

    Raises
    ------
    RuntimeError
        If another process failed, so that cells are missing; those that are there are kept.
    """
    options, kind = scorer.options, str(scorer.model.device).partition(":")[0]
    set_threads(max(1, thread_count() // (options.devices if kind == "cpu" else 1)))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # device banners, tips
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    trainer = Trainer(
        accelerator=_ACCELERATORS[kind],
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
        raise RuntimeError(f"{missing:,} cells are missing: another process stopped early")


class _AnnotateRanges(LightningModule):
    """Annotates the ranges of cells that the loader of its process brings."""

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
            self.model = scorer.model  # so that it is moved to the device of the process

    def setup(self, stage: str) -> None:
        """Learn from the first process what is to be done: only it saw all files at rest."""
        ranges = [
            (first, min(first + _RANGE_CELLS, rows.stop))
            for rows in (self._results.pending() if is_first_process() else ())
            for first in range(rows.start, rows.stop, _RANGE_CELLS)
        ]
        self._ranges = self.trainer.strategy.broadcast(ranges)

    def predict_dataloader(self) -> DataLoader:
        """Return every n-th range, of n processes."""
        # Lightning's own sampler refuses fewer ranges than processes.
        mine = self._ranges[self.trainer.global_rank :: self.trainer.world_size]
        mine = mine or [(0, 0)]  # a loader without anything is an error to Lightning
        return DataLoader(mine, batch_size=None)  # type: ignore[arg-type]

    def on_predict_start(self) -> None:
        """Say that it begins."""
        self._say_progress()

    def predict_step(self, batch: tuple[int, int]) -> int:
        """Annotate a range and store it; return its size, as Lightning misses a None."""
        if batch[0] == batch[1]:
            return 0
        with self._results.appending(batch[0]) as append:
            for block in annotate_range(self._scorer, self._matrix, range(*batch)):
                append(block)
                self._say_progress()
        return batch[1] - batch[0]

    def _say_progress(self) -> None:
        if self._progress is not None:
            n_cells = self._results.n_cells
            self._progress(min(self._results.n_stored, n_cells), n_cells)
