"""From inputs of every kind to shards: the same tokens, the same bytes, and what is left out."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from typer.testing import CliRunner

from langcell.counts.reader import open_counts
from langcell.tokens.token_corpus import TokenCorpus
from langcell.tokens.tokenizer import RankTokenizer
from ontology.descriptions import describe_aspects
from pretrain.commands.corpus import app
from pretrain.corpus import build as corpus_build
from pretrain.corpus import merge as corpus_merge
from pretrain.corpus import pieces as corpus_pieces
from pretrain.corpus import plan as corpus_plan
from pretrain.corpus import tokenised_pieces as corpus_runs
from pretrain.corpus.build import Part, build_corpus, merge_corpus
from pretrain.corpus.catalog import make_catalog
from pretrain.corpus.merge import make_shard
from pretrain.corpus.options import BuildOptions, with_columns
from pretrain.recipe.cell_keys import content_keys, sequence_keys, shuffle_keys
from pretrain.recipe.obs_columns import read_obs_columns
from tests.support.corpus_files import TERMS, cells_by_origin, contents, make_study

OPTIONS = BuildOptions(min_genes=20, max_genes=64, shard_cells=40)


@pytest.fixture
def files(tmp_path: Path, coding_genes: list[str]) -> list[str]:
    """Two files of 70 and 50 cells; the second holds ten cells of the first and lacks ten genes."""
    folder = tmp_path / "files"
    folder.mkdir()
    first = make_study(coding_genes, 70, seed=0)
    second = make_study(coding_genes, 50, seed=1)
    second.obs.iloc[20, 0] = ""  # no type
    second.obs.iloc[21, 0] = "CL:9999999"
    empty = sparse.csr_matrix((1, len(coding_genes)), dtype=np.float32)
    second.X = sparse.vstack([first.X[5:15], second.X[10:22], empty, second.X[23:]], format="csr")
    first.write_h5ad(folder / "a.h5ad")
    second[:, ::-1].copy().write_h5ad(folder / "b.h5ad")
    return [str(folder)]


def build(folder: Path, files: list[str], **changes: Any) -> TokenCorpus:
    options = BuildOptions(**{**vars(OPTIONS), **changes})
    build_corpus(folder, files, options)
    return TokenCorpus(folder)


def test_tokens_are_those_of_the_tokenizer_with_the_medians_of_the_corpus(
    files: list[str], tmp_path: Path
) -> None:
    corpus = build(tmp_path / "corpus", files)
    found = cells_by_origin(corpus)
    tokenizer = RankTokenizer(corpus.vocabulary, max_genes=64)
    n_compared = 0
    for name in ("a", "b"):
        with open_counts(Path(files[0]) / f"{name}.h5ad") as matrix:
            block = next(tokenizer.tokenize(matrix, check_coverage=False))
        for row in range(block.n_cells):
            if (name, row) in found:
                np.testing.assert_array_equal(found[name, row], block.cell(row))
                n_compared += 1
    assert n_compared == len(corpus) == 70 + 50 - 10 - 3


def test_medians_are_those_of_nonzero_counts_per_ten_thousand(
    files: list[str], tmp_path: Path, coding_genes: list[str]
) -> None:
    corpus = build(tmp_path / "corpus", [f"{files[0]}/a.h5ad"])
    cells = anndata.read_h5ad(f"{files[0]}/a.h5ad")
    values = cells.X.toarray() / cells.X.sum(axis=1) * 1e4
    for gene in ("ACTB", coding_genes[3], coding_genes[200]):
        if gene in corpus.vocabulary.symbols:
            place = corpus.vocabulary.symbols.index(gene)
            column = np.asarray(values[:, coding_genes.index(gene)]).ravel()
            exact = np.median(column[column > 0])
            # Bins are at most 3 % wide.
            assert corpus.vocabulary.medians[place] == pytest.approx(exact, rel=0.03)


def test_what_is_left_out_is_counted_and_said(files: list[str], tmp_path: Path) -> None:
    build(tmp_path / "corpus", files)
    report = json.loads((tmp_path / "corpus/report.json").read_text())
    a, b = report["inputs"]
    assert a["fates"]["kept"] == 70
    assert b["fates"] == {
        "kept": 37,
        "secondary": 0,
        "unlabelled": 1,
        "unknown_label": 1,
        "few_genes": 1,
        "duplicate": 10,
    }
    assert b["unresolved"] == {"CL:9999999": 1}
    text = (tmp_path / "corpus/report.txt").read_text()
    assert "107 of 120 cells from 2 inputs are kept" in text
    assert "10 seen before" in text and "1 cells\tCL:9999999" in text


def test_columns_say_where_a_cell_is_from(files: list[str], tmp_path: Path) -> None:
    corpus = build(tmp_path / "corpus", files)
    of = corpus.manifest.categories
    for number in range(len(corpus.manifest.shards)):
        columns = corpus.shard(number).columns
        for file, row, term, study, donor in zip(
            *(columns[name] for name in ("file", "row", "term", "study", "donor")), strict=True
        ):
            assert of["term"][term] == TERMS[row % 3]
            assert of["study"][study] == f"study {file}"
            assert of["donor"][donor] == f"d{row % 2}"
        assert (columns["assay"] == -1).all()
        for text, term in zip(columns["text"], columns["term"], strict=True):
            described = corpus.descriptions[text]
            assert (described.term_id, described.tissue) == (of["term"][term], "UBERON:0002048")
            aspects = {"cell type": described.term_id, "tissue": described.tissue}
            assert described.text == describe_aspects(aspects)
    assert sum(n for _, _, n in corpus.manifest.pairs) == len(corpus)


def test_cells_of_a_shard_are_a_shuffle_of_all_files(files: list[str], tmp_path: Path) -> None:
    corpus = build(tmp_path / "corpus", files)
    assert [shard.n_cells for shard in corpus.manifest.shards] != [0, 0, 0]
    rows = corpus.shard(0).columns["row"]
    assert (np.diff(rows) < 0).any() and set(corpus.shard(0).columns["file"]) == {0, 1}
    other = build(tmp_path / "other", files, seed=1)
    assert other.shard(0).columns["row"].tolist() != rows.tolist()
    assert cells_by_origin(other).keys() == cells_by_origin(corpus).keys()


def test_a_stopped_build_goes_on_and_ends_with_the_same_bytes(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_plan, "PIECE_CELLS", 32)
    whole = tmp_path / "whole"
    build(whole, files)
    opened: list[str] = []
    open_matrix = corpus_pieces.open_matrix

    def stopping(source: Any, *rest: Any) -> Any:
        opened.append(source.name)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return open_matrix(source, *rest)

    monkeypatch.setattr(corpus_pieces, "open_matrix", stopping)
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt, match="run the same command again to resume"):
        build_corpus(folder, files, OPTIONS)
    with pytest.raises(FileNotFoundError, match="has no complete corpus"):
        TokenCorpus(folder)
    build_corpus(folder, files, OPTIONS)
    assert opened == ["a", "b", "b"]  # what was finished is not read again
    assert contents(folder) == contents(whole)
    assert not (folder / ".build").exists()


def test_tokens_go_with_the_shards_that_take_them_and_a_stop_between_shards_changes_nothing(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    build(whole, files)
    monkeypatch.setattr(corpus_runs, "_MIN_SPLIT", 1)
    monkeypatch.setattr(corpus_plan, "PIECE_CELLS", 32)
    build_corpus(folder, files, OPTIONS, part=Part())
    runs = len(list((folder / ".build").glob("run-00000-?????.safetensors")))
    assert runs == 3 and len(tokens_left(folder, 0)) == 3 * 16

    def stopping(folder: Path, number: int) -> int:
        if number == 2:
            raise KeyboardInterrupt
        return make_shard(folder, number)

    monkeypatch.setattr(corpus_build, "make_shard", stopping)
    with pytest.raises(KeyboardInterrupt):
        merge_corpus(folder)
    # Of three shards two are there; range 10 of 16 lies in both the second and the third.
    assert set(tokens_left(folder, 0)) == {f"{number:02}" for number in range(10, 16)}
    monkeypatch.setattr(corpus_build, "make_shard", make_shard)
    build_corpus(folder, files, OPTIONS)
    assert contents(folder) == contents(whole)
    assert not (folder / ".build").exists()


def test_a_build_that_is_killed_once_it_is_whole_ends_by_the_same_command_alone(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    build(whole, files)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(corpus_build.shutil, "rmtree", killed)
        build_corpus(folder, files, OPTIONS)
    assert (folder / "manifest.json").is_file() and (folder / ".build").is_dir()
    with pytest.raises(FileExistsError, match="holds a corpus already"):
        build_corpus(folder, files, BuildOptions(**{**vars(OPTIONS), "seed": 1}))
    build_corpus(folder, files, OPTIONS)
    assert contents(folder) == contents(whole)
    assert not (folder / ".build").exists()
    with pytest.raises(FileExistsError, match="holds a corpus already"):
        build_corpus(folder, files, OPTIONS)


@pytest.mark.parametrize("n_gone", [1, 2, 5, 20, 35])
def test_overwriting_that_is_stopped_leaves_a_build_that_goes_on(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_gone: int
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    build(whole, files)
    monkeypatch.setattr(corpus_runs, "_MIN_SPLIT", 1)
    build_corpus(folder, files, OPTIONS, part=Part())
    assert len(list((folder / ".build").iterdir())) > 35
    unlink, gone = Path.unlink, []

    def stopping(path: Path, missing_ok: bool = False) -> None:
        if path.suffix != ".tmp":
            gone.append(path)
        if len(gone) > n_gone:
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", stopping)
        build_corpus(folder, files, OPTIONS, overwrite=True)
    build_corpus(folder, files, OPTIONS)
    assert contents(folder) == contents(whole)


def test_a_shard_that_another_process_made_meanwhile_is_taken_as_made(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "corpus"
    build_corpus(folder, files, OPTIONS, part=Part())
    plan = corpus_plan.read_plan(folder)
    corpus_merge.plan_layout(plan, corpus_plan.read_catalog(folder))
    gather = corpus_merge._cells_of_shard

    def late(*given: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(corpus_merge, "_cells_of_shard", gather)
            assert make_shard(folder, 0) == n_cells
        raise FileNotFoundError("tokens are missing")

    n_cells = make_shard(folder, 0)
    (folder / ".build/shard-00000.json").unlink()
    monkeypatch.setattr(corpus_merge, "_cells_of_shard", late)
    assert make_shard(folder, 0) == n_cells


def tokens_left(folder: Path, source: int) -> list[str]:
    """Ranges of keys of which the tokens of an input are still there."""
    paths = (folder / ".build").glob(f"run-{source:05}-?????-*.safetensors")
    return [path.stem.split("-")[-1] for path in paths]


def test_parts_and_processes_make_the_same_corpus(files: list[str], tmp_path: Path) -> None:
    whole, parts, processes = (tmp_path / name for name in ("whole", "parts", "processes"))
    build(whole, files)
    for number in (2, 1):
        assert build_corpus(parts, files, OPTIONS, part=Part(number=number, of=2)) is None
    merge_corpus(parts)
    build_corpus(processes, files, OPTIONS, n_workers=2)
    assert contents(parts) == contents(whole)
    assert contents(processes) == contents(whole)


def test_merging_names_what_no_part_has_done(files: list[str], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no unfinished build"):
        merge_corpus(tmp_path / "none")
    build_corpus(tmp_path / "corpus", files, OPTIONS, part=Part(number=1, of=2))
    with pytest.raises(FileNotFoundError, match=r"1 of 2 inputs .* the first is .*b\.h5ad: run"):
        merge_corpus(tmp_path / "corpus")


def test_dask_makes_the_same_corpus(files: list[str], tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    whole, clustered = tmp_path / "whole", tmp_path / "clustered"
    build(whole, files)
    # In a process of its own: a cluster leaves threads and warnings behind.
    script = (
        "from pathlib import Path\n"
        "from pretrain.corpus.build import build_corpus\n"
        "from tests.corpus.test_build import OPTIONS\n"
        "if __name__ == '__main__':\n"
        f"    build_corpus(Path({str(clustered)!r}), {files!r}, OPTIONS, n_workers=1, dask='local')\n"
    )
    path = tmp_path / "script.py"
    path.write_text(script)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(path)], env={"PYTHONPATH": str(root), "PATH": ""}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert contents(clustered) == contents(whole)


def test_secondary_cells_are_left_out_unless_wanted(
    tmp_path: Path, coding_genes: list[str]
) -> None:
    cells = make_study(coding_genes, 30, seed=0, is_primary_data=[True, False, True] * 10)
    cells.write_h5ad(tmp_path / "a.h5ad")
    assert len(build(tmp_path / "one", [str(tmp_path / "a.h5ad")])) == 20
    everything = build(tmp_path / "two", [str(tmp_path / "a.h5ad")], keep_secondary=True)
    assert len(everything) == 30


@pytest.mark.parametrize("primary", [range(0), range(32), range(64, 90)])
def test_pieces_of_which_no_cell_is_kept_are_empty(
    tmp_path: Path, coding_genes: list[str], monkeypatch: pytest.MonkeyPatch, primary: range
) -> None:
    monkeypatch.setattr(corpus_plan, "PIECE_CELLS", 32)
    is_primary = [row in primary for row in range(90)]
    make_study(coding_genes, 30, seed=0).write_h5ad(tmp_path / "a.h5ad")
    make_study(coding_genes, 90, seed=1, is_primary_data=is_primary).write_h5ad(tmp_path / "b.h5ad")
    corpus = build(tmp_path / "corpus", [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")])
    assert len(corpus) == 30 + len(primary)


def test_labels_may_be_words(tmp_path: Path, coding_genes: list[str]) -> None:
    cells = make_study(coding_genes, 30, seed=0, author=["B cells", "T-cell", "my cells"] * 10)
    del cells.obs["cell_type_ontology_term_id"]
    cells.write_h5ad(tmp_path / "a.h5ad")
    columns = with_columns(["label=author"])
    corpus = build(tmp_path / "one", [str(tmp_path / "a.h5ad")], columns=columns)
    assert corpus.manifest.categories["term"] == ("CL:0000084", "CL:0000236")
    assert len(corpus) == 20
    kept = build(
        tmp_path / "two", [str(tmp_path / "a.h5ad")], columns=columns, keep_unlabelled=True
    )
    assert sorted({term for term, _, _ in kept.manifest.pairs}) == [-1, 0, 1]
    unlabelled = np.concatenate(
        [kept.shard(i).columns["text"] for i in range(len(kept.manifest.shards))]
    )
    assert np.count_nonzero(unlabelled == -1) == 10


def test_a_build_does_not_go_on_with_other_medians(files: list[str], tmp_path: Path) -> None:
    build(tmp_path / "one", files)
    genes = tmp_path / "one/genes.tsv"
    options = BuildOptions(**{**vars(OPTIONS), "genes": str(genes)})
    build_corpus(tmp_path / "two", files, options, part=Part(number=1, of=2))
    lines = genes.read_text().splitlines()
    genes.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ValueError, match="with other contents of a file of .*genes"):
        build_corpus(tmp_path / "two", files, options)


def test_given_genes_rank_by_their_own_medians(files: list[str], tmp_path: Path) -> None:
    first = build(tmp_path / "first", [f"{files[0]}/a.h5ad"])
    again = build(tmp_path / "again", files, genes=str(tmp_path / "first/genes.tsv"))
    assert again.vocabulary.ensembl_ids == first.vocabulary.ensembl_ids
    np.testing.assert_array_equal(again.vocabulary.medians, first.vocabulary.medians)
    ours, theirs = cells_by_origin(first), cells_by_origin(again)
    for origin, tokens in ours.items():
        np.testing.assert_array_equal(theirs[origin], tokens)


def test_measured_genes_are_those_of_each_file(tmp_path: Path, coding_genes: list[str]) -> None:
    make_study(coding_genes, 30, seed=0).write_h5ad(tmp_path / "a.h5ad")
    make_study(coding_genes, 30, seed=1)[:, 200:].copy().write_h5ad(tmp_path / "b.h5ad")
    corpus = build(tmp_path / "corpus", [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")])
    known = np.isin(corpus.vocabulary.symbols, coding_genes[200:])
    assert corpus.measured[0].all()
    np.testing.assert_array_equal(corpus.measured[1], known)


@pytest.mark.parametrize("stored", ["csc", "dense", "zarr"])
def test_every_storage_gives_the_same_corpus(
    tmp_path: Path, coding_genes: list[str], stored: str
) -> None:
    cells = make_study(coding_genes, 50, seed=0)
    cells.write_h5ad(tmp_path / "a.h5ad")
    folder = tmp_path / "other"
    folder.mkdir()
    if stored == "zarr":
        with warnings.catch_warnings():
            # anndata announces its next default whenever it writes the present one
            warnings.simplefilter("ignore", UserWarning)
            cells.write_zarr(folder / "a.zarr")
    else:
        cells.X = cells.X.tocsc() if stored == "csc" else cells.X.toarray()
        cells.write_h5ad(folder / "a.h5ad")
    build(tmp_path / "one", [str(tmp_path / "a.h5ad")])
    if stored == "csc":
        with pytest.warns(UserWarning, match="stored by gene"):
            build(tmp_path / "two", [str(folder)])
    else:
        build(tmp_path / "two", [str(folder)])
    ours, theirs = contents(tmp_path / "one"), contents(tmp_path / "two")
    # The report names the paths.
    assert {name: ours[name] for name in ours if name != "report.json"} == {
        name: theirs[name] for name in theirs if name != "report.json"
    }


def test_bad_inputs_are_refused_by_name_or_skipped(files: list[str], tmp_path: Path) -> None:
    bad = Path(files[0]) / "c.h5ad"
    bad.write_bytes((Path(files[0]) / "a.h5ad").read_bytes()[:20000])
    refusal = r"c\.h5ad.*(damaged|cannot be read).*; skip_bad=True leaves such inputs out$"
    with pytest.raises(ValueError, match=refusal):
        build(tmp_path / "one", files)
    with pytest.raises(ValueError, match=refusal):
        build(tmp_path / "alone", [str(bad)])
    assert not (tmp_path / "alone").exists()  # nothing was read that the next start could use
    corpus = build(tmp_path / "two", files, skip_bad=True)
    assert len(corpus) == 107
    build(tmp_path / "one", files, skip_bad=True)  # as the refusal says, where it was given
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with pytest.raises(ValueError, match=r"none of the 1 inputs can be read: .*c\.h5ad"):
        build(tmp_path / "alone", [str(bad)], skip_bad=True)
    assert not (tmp_path / "alone").exists()
    report = json.loads((tmp_path / "two/report.json").read_text())
    assert "c.h5ad" in report["inputs"][2]["error"]
    said = (tmp_path / "two/report.txt").read_text()
    assert "left out: 1 of 3 inputs that cannot be read, see below\n" in said
    (tmp_path / "empty.h5ad").touch()
    with pytest.raises(ValueError, match=r"empty\.h5ad: not an HDF5 file; counts are read from"):
        build(tmp_path / "three", [str(tmp_path / "empty.h5ad")])


def test_a_file_that_breaks_off_later_is_skipped_whole(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = anndata.read_h5ad(f"{files[0]}/a.h5ad")
    cells.X.data[-1] = 0.5  # no sample of the start sees it
    cells.write_h5ad(f"{files[0]}/a.h5ad")
    monkeypatch.setattr(corpus_plan, "PIECE_CELLS", 32)
    monkeypatch.setattr(corpus_plan, "_MIN_SAMPLE", 1)
    with pytest.raises(ValueError, match=r"a\.h5ad.*(non-integer|no raw counts).*skip_bad=True"):
        build(tmp_path / "one", files, median_cells=1, min_observations=1)
    corpus = build(tmp_path / "two", files, median_cells=1, min_observations=1, skip_bad=True)
    assert {name for name, _ in cells_by_origin(corpus)} == {"b"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_genes": 0}, "max.genes must be at least 1"),
        ({"min_genes": 65}, "min.genes must be 0 to .*max.genes.64, got 65"),
        ({"gene_medians": "x.json"}, "go together"),
        ({"seed": -5}, "seed must be 0 to .*, got -5"),
        ({"genes": "nowhere.tsv"}, "genes must name a file, but nowhere.tsv does not exist"),
        ({"genes": "/"}, "genes must name a file, but / is a folder"),
        (
            {"token_dictionary": "no.pkl", "gene_medians": "no.pkl"},
            "token.dictionary must name a file, but no.pkl does not exist",
        ),
        (
            {"token_dictionary": __file__, "gene_medians": "no.pkl"},
            "gene.medians must name a file, but no.pkl does not exist",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(
    files: list[str], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        build(tmp_path / "corpus", files, **changes)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("words", [("--seed", "-5"), ("--workers", "0")])
def test_numbers_that_cannot_be_are_wrong_usage(tmp_path: Path, words: tuple[str, str]) -> None:
    done = CliRunner().invoke(app, ["build", "a.h5ad", "--out", str(tmp_path / "corpus"), *words])
    assert done.exit_code == 2 and words[0] in done.output


def test_a_build_goes_on_only_as_it_was_begun(files: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    build_corpus(folder, files, OPTIONS, part=Part(number=1, of=2))
    with pytest.raises(ValueError, match="unfinished build with max_genes=64, not 32"):
        build(folder, files, max_genes=32, min_genes=10)
    a, b, c = f"{files[0]}/a.h5ad", f"{files[0]}/b.h5ad", f"{tmp_path}/c.h5ad"
    Path(c).touch()
    for given, found in (
        ([b], rf"{a} is missing now"),
        ([a, b, c], rf"{c} is new"),
        ([b, a], "the same in another order"),
    ):
        with pytest.raises(ValueError, match=rf"other inputs \({found}\); resume"):
            build(folder, given)
    build_corpus(folder, files, OPTIONS)
    with pytest.raises(FileExistsError, match="holds a corpus already"):
        build_corpus(folder, files, OPTIONS)
    other = BuildOptions(**{**vars(OPTIONS), "seed": 3})
    build_corpus(folder, files, other, overwrite=True)
    build_corpus(tmp_path / "fresh", files, other)
    assert contents(folder) == contents(tmp_path / "fresh")


def test_files_that_are_no_corpus_are_left_alone(files: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "genes.tsv").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="is not empty and holds no corpus"):
            build_corpus(folder, files, OPTIONS, overwrite=overwrite)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest"):
        build_corpus(folder, files, OPTIONS, overwrite=True)
    assert (folder / "genes.tsv").read_text() == "mine"


def test_no_cell_kept_says_why(tmp_path: Path, coding_genes: list[str]) -> None:
    make_study(coding_genes, 30, seed=0).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"no cell of the 1 inputs is kept; see .*report\.txt"):
        build(tmp_path / "corpus", [str(tmp_path / "a.h5ad")], min_genes=400, max_genes=400)
    said = (tmp_path / "corpus/report.txt").read_text()
    assert "left out: 30 too few genes (min_genes takes fewer)\n" in said


def test_what_most_cells_are_lost_to_is_said_with_its_remedy(
    tmp_path: Path, coding_genes: list[str]
) -> None:
    cells = make_study(coding_genes, 30, seed=0)
    cells.obs.iloc[10:, 0] = ""
    cells.write_h5ad(tmp_path / "a.h5ad")
    build(tmp_path / "corpus", [str(tmp_path / "a.h5ad")], min_observations=1)
    said = (tmp_path / "corpus/report.txt").read_text()
    assert "left out: 20 no label (columns label=NAME names the column of labels" in said


def test_a_folder_that_cannot_be_is_named(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file: it is a file; pass a folder"):
        build(tmp_path / "file", files)
    with pytest.raises(OSError, match=f"cannot write {tmp_path / 'file/corpus'}: Not a directory"):
        build(tmp_path / "file/corpus", files)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("genes", "no input has a known gene: var must name human genes"),
        ("labels", r"no cell is kept: are the cells labelled, in obs \w+ or cell_type\? \("),
        (
            "words",
            "no cell is kept: the ontology does not know the labels 'type 0' .18 cells., 'type 1'"
            " .18 cells., 'type 2' .17 cells., 1 more; labels are ids or names",
        ),
        ("secondary", "no cell is kept: none is primary data"),
        ("few", r"no gene is measured in 1 inputs and .*kept; min_inputs and min_obs\S+ take"),
    ],
)
def test_inputs_that_make_no_corpus_leave_nothing(
    files: list[str], tmp_path: Path, change: str, message: str
) -> None:
    cells = anndata.read_h5ad(f"{files[0]}/a.h5ad")
    if change == "genes":
        cells.var_names = [f"peak-{number}" for number in range(cells.n_vars)]
    elif change == "labels":
        del cells.obs["cell_type_ontology_term_id"]
    elif change == "words":
        labels = [f"type {row % 4}" for row in range(cells.n_obs)]
        cells.obs["cell_type_ontology_term_id"] = labels
    elif change == "secondary":
        cells.obs["is_primary_data"] = False
    else:
        cells = cells[:5].copy()
    cells.write_h5ad(tmp_path / "wrong.h5ad")
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "corpus", [str(tmp_path / "wrong.h5ad")])
    assert not (tmp_path / "corpus").exists()
    build(tmp_path / "corpus", files)  # which needs no --overwrite


def test_inputs_without_a_cell_are_said_to_have_none() -> None:
    with pytest.raises(ValueError, match="no cell is kept: .* none that obs_filter takes"):
        make_catalog([], OPTIONS)


def test_inputs_are_found_and_named(files: list[str], tmp_path: Path) -> None:
    nested = Path(files[0]) / "more"
    nested.mkdir()
    (nested / "a.h5ad").write_bytes((Path(files[0]) / "a.h5ad").read_bytes())
    corpus = build(tmp_path / "corpus", [f"{files[0]}/**/*.h5ad"])
    assert corpus.manifest.categories["file"] == ("files/a", "files/b", "more/a")
    with pytest.raises(ValueError, match=r"a\.h5ad is given twice"):
        build(tmp_path / "x", [files[0], f"{files[0]}/a.h5ad"])
    with pytest.raises(FileNotFoundError, match="no match for a glob"):
        build(tmp_path / "x", [f"{files[0]}/*.nothing"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="it contains no input"):
        build(tmp_path / "x", [str(empty)])


@pytest.mark.parametrize("kind", ["categorical", "text", "numbers", "flags", "codes with blanks"])
def test_columns_of_any_kind_are_read_as_text(tmp_path: Path, kind: str) -> None:
    values = {
        "categorical": pd.Categorical(["b", None, "a", "b"], categories=["c", "b", "a"]),
        "text": ["b", "", "a", "b"],
        "numbers": [2, 10, 1, 2],
        "flags": [True, False, True, True],
        "codes with blanks": pd.Categorical([" b", " ", "a", "b"]),
    }[kind]
    obs = pd.DataFrame({"x": values}, index=[*"abcd"])
    anndata.AnnData(obs=obs).write_h5ad(tmp_path / "x.h5ad")
    column = read_obs_columns(tmp_path / "x.h5ad", {"ours": ("y", "x")})["ours"]
    found = [column.values[code] if code >= 0 else "" for code in column.codes]
    wanted = ["" if pd.isna(each) else str(each).strip() for each in values]
    assert found == wanted and list(column.values) == sorted({*wanted} - {""})


def test_codes_without_a_value_are_damage(files: list[str], tmp_path: Path) -> None:
    path = Path(files[0]) / "a.h5ad"
    with h5py.File(path, "a") as file:
        file["obs/cell_type_ontology_term_id/codes"][3] = 77
    with pytest.raises(
        ValueError, match=r"a\.h5ad: its obs cannot be read \(codes must be -1 to .* got .* to 77"
    ):
        build(tmp_path / "corpus", files)


def test_a_worker_imports_what_its_inputs_need_alone() -> None:
    code = "import sys, pretrain.corpus.pieces, pretrain.corpus.merge; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "anndata", "zarr", "pyarrow", "torch"} & set(done.stdout.split())


def test_copies_are_found_whatever_else_is_there(tmp_path: Path, coding_genes: list[str]) -> None:
    """A file that lacks genes, a panel of few genes, and other files do not hide a copy."""
    study = make_study(coding_genes, 60, seed=0)
    study.write_h5ad(tmp_path / "a.h5ad")
    study[:40, : study.n_vars * 3 // 4].write_h5ad(tmp_path / "b.h5ad")
    make_study(coding_genes, 50, seed=1)[:, :30].copy().write_h5ad(tmp_path / "panel.h5ad")
    for number in range(20):
        make_study(coding_genes, 30, seed=2 + number).write_h5ad(tmp_path / f"c{number}.h5ad")
    options = {"min_genes": 5}
    two = build(tmp_path / "two", [str(tmp_path / f"{name}.h5ad") for name in "ab"], **options)
    assert len(two) == 60
    everything = build(tmp_path / "all", [str(tmp_path)], **options)
    assert sum(name == "b" for name, _ in cells_by_origin(everything)) == 0


def test_contents_tell_cells_apart_and_know_them_again() -> None:
    bits = np.array([3, 5, 7, 0], dtype=np.uint64)

    def key(columns: list[int], counts: list[float], least: int = 1) -> int:
        indptr = np.array([0, len(columns)])
        return int(
            content_keys(indptr, np.array(columns), np.array(counts), bits, min_genes=least)[0]
        )

    assert key([0, 1], [1.0, 2.0]) == key([1, 0], [2.0, 1.0])
    assert key([0, 1], [1.0, 2.0]) == key([0, 1, 3], [1.0, 2.0, 9.0])  # gene 3 is not compared
    assert key([0, 1], [1.0, 2.0]) != key([0, 1], [2.0, 1.0])
    assert key([0, 1], [1.0, 2.0]) != key([0, 2], [1.0, 2.0])
    assert key([0, 1], [1.0, 2.0]) == key([0, 1, 2], [1.0, 2.0, 0.0])
    assert key([0, 1], [1.0, 2.0], least=3) == 0
    tokens, offsets = np.array([4, 5, 4, 5, 5, 4]), np.array([0, 2, 4, 6, 6])
    keys = sequence_keys(tokens, offsets)
    assert keys[0] == keys[1] != keys[2] and keys[3] == 0


def test_shuffle_keys_depend_on_seed_input_and_row() -> None:
    keys = shuffle_keys(0, 0, np.arange(1000))
    assert len(set(keys)) == 1000
    assert keys[5] == shuffle_keys(0, 0, np.array([5]))[0]
    assert keys[5] != shuffle_keys(1, 0, np.array([5]))[0] != shuffle_keys(0, 1, np.array([5]))[0]
    assert abs(np.corrcoef(keys.astype(float), np.arange(1000))[0, 1]) < 0.1


def test_the_command_builds_checks_and_names_a_corrupt_shard(
    files: list[str], tmp_path: Path
) -> None:
    folder, runner = tmp_path / "corpus", CliRunner()
    command = ["build", *files, "--out", str(folder), "--min-genes", "20", "--max-genes", "64"]
    done = runner.invoke(app, [*command, "--shard-cells", "40", "--workers", "1"])
    assert done.exit_code == 0 and f"wrote\t{folder}" in done.stdout
    assert "107 cells" in runner.invoke(app, ["check", str(folder)]).stdout
    told = runner.invoke(app, ["info", str(folder)]).stdout
    assert "cells\t107\n" in told and "type\tCL:0000236\t36\tB cell\n" in told
    shard = folder / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    (folder / "shard-00002.safetensors").write_bytes(b"short")
    found = runner.invoke(app, ["check", str(folder)])
    assert found.exit_code == 1
    assert "shard-00001.safetensors is corrupt" in found.stdout
    assert "shard-00002.safetensors has 5 bytes" in found.stdout
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is corrupt.*and 1 more"):
        TokenCorpus(folder)
    with pytest.raises(ValueError, match=r"shard-00002.*cut short"):
        TokenCorpus(folder, verify=False)
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is missing"):
        TokenCorpus(folder)


def test_parts_of_work_are_read_from_text() -> None:
    assert Part.parse("2/8") == Part(number=2, of=8)
    for text in ("0/8", "9/8", "2", "a/b"):
        with pytest.raises(ValueError, match="part must be"):
            Part.parse(text)


def test_real_cells_are_tokenised_as_the_tokenizer_does(shared: Path, tmp_path: Path) -> None:
    source = shared / "corpus/train/cells/garnett_pbmc_facs800.h5ad"
    corpus = build(tmp_path / "corpus", [str(source)], min_genes=100, max_genes=512)
    found = cells_by_origin(corpus)
    tokenizer = RankTokenizer(corpus.vocabulary, max_genes=512)
    with open_counts(source) as matrix:
        for counts in matrix.blocks():
            genes = tokenizer.column_genes(matrix.resolution)
            block = tokenizer.tokenize_csr(counts.counts, genes, counts.totals, start=counts.start)
            for row in range(block.n_cells):
                origin = ("garnett_pbmc_facs800", block.start + row)
                if origin in found:
                    np.testing.assert_array_equal(found[origin], block.cell(row))
    assert len(found) > 700
