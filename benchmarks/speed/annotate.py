"""Cells per second of annotation, from h5ad to written calls: `python -m benchmarks.speed.annotate`.

Each tool runs as its users run it, in its own process on the same two cores and the same files: real
cells of the corpus, repeated, gzip-compressed, in the page cache. Start-up time is that of a run on
100 cells, the fastest of several; the steady state is the speed for the further cells of a large file.
langcell runs `langcell zeroshot --out calls.csv` against all cell types; CellTypist (extra) reads,
normalises and annotates without majority voting, with a model trained on the training split of the
bundled model. Slow settings get fewer cells, as the table shows.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.baselines.baseline import TrainingSplit
from benchmarks.baselines.celltypist_baseline import train_celltypist
from benchmarks.baselines.methods import missing_extra
from benchmarks.data.arguments import add_models, make_parser
from benchmarks.data.repeated_cells import read_real_cells, write_repeated
from benchmarks.data.studies import LabelledFile
from benchmarks.data.training_cells import bundled_recipe
from benchmarks.speed.process_speed import FEW, Speed, Tool, machine, measure
from langcell.checkpoints.checkpoint import list_bundled_models, resolve_checkpoint
from langcell.nn.config import LangCellConfig
from langcell.runtime.threads import set_threads
from ontology.graph import Ontology

_RERANK = (5, 10)


def langcell_command(model: str, rerank: int, threads: int) -> Callable[[Path, Path], list[str]]:
    """Return a function that makes the command line to annotate a file with a model."""

    def command(cells: Path, out: Path) -> list[str]:
        words = [sys.executable, "-m", "langcell", "zeroshot", "--h5ad", str(cells)]
        words += ["--out", str(out), "--model", model, "--threads", str(threads)]
        return words + ["--rerank", str(rerank)] * bool(rerank)

    return command


def model_tools(model: str, arguments: argparse.Namespace) -> list[Tool]:
    """Return the tools of a model; a bag of genes has no reranking."""
    config = LangCellConfig.read(resolve_checkpoint(model) / "config.json")
    name, threads = Path(model).name, arguments.threads
    plain = langcell_command(model, 0, threads)
    if config.cell.kind == "bag":
        return [Tool(name=name, n_cells=arguments.cells, command=plain)]
    n_cells = min(arguments.cells, arguments.transformer_cells)
    n_reranked = min(arguments.cells, arguments.rerank_cells)
    return [
        Tool(name=name, n_cells=n_cells, command=plain),
        *(
            Tool(
                name=f"{name} --rerank {k}",
                n_cells=n_reranked,
                command=langcell_command(model, k, threads),
                warm_up=True,  # token states of the labels
            )
            for k in _RERANK
        ),
    ]


def celltypist_tool(folder: Path, few: Path, arguments: argparse.Namespace) -> Tool:
    """Train CellTypist on the genes shared by the training split and the files."""
    split = TrainingSplit(bundled_recipe(arguments.shared / "corpus"), Ontology.bundled())
    cells = LabelledFile(
        name="repeated",
        study="repeated",
        path=few,
        scale="counts",
        tissues=(),
        is_labelled=np.ones(FEW, dtype=bool),
        truth_ids=np.full(FEW, "", dtype=object),
    )
    model = folder / "celltypist.pkl"
    train_celltypist(split.problem(cells)).write(str(model))

    def command(cells: Path, out: Path) -> list[str]:
        module = "benchmarks.baselines.celltypist_command"
        return [sys.executable, "-m", module, str(cells), str(model), str(out)]

    return Tool(name="celltypist", n_cells=arguments.cells, command=command)


def write_files(folder: Path, sizes: set[int], arguments: argparse.Namespace) -> dict[int, Path]:
    """Write one file of each size."""
    cells = read_real_cells(arguments.shared / "corpus")
    files = {size: folder / f"{size}-cells.h5ad" for size in sorted(sizes)}
    for size, path in files.items():
        print(f"writing {size:,} cells", file=sys.stderr, flush=True)
        write_repeated(cells, path, size, seed=arguments.seed)
    return files


def print_speeds(
    tools: list[Tool],
    files: dict[int, Path],
    where: dict[str, str | int | float],
    arguments: argparse.Namespace,
) -> list[Speed]:
    """Measure each tool and print its row of the table."""
    print(f"{where['processor']}, {arguments.threads} of {where['cores']} cores")
    print(f"{'':<24}{'cells':>9}{'start-up':>11}{'cells/s':>10}{'cells/CPU-s':>13}")
    speeds = []
    for tool in tools:
        speed = measure(tool, files, n_starts=arguments.starts)
        speeds.append(speed)
        print(
            f"{speed.tool:<24}{speed.n_cells:>9,}{speed.start_s:>9.2f} s{speed.cells_per_s:>10,.0f}"
            f"{speed.cells_per_cpu_s:>13,.0f}",
            flush=True,
        )
    return speeds


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, threads=2)
    add_models(parser, "every bundled model")
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--transformer-cells", type=int, default=5_000)
    parser.add_argument("--rerank-cells", type=int, default=2_000)
    parser.add_argument(
        "--starts", type=int, default=5, help="runs of which the fastest is the start-up time"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-celltypist", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Print a table, and one JSON line."""
    arguments = parse_arguments()
    if min(arguments.cells, arguments.transformer_cells, arguments.rerank_cells) <= FEW:
        sys.exit(f"--cells and its kin must be more than the {FEW} cells of a start")
    if hasattr(os, "sched_setaffinity"):  # inherited by child processes; not on macOS
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    set_threads(arguments.threads)
    tools = [
        tool
        for model in arguments.model or list_bundled_models()
        for tool in model_tools(model, arguments)
    ]
    has_celltypist = not arguments.no_celltypist and missing_extra("celltypist") is None
    sizes = {FEW, *(tool.n_cells for tool in tools), *[arguments.cells] * has_celltypist}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            files = write_files(folder, sizes, arguments)
        except FileNotFoundError as error:
            sys.exit(str(error))
        if has_celltypist:
            tools.append(celltypist_tool(folder, files[FEW], arguments))
        before = machine()
        speeds = print_speeds(tools, files, before, arguments)
    load = machine()["load"]
    print(f"load {before['load']} before, {load} after (the measured runs included)")
    record = {
        "benchmark": "annotate_speed",
        "machine": before,
        "load_after": load,
        "threads": arguments.threads,
        "speeds": [asdict(speed) for speed in speeds],
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
