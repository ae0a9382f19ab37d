"""CPU time of cell-text matching at the paper's size: `python -m benchmarks.speed.matching`.

A model of the size of the released LangCell (12 layers of 512 for cells, 12 of 768 for texts), with
random weights, reads cells of 2,047 genes and CLS, and descriptions of cell types. Each cell is matched
with 8, 50 and 161 labels by three methods. Not timed are embedding the labels (once for all cells) and
encoding the cell (the same for all methods).

- plain: one pass of the text encoder per label, as in the LangCell notebook, which computes keys and
  values of the cell each time, with attention as matrix products;
- exact: `langcell.nn.cell_matcher`, with equal results;
- rerank 10: retrieval, then exact matching for the ten nearest labels.

The methods alternate cell by cell, so that other load affects all of them. The agreement of reranking
with exhaustive matching is that of the bundled model with a trained head, on validation studies.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.data.arguments import add_model, make_parser, parse
from benchmarks.data.studies import read_validation_files
from benchmarks.speed.process_speed import machine
from benchmarks.speed.rerank_agreement import agreement
from langcell.model.langcell import LangCell
from langcell.nn.bert import Attended, inference
from langcell.nn.cell_matcher import CellMatcher, PreparedText
from langcell.nn.config import CellEncoderConfig, LangCellConfig, MatchingConfig, TextEncoderConfig
from langcell.nn.features import CellFeatures, TextFeatures
from ontology.candidates import all_cell_types
from ontology.descriptions import describe
from ontology.graph import Ontology

_RERANKED = 10
_AGREEMENT = (5, 10, 20)
PAPER = LangCellConfig(
    cell=CellEncoderConfig(
        vocab_size=25_427, hidden_size=512, n_layers=12, n_heads=8, intermediate_size=1024,
        hidden_act="relu", max_positions=2048, masked_gene_head=False,
    ),
    text=TextEncoderConfig(
        sha256="", frozen=False, pooling="cls", max_tokens=512, vocab_size=30_524, hidden_size=768,
        n_layers=12, n_heads=12, intermediate_size=3072, cross_attention=True, encoder_width=512,
    ),
    matching=MatchingConfig(kind="cross_attention"),
    max_genes=2047,
)  # fmt: skip


class Clock:
    """Timer by name: CPU time on a CPU, wall time on another device."""

    def __init__(self, device: str) -> None:
        self.is_cpu = device == "cpu"
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Time the block."""
        started = self.now()
        yield
        self.seconds.setdefault(name, []).append(self.now() - started)

    def median(self, name: str) -> float:
        """Return the median over cells."""
        return statistics.median(self.seconds[name])

    def now(self) -> float:
        """Return the current time in seconds."""
        if self.is_cpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def label_texts(model: LangCell, n_labels: int, *, seed: int) -> list[TextFeatures]:
    """Encode the descriptions of `n_labels` cell types one by one."""
    ontology = Ontology.bundled()
    ids = all_cell_types(ontology)
    rows = np.random.default_rng(seed).choice(len(ids), n_labels, replace=False)
    texts = [describe(ontology, ids[row]) for row in rows]
    return [model.encode_text(*model.tokenize_texts([text])) for text in texts]


