"""Speed of loading batches from shards, against reading single cells: `python -m benchmarks.speed.loader`."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.data.simulated_cells import write_cells
from langcell.runtime.threads import available_threads, thread_count
from langcell.tokens.token_corpus import TokenCorpus
from pretrain.cells.shard_batches import BatchRule
from pretrain.cells.shard_sampler import ShardSampler
from pretrain.cells.shard_stream import ShardStream
from pretrain.corpus.build import build_corpus
from pretrain.corpus.options import BuildOptions
from pretrain.recipe.cell_config import Balance

_PLAIN_CELLS = 4000


def write_dataset(corpus: TokenCorpus, folder: Path) -> None:
    """Write the first cells as a Hugging Face dataset."""
    cells = corpus.shard(0).slice(0, min(_PLAIN_CELLS, corpus.shard(0).n_cells))
    table = pa.table(
        {"input_ids": pa.array([cells.cell(row).tolist() for row in range(cells.n_cells)])}
    )
    folder.mkdir()
    name = "data-00000-of-00001.arrow"
    with pa.OSFile(str(folder / name), "wb") as file:
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    (folder / "state.json").write_text(
        json.dumps(
            {"_data_files": [{"filename": name}], "_fingerprint": "0", "_split": None}
            | dict.fromkeys(("_format_columns", "_format_type"))
            | {"_format_kwargs": {}, "_output_all_columns": False}
        )
    )
    (folder / "dataset_info.json").write_text("{}")


def open_rows(folder: Path) -> tuple[str, int, Callable[[int], list[int]]]:
    """Return a reader of single cells of a dataset: `datasets` if installed, else pyarrow."""
    try:
        import datasets
    except ImportError:
        with pa.memory_map(str(next(folder.glob("*.arrow")))) as source:
            column: Any = pa.ipc.open_stream(source).read_all().column("input_ids")
        return "arrow rows (pyarrow)", len(column), lambda row: list(column[row].as_py())
    dataset = datasets.load_from_disk(str(folder))
    return "Hugging Face datasets", len(dataset), lambda row: list(dataset[row]["input_ids"])


def plain_batches(
    n_cells: int, read: Callable[[int], list[int]], batch_size: int, cls_id: int
) -> Iterator[np.ndarray]:
    """Read cells in random order, one at a time, and pad each batch."""
    order = np.random.default_rng(0).permutation(n_cells)
    for start in range(0, n_cells, batch_size):
        cells = [read(int(row)) for row in order[start : start + batch_size]]
        width = max(map(len, cells))
        yield np.array([[cls_id, *cell, *[0] * (width - len(cell))] for cell in cells])


def rate(work: Callable[[], tuple[int, int]], n_rounds: int) -> dict[str, float]:
    """Return medians of cells and tokens per second, and of cells per CPU second."""
    rounds = []
    for _ in range(n_rounds):
        clock, processor = time.perf_counter(), time.process_time()
        n_cells, n_tokens = work()
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        rounds.append((n_cells / clock, n_tokens / clock, n_cells / processor))
    cells, tokens, of_processor = np.median(rounds, axis=0).round().astype(int).tolist()
    return {"cells_per_s": cells, "tokens_per_s": tokens, "cells_per_cpu_s": of_processor}


def main(arguments: list[str] | None = None) -> None:
    """Print a table, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--expressed", type=int, default=2_000)
    parser.add_argument("--max-genes", type=int, default=2_048)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cells(
            folder / "x.h5ad",
            options.cells,
            n_expressed=options.expressed,
            compression="none",
            seed=0,
        )
        settings = BuildOptions(max_genes=options.max_genes, median_cells=1000)
        build_corpus(
            folder / "corpus", [str(folder / "x.h5ad")], settings, n_workers=available_threads()
        )
        corpus = TokenCorpus(folder / "corpus")
        write_dataset(corpus, folder / "dataset")
        compare(corpus, folder / "dataset", options)


def compare(corpus: TokenCorpus, dataset: Path, options: argparse.Namespace) -> None:
    """Measure and print the loaders."""
    rule = BatchRule(cells=options.batch_size, bucket=2048, max_genes=options.max_genes)
    balanced, even = Balance(study_share=1), Balance(by_type=False, study_share=1)
    cls_id = corpus.vocabulary.cls_id
    way, n_plain, read = open_rows(dataset)

    def stream(balance: Balance, *, is_padded: bool) -> tuple[int, int]:
        n_cells = n_tokens = 0
        for batch in ShardStream(ShardSampler(corpus, balance, seed=0), rule, n_epochs=1):
            n_cells += batch.cells.n_cells
            n_tokens += len(batch.cells.tokens)
            if is_padded:
                batch.cells.padded(cls_id=cls_id, pad_id=corpus.vocabulary.pad_id)
        return n_cells, n_tokens

    def plain() -> tuple[int, int]:
        batches = plain_batches(n_plain, read, options.batch_size, cls_id)
        return n_plain, sum(int(np.count_nonzero(batch)) for batch in batches)

    stream(even, is_padded=False)  # compiles, and reads the shards once
    found = {
        "shards, packed": rate(lambda: stream(even, is_padded=False), options.rounds),
        "shards, padded": rate(lambda: stream(even, is_padded=True), options.rounds),
        "shards, balanced, packed": rate(lambda: stream(balanced, is_padded=False), options.rounds),
        way: rate(plain, 3),
    }
    per_cell = corpus.manifest.n_tokens / len(corpus)
    print(
        f"simulated corpus, {len(corpus):,} cells of {per_cell:,.0f} tokens, batches of "
        f"{options.batch_size}, read before (warm), {thread_count()} threads"
    )
    print(f"{'':<28}{'cells/s':>12}{'tokens/s':>16}{'cells/CPU-s':>14}")
    for each, row in found.items():
        print(
            f"{each:<28}{row['cells_per_s']:>12,}{row['tokens_per_s']:>16,}"
            f"{row['cells_per_cpu_s']:>14,}"
        )
    times = {
        each: round(found[f"shards, {each}"]["cells_per_cpu_s"] / found[way]["cells_per_cpu_s"])
        for each in ("packed", "padded")
    }
    print(
        f"cells per CPU-second beside padded batches of {way}: {times['packed']} times packed, as"
        f" training reads them, {times['padded']} times padded"
    )
    print(json.dumps({"benchmark": "loader", "cells": len(corpus), "times": times, **found}))


if __name__ == "__main__":
    main()
