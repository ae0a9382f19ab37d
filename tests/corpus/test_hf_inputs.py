"""Datasets of tokens: the cells that come out, the dictionaries behind them, and what is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from langcell.genes.gene_table import GeneTable
from langcell.genes.vocabulary import GeneVocabulary
from langcell.tokens.token_corpus import TokenCorpus
from pretrain.corpus import inputs as corpus_inputs
from pretrain.corpus.build import build_corpus
from pretrain.corpus.hf_inputs import count_rows, read_token_columns, read_tokens
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.token_dictionary import read_gene_numbers, token_map, vocabulary_of
from tests.support.corpus_files import cells_by_origin, make_study

OPTIONS = BuildOptions(min_genes=2, max_genes=6, shard_cells=10)
CELLS = [[5, 9, 4, 8], [8, 5], [7, 6, 5, 4, 9, 8], [5, 9, 4, 8], [4], [6, 99, 7, 4]]
TYPES = ["B cell", "T cell", "B cell", "B cell", "B cell", None]


@pytest.fixture
def ids() -> list[str]:
    """Six genes; their tokens are 4 to 9, as in a dictionary with four special tokens."""
    table = GeneTable.bundled()
    return table.ensembl_ids[table.is_protein_coding][:6].tolist()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six cells in two files, in the layout of `Dataset.save_to_disk`."""
    folder = tmp_path / "cells.dataset"
    write_dataset(folder, [(CELLS[:4], TYPES[:4]), (CELLS[4:], TYPES[4:])])
    return folder


@pytest.fixture
def dictionaries(tmp_path: Path, ids: list[str]) -> dict[str, str]:
    tokens = {"<pad>": 0, "<mask>": 1, **{each: 4 + i for i, each in enumerate(ids)}}
    medians = {each: np.float64(1 + i) for i, each in enumerate(ids)}
    (tmp_path / "tokens.pkl").write_bytes(pickle.dumps(tokens))
    (tmp_path / "medians.pkl").write_bytes(pickle.dumps(medians))
    return {
        "token_dictionary": str(tmp_path / "tokens.pkl"),
        "gene_medians": str(tmp_path / "medians.pkl"),
    }


def write_dataset(folder: Path, parts: list[tuple[list[list[int]], list[str | None]]]) -> None:
    folder.mkdir()
    names = []
    for number, (cells, types) in enumerate(parts):
        table = pa.table(
            {
                "input_ids": pa.array(cells, pa.list_(pa.int32())),
                "length": pa.array([len(cell) for cell in cells]),
                "cell_type": pa.array(types, pa.string()),
            }
        )
        names.append(f"data-{number:05}-of-{len(parts):05}.arrow")
        with pa.OSFile(str(folder / names[-1]), "wb") as file:
            with pa.ipc.new_stream(file, table.schema) as writer:
                for batch in table.to_batches(max_chunksize=3):
                    writer.write_batch(batch)
    state = {"_data_files": [{"filename": name} for name in names]}
    (folder / "state.json").write_text(json.dumps(state))


def build(folder: Path, given: list[str], **changes: Any) -> TokenCorpus:
    build_corpus(folder, given, BuildOptions(**{**vars(OPTIONS), **changes}))
    return TokenCorpus(folder)


def test_rows_are_read_from_anywhere(dataset: Path) -> None:
    assert count_rows(dataset) == 6
    blocks = list(read_tokens(dataset, 1, 6))
    cells = [
        block.tokens[block.offsets[row] : block.offsets[row + 1]].tolist()
        for block in blocks
        for row in range(len(block.offsets) - 1)
    ]
    assert cells == CELLS[1:]
    assert [block.start for block in blocks] == [1, 3, 4]
    columns = read_token_columns(dataset, {"label": ("nothing", "cell_type")}, 1, 6)
    assert columns["label"].values == ("B cell", "T cell")
    assert columns["label"].codes.tolist() == [1, 0, 0, 0, -1]


def test_their_tokens_become_ours(
    dataset: Path, dictionaries: dict[str, str], ids: list[str], tmp_path: Path
) -> None:
    corpus = build(tmp_path / "corpus", [str(dataset)], keep_unlabelled=True, **dictionaries)
    assert corpus.vocabulary.ensembl_ids == tuple(ids)
    assert corpus.vocabulary.medians.tolist() == [1, 2, 3, 4, 5, 6]
    found = {row: cell.tolist() for (_, row), cell in cells_by_origin(corpus).items()}
    # Token 4 of theirs is 2 of ours. Cell 3 repeats cell 0, cell 4 has one gene, 99 is no gene.
    assert found == {0: [3, 7, 2, 6], 1: [6, 3], 2: [5, 4, 3, 2, 7, 6], 5: [4, 5, 2]}
    assert corpus.manifest.categories["term"] == ("CL:0000084", "CL:0000236")
    assert corpus.measured.all()


def test_cells_are_cut_after_genes_that_are_known(
    dataset: Path, dictionaries: dict[str, str], tmp_path: Path
) -> None:
    corpus = build(
        tmp_path / "corpus", [str(dataset)], keep_unlabelled=True, max_genes=2, **dictionaries
    )
    assert cells_by_origin(corpus)["cells", 5].tolist() == [4, 5]