def random_cell(model: LangCell, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return tokens and mask of a cell that fills all positions, (1, t) each."""
    cell = model.config.cell
    genes = torch.randperm(cell.vocab_size - 3, generator=generator)[: model.config.max_genes] + 2
    ids = torch.cat([torch.tensor([cell.vocab_size - 1]), genes])[None].to(model.device)
    return ids, torch.ones_like(ids)


def plain_loop(
    model: LangCell,
    texts: Sequence[TextFeatures],
    cell: CellFeatures,
    after: Callable[[int], None],
) -> Tensor:
    """Match a cell with one label after the other; `after` gets the number done."""
    tower, found = model.text_tower(), []
    with sdpa_kernel(SDPBackend.MATH):
        for n_done, text in enumerate(texts, start=1):
            attended = Attended(states=cell.states, attention_mask=cell.attention_mask)
            states = tower(text.input_ids, text.attention_mask, cells=attended)
            found.append(model.matching(states[:, 0]))
            after(n_done)
    return torch.cat(found)


def exact(matcher: CellMatcher, begun: Sequence[PreparedText], cell: CellFeatures) -> Tensor:
    """Match a cell with all labels at once."""
    return matcher.match(matcher.read(cell, 0), begun)


def nearest(texts: Sequence[TextFeatures], cell: CellFeatures, k: int) -> list[int]:
    """Return the k labels with the most similar embeddings."""
    features = torch.cat([text.features for text in texts])
    return (features @ cell.features[0]).topk(min(k, len(texts))).indices.tolist()


def measure(model: LangCell, counts: Sequence[int], *, n_cells: int, seed: int) -> Clock:
    """Time every method on cells; raise if results differ by more than 1e-5."""
    clock = Clock(model.device.type)
    generator = torch.Generator().manual_seed(seed)
    with inference(model):
        texts = label_texts(model, max(counts), seed=seed)
        matcher = CellMatcher(model)
        with clock.measuring("begin"):
            begun = [matcher.begin(text) for text in texts]
        for number in range(n_cells):
            ids, mask = random_cell(model, generator)
            with clock.measuring("encode"):
                cell = model.encode_cell(ids, mask)
            started = clock.now()

            def note(n_done: int, started: float = started) -> None:
                if n_done in counts:
                    clock.seconds.setdefault(f"plain {n_done}", []).append(clock.now() - started)

            wanted = plain_loop(model, texts, cell, note).softmax(-1)
            for n in counts:
                with clock.measuring(f"exact {n}"):
                    got = exact(matcher, begun[:n], cell).softmax(-1)
                torch.testing.assert_close(got, wanted[:n], atol=1e-5, rtol=0)
                with clock.measuring(f"rerank {n}"):
                    few = [begun[place] for place in nearest(texts[:n], cell, _RERANKED)]
                    exact(matcher, few, cell)
            print(f"cell {number + 1} of {n_cells} done", file=sys.stderr, flush=True)
    return clock


def print_table(clock: Clock, counts: Sequence[int]) -> dict[str, dict[str, float]]:
    """Print seconds per cell, and the speed-up over the plain loop."""
    unit = "CPU s" if clock.is_cpu else "s"
    print(f"{unit} a cell{'plain':>12}{'exact':>9}{'':>8}{f'rerank {_RERANKED}':>12}{'':>8}")
    figures = {}
    for n in counts:
        plain, fast, few = (clock.median(f"{way} {n}") for way in ("plain", "exact", "rerank"))
        print(
            f"{n:>4} labels{plain:>13.2f}{fast:>9.2f}{plain / fast:>7.1f}x{few:>12.2f}"
            f"{plain / few:>7.1f}x"
        )
        figures[str(n)] = {
            "plain": round(plain, 3),
            "exact": round(fast, 3),
            "rerank": round(few, 3),
        }
    print(f"and in every way {clock.median('encode'):.2f} to encode the cell; once, for all cells")
    print(
        f"together, {clock.median('begin'):.2f} for the first self-attention of {max(counts)} labels"
    )
    return figures


def print_agreement(arguments: argparse.Namespace) -> dict[str, float]:
    """Print how often reranking and exhaustive matching predict the same label."""
    n_labels, model = max(arguments.labels), LangCell.from_pretrained(arguments.model)
    try:
        files = read_validation_files(arguments.shared / "corpus")
    except FileNotFoundError as error:
        print(f"agreement not measured: {error}")
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # low coverage of small gene panels
        shares = agreement(
            model,
            files,
            _AGREEMENT,
            n_labels=n_labels,
            n_cells=arguments.agreement_cells,
            seed=arguments.seed,
        )
    print(
        f"cells of {arguments.model} called as by matching all {n_labels} labels, up to "
        f"{arguments.agreement_cells} of each of {len(files)} validation files:"
    )
    print("   ".join(f"rerank {k} {share:.1%}" for k, share in shares.items()))
    return {str(k): round(share, 4) for k, share in shares.items()}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, threads=1)
    parser.add_argument("--labels", type=int, nargs="+", default=[8, 50, 161])
    parser.add_argument("--cells", type=int, default=3, help="cells to time")
    parser.add_argument("--device", default="cpu", help="device; cuda is timed by wall time")
    add_model(parser, "mini")
    parser.add_argument(
        "--agreement-cells", type=int, default=50, help="cells per file for the agreement; 0: none"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parse(parser)


def main() -> None:
    """Print a table, and one JSON line."""
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    model = LangCell(PAPER).to(arguments.device).eval()
    where = machine()
    name = where["processor"] if arguments.device == "cpu" else torch.cuda.get_device_name()
    print(f"{name}; {arguments.cells} cells of {PAPER.max_genes:,} genes, random weights")
    counts = sorted(arguments.labels)
    clock = measure(model, counts, n_cells=arguments.cells, seed=arguments.seed)
    figures = print_table(clock, counts)
    shares = print_agreement(arguments) if arguments.agreement_cells else {}
    record = {"benchmark": "matching", "machine": where, "device": arguments.device}
    record |= {"cells": arguments.cells, "seconds": figures, "agreement": shares}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
