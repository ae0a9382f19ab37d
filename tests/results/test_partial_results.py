"""What an interrupted run leaves, and what the next one makes of it."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from langcell.model.embed_cells import BLOCK_CELLS
from zeroshot.confidence.backoff import Calls, ProbableTerms
from zeroshot.results.annotations import AnnotationBlock
from zeroshot.results.partial_results import (
    FolderResults,
    MemoryResults,
    open_results,
    partial_folder,
)
from zeroshot.results.records import RecordLayout
from zeroshot.scores.scores import Scores

IDS = ("CL:1", "CL:2", "CL:3")
LAYOUT = RecordLayout(candidate_ids=IDS, n_kept=2, width=4, n_terms=9, n_probable=3)
N_CELLS = 2 * BLOCK_CELLS + 100


def block(start: int, n_cells: int) -> AnnotationBlock:
    rng = np.random.default_rng(start)
    numbers = rng.normal(size=(n_cells, 9)).astype(np.float32)
    return AnnotationBlock(
        start=start,
        features=numbers[:, :4],
        scores=Scores(
            candidate_ids=IDS,
            candidates=rng.integers(0, 3, (n_cells, 2)).astype(np.int32),
            log_probabilities=numbers[:, 4:6],
        ),
        calls=Calls(
            terms=rng.integers(-1, 9, n_cells).astype(np.int32),
            confidence=numbers[:, 6],
            leaf_confidence=numbers[:, 7],
        ),
        probable_terms=ProbableTerms(
            terms=rng.integers(-1, 9, (n_cells, 3)).astype(np.int32),
            probabilities=rng.random((n_cells, 3), dtype=np.float32),
            n_terms=9,
        ),
        ood=numbers[:, 8],
    )


def blocks(start: int, stop: int, step: int = BLOCK_CELLS) -> list[AnnotationBlock]:
    return [block(first, min(first + step, stop) - first) for first in range(start, stop, step)]


def store(results, start: int, stop: int) -> None:
    with results.appending(start) as append:
        for each in blocks(start, stop):
            append(each)


def bits(found) -> list[bytes]:
    return [LAYOUT.pack(each).tobytes() for each in found]


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_what_is_stored_comes_back(kind, tmp_path):
    results = (
        MemoryResults(LAYOUT, N_CELLS)
        if kind == "memory"
        else FolderResults(tmp_path, LAYOUT, N_CELLS)
    )
    assert results.pending() == [range(N_CELLS)]
    store(results, 0, N_CELLS)
    assert bits(results.blocks()) == bits(blocks(0, N_CELLS))
    assert [each.start for each in results.blocks()] == [0, BLOCK_CELLS, 2 * BLOCK_CELLS]


def test_small_blocks_are_joined(tmp_path):
    results = FolderResults(tmp_path, LAYOUT, N_CELLS)
    small = blocks(0, N_CELLS, 256)
    with results.appending(0) as append:
        for each in small:
            append(each)
    assert [len(each.ood) for each in results.blocks()] == [BLOCK_CELLS, BLOCK_CELLS, 100]
    assert b"".join(bits(results.blocks())) == b"".join(bits(small))


def test_features_that_nobody_wants_are_not_stored(tmp_path):
    narrow = RecordLayout(candidate_ids=IDS, n_kept=2, width=0, n_terms=9, n_probable=0)
    results = FolderResults(tmp_path, narrow, 100)
    with results.appending(0) as append:
        append(block(0, 100))
    (found,) = results.blocks()
    assert found.features.shape == (100, 0)
    assert (found.ood == block(0, 100).ood).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.booleans(), st.sampled_from([1, 2, 3]))
def test_any_cut_is_mended(tmp_path_factory, share, damaged, n_writers):
    """Whatever a stop cuts off or spoils, the pending cells complete the run."""
    folder = tmp_path_factory.mktemp("run")
    results = FolderResults(folder, LAYOUT, N_CELLS)
    for start in range(0, n_writers * BLOCK_CELLS, BLOCK_CELLS):  # as several processes write
        store(results, start, min(start + BLOCK_CELLS, N_CELLS))
    victim = sorted(folder.glob("*.bin"))[0]
    raw = bytearray(victim.read_bytes())
    place = int(share * (len(raw) - 1))
    if damaged:
        raw[place] ^= 1
        victim.write_bytes(raw)
    else:
        victim.write_bytes(raw[:place])
    pending = results.pending()
    assert pending[0].start == 0 and all(rows.start % BLOCK_CELLS == 0 for rows in pending)
    for rows in pending:
        store(results, rows.start, rows.stop)
    assert results.pending() == []
    assert bits(results.blocks()) == bits(blocks(0, N_CELLS))


def test_missing_cells_are_never_handed_out(tmp_path):
    results = FolderResults(tmp_path, LAYOUT, N_CELLS)
    store(results, 0, BLOCK_CELLS)
    with pytest.raises(ValueError, match=f"cells from {BLOCK_CELLS} on are missing"):
        list(results.blocks())


def stop_after(output, job, error, n_cells=BLOCK_CELLS):
    with open_results(output, job, LAYOUT, N_CELLS) as results:
        if n_cells:
            store(results, 0, n_cells)
        raise error


def test_a_stopped_job_goes_on_and_another_starts_afresh(tmp_path):
    output = tmp_path / "out.h5ad"
    with pytest.raises(KeyboardInterrupt, match="1,024 of 2,148 cells are kept in .*out.h5ad"):
        stop_after(output, {"a": 1}, KeyboardInterrupt())
    with open_results(output, {"a": 1}, LAYOUT, N_CELLS) as results:
        assert results.pending() == [range(BLOCK_CELLS, N_CELLS)]
        store(results, BLOCK_CELLS, N_CELLS)
    assert not partial_folder(output).exists()
    with pytest.warns(UserWarning, match="are kept"), pytest.raises(OSError, match="no space"):
        stop_after(output, {"a": 1}, OSError("no space"))
    with open_results(output, {"a": 2}, LAYOUT, N_CELLS) as results:
        assert results.pending() == [range(N_CELLS)]


@pytest.mark.parametrize(("error", "n_cells"), [(ValueError("bad cell"), 1024), (OSError("x"), 0)])
def test_nothing_is_kept_of_what_cannot_go_on(tmp_path, error, n_cells):
    with pytest.raises(type(error)):
        stop_after(tmp_path / "out.csv", {}, error, n_cells)
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_of_killed_runs_go(tmp_path):
    (tmp_path / ".out.h5ad.0a1b2c3d.tmp").touch()
    (tmp_path / ".other.h5ad.0a1b2c3d.tmp").touch()
    with open_results(tmp_path / "out.h5ad", {}, LAYOUT, 0):
        left = {path.name for path in tmp_path.glob(".*.tmp")}
    assert left == {".other.h5ad.0a1b2c3d.tmp"}


def test_two_runs_cannot_write_one_output(tmp_path):
    folder = partial_folder(tmp_path / "out.h5ad")
    folder.mkdir()
    with (
        FileLock(folder / "lock"),
        pytest.raises(BlockingIOError, match="another process is writing .*out.h5ad"),
        open_results(tmp_path / "out.h5ad", {}, LAYOUT, N_CELLS),
    ):
        pass


@pytest.fixture
def cells(make_cells, tmp_path):
    make_cells(6 * BLOCK_CELLS + 10).write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def langcell(*words, cwd, **how):
    return subprocess.Popen(
        [sys.executable, "-m", "langcell", "zeroshot", *map(str, words)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("suffix", ["h5ad", "csv", "parquet", "inplace"])
def test_a_killed_run_gives_the_same_bytes_when_it_goes_on(suffix, cells, tiny_bag, tmp_path):
    work = tmp_path / "killed"
    for folder in (work, tmp_path / "whole"):
        folder.mkdir()
        (folder / "cells.h5ad").write_bytes(cells.read_bytes())
        # Everything that the job depends on is the same but for the folder.
    out = ["--inplace"] if suffix == "inplace" else ["--out", f"named.{suffix}"]
    words = ["--h5ad", "cells.h5ad", "--model", tiny_bag, *out]
    written = "cells.h5ad" if suffix == "inplace" else f"named.{suffix}"
    assert finish(langcell(*words, cwd=tmp_path / "whole"))[0] == 0
    folder = partial_folder(work / written)
    first = folder / "cells-000000000000.bin"
    killed = langcell(*words, cwd=work)
    deadline = time.monotonic() + 60
    while not (first.exists() and first.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    finish(killed)
    if folder.exists():  # else it was done before the signal came
        os.truncate(first, first.stat().st_size - 7)
    status, _, err = finish(langcell(*words, cwd=work))
    assert status == 0, err
    assert (work / written).read_bytes() == (tmp_path / "whole" / written).read_bytes()
    assert not folder.exists()
    assert "by an interrupted run and" in err or "6,154 in" in err


def test_a_full_disk_keeps_what_is_done(cells, tiny_bag, tmp_path):
    """A limit on the size of files stands for the disk."""
    words = ["--h5ad", "cells.h5ad", "--model", tiny_bag, "--out", "named.h5ad"]
    limit = 3 * BLOCK_CELLS * 200

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    status, out, err = finish(langcell(*words, cwd=tmp_path, preexec_fn=limited))
    assert status == 1 and not out
    assert "cells are kept in .named.h5ad.partial" in err
    assert "langcell: error: cannot write .named.h5ad.partial" in err.splitlines()[-1]
    assert not (tmp_path / "named.h5ad").exists() and not list(tmp_path.glob("*.tmp"))
    status, _, err = finish(langcell(*words, cwd=tmp_path))
    assert status == 0 and "by an interrupted run and" in err


def test_two_devices_give_the_same_bytes_as_one(cells, tiny_bag, tmp_path):
    words = ["--h5ad", cells, "--model", tiny_bag, "--out", "named.csv"]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert finish(langcell(*words, cwd=tmp_path / "one"))[0] == 0
    status, out, err = finish(langcell(*words, "--devices", 2, cwd=tmp_path / "two"))
    assert status == 0, err
    assert out.count("wrote") == 1
    both = [(tmp_path / each / "named.csv").read_bytes() for each in ("one", "two")]
    assert both[0] == both[1]
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["named.csv"]


def test_a_device_without_cells_of_its_own_says_nothing(make_cells, tiny_bag, tmp_path):
    make_cells(20).write_h5ad(tmp_path / "few.h5ad")
    words = ["--h5ad", "few.h5ad", "--model", tiny_bag, "--out", "named.csv", "--devices", 2]
    status, out, err = finish(langcell(*words, cwd=tmp_path))
    assert status == 0 and out == "wrote\tnamed.csv\n"
    assert "error" not in err, err


def test_a_job_names_what_its_results_depend_on(cells, tiny_bag, make_cells, tmp_path):
    from langcell.counts.reader import open_counts
    from langcell.model.embedder import load_embedder
    from ontology.graph import Ontology
    from zeroshot.annotate.cell_scorer import CellScorer
    from zeroshot.annotate.options import AnnotateOptions
    from zeroshot.annotate.run_identity import annotation_job
    from zeroshot.labels.candidates import own_candidates

    model = load_embedder(tiny_bag)

    def job(path=cells, labels=("B cell", "T cell"), **options):
        candidates = own_candidates(labels, Ontology.bundled())
        scorer = CellScorer(model, candidates, AnnotateOptions(**options))
        with open_counts(path) as matrix:
            return json.dumps(annotation_job(path, matrix, scorer, width=16), sort_keys=True)

    other = tmp_path / "other.h5ad"
    make_cells(20).write_h5ad(other)
    jobs = [
        job(),
        job(other),
        job(labels=("B cell", "monocyte")),
        job(confidence=0.8),
        job(top_k=5),
    ]
    assert len(set(jobs)) == len(jobs)
    assert job() == job(overwrite=True, key_added="other")