def test_slices_of_a_large_dataset_are_inputs_of_their_own(
    dataset: Path, dictionaries: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(tmp_path / "whole", [str(dataset)], keep_duplicates=True, **dictionaries)
    monkeypatch.setattr(corpus_inputs, "_SLICE_ROWS", 2)
    sliced = build(tmp_path / "sliced", [str(dataset)], keep_duplicates=True, **dictionaries)
    names = sliced.manifest.categories["file"]
    assert names == ("cells[0:2]", "cells[2:4]", "cells[4:6]")
    ours = {row: cell.tolist() for (_, row), cell in cells_by_origin(whole).items()}
    theirs = {row: cell.tolist() for (_, row), cell in cells_by_origin(sliced).items()}
    assert ours == theirs and len(ours) == 4


def test_splits_and_counts_go_into_one_corpus(tmp_path: Path, coding_genes: list[str]) -> None:
    make_study(coding_genes, 30, seed=0).write_h5ad(tmp_path / "a.h5ad")
    counts = build(tmp_path / "counts", [str(tmp_path / "a.h5ad")], min_genes=20, max_genes=64)
    folder = tmp_path / "splits"
    folder.mkdir()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    cells = [cell.tolist() for cell in cells_by_origin(counts).values()]
    write_dataset(folder / "train", [(cells[:20], ["B cell"] * 20)])
    write_dataset(folder / "test", [(cells[20:], ["T cell"] * 10)])
    corpus = build(
        tmp_path / "both",
        [str(folder), str(tmp_path / "a.h5ad")],
        genes=str(tmp_path / "counts/genes.tsv"),
        min_genes=20,
        max_genes=64,
    )
    assert corpus.manifest.categories["file"] == ("train", "test", "a")
    assert len(corpus) == 60
    found = cells_by_origin(corpus)
    for row, cell in enumerate(cells[:20]):
        assert found["train", row].tolist() == cell


def test_datasets_saved_by_the_library_are_read(
    dictionaries: dict[str, str], tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "input_ids": datasets.Sequence(datasets.Value("int32")),
            "cell_type": datasets.ClassLabel(names=["T cell", "B cell"]),
        }
    )
    made = datasets.Dataset.from_dict(
        {"input_ids": CELLS[:3], "cell_type": [1, 0, 1]}, features=features
    )
    made.save_to_disk(str(tmp_path / "x.dataset"))
    corpus = build(tmp_path / "corpus", [str(tmp_path / "x.dataset")], **dictionaries)
    shard, terms = corpus.shard(0), corpus.manifest.categories["term"]
    found = {
        int(row): terms[term]
        for row, term in zip(shard.columns["row"], shard.columns["term"], strict=True)
    }
    assert found == {0: "CL:0000236", 1: "CL:0000084", 2: "CL:0000236"}


def test_tokens_without_their_genes_are_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds tokens, not counts: name their genes"):
        build(tmp_path / "corpus", [str(dataset)])


def test_damaged_and_reordered_datasets_are_refused(
    dataset: Path, dictionaries: dict[str, str], tmp_path: Path
) -> None:
    state = json.loads((dataset / "state.json").read_text())
    reordered = {**state, "_indices_data_files": [{"filename": "indices.arrow"}]}
    (dataset / "state.json").write_text(json.dumps(reordered))
    with pytest.raises(ValueError, match="flatten_indices"):
        build(tmp_path / "one", [str(dataset)], **dictionaries)
    (dataset / "state.json").write_text(json.dumps(state))
    broken = dataset / "data-00001-of-00002.arrow"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"data-00001.*damaged or truncated"):
        build(tmp_path / "two", [str(dataset)], **dictionaries)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code ran",)


def test_a_pickle_cannot_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tokens.pkl"
    path.write_bytes(pickle.dumps({"ENSG00000000003": _Evil()}))
    with pytest.raises(ValueError, match=r"tokens\.pkl: expected a dictionary.*builtins\.print"):
        read_gene_numbers(path)
    assert capsys.readouterr().out == ""


def test_dictionaries_are_read_in_every_form(tmp_path: Path) -> None:
    values = {"ENSG00000000003.15": 4, "ENSG00000000005": 5, "<cls>": 2}
    (tmp_path / "a.json").write_text(json.dumps(values))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(values))
    rows = "".join(f"{key}\t{value}\n" for key, value in values.items())
    (tmp_path / "a.tsv").write_text("gene\ttoken\n" + rows)
    for name in ("a.json", "a.pkl", "a.tsv"):
        found = read_gene_numbers(tmp_path / name)
        assert found == {"ENSG00000000003": 4.0, "ENSG00000000005": 5.0}
    (tmp_path / "b.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"b\.json: expected a dictionary.*it holds a list"):
        read_gene_numbers(tmp_path / "b.json")
    (tmp_path / "c.tsv").write_text("a\tb\tc\n")
    with pytest.raises(ValueError, match="does not have two columns"):
        read_gene_numbers(tmp_path / "c.tsv")
    (tmp_path / "d.json").write_text('{"x": 1}')
    with pytest.raises(ValueError, match="has no human Ensembl id"):
        read_gene_numbers(tmp_path / "d.json")


def test_two_of_their_genes_that_are_one_of_ours_count_once(ids: list[str]) -> None:
    vocabulary = GeneVocabulary(ensembl_ids=tuple(ids[:2]), symbols=("", ""), medians=np.ones(2))
    tokens = {ids[0]: 9.0, ids[1]: 4.0, ids[2]: 5.0}
    assert token_map(tokens, vocabulary)[[9, 4, 5, 0]].tolist() == [2, 3, -1, -1]
    with pytest.raises(ValueError, match="no gene has both"):
        vocabulary_of({ids[0]: 1.0}, {ids[1]: 1.0})
