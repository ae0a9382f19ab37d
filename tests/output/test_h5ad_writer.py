import hashlib
import signal
import threading

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from langcell.output.h5ad_output import in_place
from langcell.output.h5ad_writer import H5adWriter, check_slots, extended_copy
from langcell.runtime.output_file import check_output, replaced_file


@pytest.fixture
def h5ad(tmp_path):
    path = tmp_path / "cells.h5ad"
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(
        X=sparse.random(30, 20, 0.3, format="csr", random_state=rng, dtype=np.float32),
        obs=pd.DataFrame(
            {"cell_type": pd.Categorical(["a", "b"] * 15)}, index=[f"c{i}" for i in range(30)]
        ),
    )
    adata.raw = adata
    adata.layers["dense"] = rng.random((30, 20))
    adata.write_h5ad(path)
    return path


def _every_dataset(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: (item.id.get_offset(), repr(item[()]), dict(item.attrs))})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return found


def test_blocks_become_arrays_that_anndata_reads(h5ad, tmp_path):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(30, 7)).astype(np.float32)
    scores = sparse.random(30, 11, 0.4, format="csr", random_state=rng, dtype=np.float32)
    with extended_copy(h5ad, tmp_path / "out.h5ad") as writer:
        for start in (0, 13, 26):
            writer.append_rows("obsm/X_new", features[start : start + 13])
            writer.append_csr("obsm/new_scores", scores[start : start + 13])
        writer.set_obs("new_label", pd.Categorical(["x", "y", "z"] * 10))
        writer.set_obs("new_margin", np.arange(30, dtype=np.float32))
        writer.set_uns("new", {"name": "m", "nested": {"k": 3}, "ids": np.array(["a"], object)})
    adata = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert (adata.obsm["X_new"] == features).all()
    assert (adata.obsm["new_scores"] != scores).nnz == 0
    assert adata.obs["new_label"].tolist() == ["x", "y", "z"] * 10
    assert adata.obs["new_margin"].tolist() == list(range(30))
    assert adata.obs.columns.tolist() == ["cell_type", "new_label", "new_margin"]
    assert adata.uns["new"]["name"] == "m" and adata.uns["new"]["nested"]["k"] == 3


def test_nothing_else_in_the_file_changes(h5ad, tmp_path):
    before = _every_dataset(h5ad)
    with extended_copy(h5ad, tmp_path / "out.h5ad") as writer:
        writer.append_rows("obsm/X_new", np.zeros((30, 3), np.float32))
        writer.set_obs("new", np.zeros(30))
    after = _every_dataset(tmp_path / "out.h5ad")
    # Not only equal values: the bytes stand where they stood.
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"obsm/X_new", "obs/new"}


def test_a_file_without_columns_or_groups(tmp_path):
    path = tmp_path / "bare.h5ad"
    anndata.AnnData(X=np.ones((4, 3), np.float32)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["obsm"], file["uns"]
    with extended_copy(path, tmp_path / "out.h5ad") as writer:
        writer.append_rows("obsm/X_new", np.ones((4, 2), np.float32))
        writer.set_obs("new", np.arange(4))
        writer.set_uns("new", {"a": 1})
    adata = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert adata.obs.columns.tolist() == ["new"]
    assert adata.obsm["X_new"].shape == (4, 2) and adata.uns["new"]["a"] == 1


def test_same_input_same_bytes(h5ad, tmp_path):
    digests = set()
    for name in ("a.h5ad", "b.h5ad"):
        with extended_copy(h5ad, tmp_path / name) as writer:
            writer.append_rows("obsm/X_new", np.ones((30, 3), np.float32))
            writer.set_obs("new", pd.Categorical(["x"] * 30))
            writer.set_uns("new", {"a": "b"})
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_a_stopped_run_leaves_nothing(h5ad, tmp_path, stop):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(stop), extended_copy(h5ad, tmp_path / "out.h5ad") as writer:
        writer.append_rows("obsm/X_new", np.ones((10, 3), np.float32))
        raise stop
    assert sorted(tmp_path.iterdir()) == before


def test_a_stopped_run_leaves_an_older_output(tmp_path):
    target = tmp_path / "out.csv"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), replaced_file(target) as temporary:
        temporary.write_text("new")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with replaced_file(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_taken_slots_are_refused_and_replaced_on_demand(h5ad, tmp_path):
    slots = ["obs/cell_type", "obsm/X_new"]
    with pytest.raises(ValueError, match="already has obs/cell_type; pass overwrite=True"):
        check_slots(h5ad, slots, overwrite=False)
    check_slots(h5ad, slots, overwrite=True)
    check_slots(h5ad, ["obsm/X_new"], overwrite=False)
    with extended_copy(h5ad, tmp_path / "out.h5ad") as writer:
        writer.remove(slots)
        writer.set_obs("cell_type", np.arange(30))
    assert anndata.read_h5ad(tmp_path / "out.h5ad").obs["cell_type"].tolist() == list(range(30))
    with extended_copy(h5ad, tmp_path / "out.h5ad") as writer:
        writer.remove(slots)
    assert anndata.read_h5ad(tmp_path / "out.h5ad").obs.columns.empty


def test_outputs_that_cannot_be_written_are_refused(tmp_path):
    def check(target, overwrite=False):
        check_output(target, suffixes=(".h5ad", ".csv"), overwrite=overwrite)

    with pytest.raises(ValueError, match=r"its name must end in \.h5ad or \.csv"):
        check(tmp_path / "out.xlsx")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        check(tmp_path / "nowhere" / "out.csv")
    (tmp_path / "out.csv").touch()
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        check(tmp_path / "out.csv")
    check(tmp_path / "out.csv", overwrite=True)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        check(tmp_path / "folder.csv", overwrite=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_results_are_moved(h5ad, monkeypatch, number):
    events = []
    take = H5adWriter.take

    def interrupted(*args):
        signal.raise_signal(number)
        take(*args)
        events.append("moved")

    monkeypatch.setattr(H5adWriter, "take", interrupted)
    before = signal.signal(number, lambda *_: events.append("stopped"))
    try:
        with in_place(h5ad, []):
            pass
    finally:
        signal.signal(number, before)
    assert events == ["moved", "stopped"]


def test_results_are_moved_off_the_main_thread(h5ad):
    def add():
        with in_place(h5ad, ["obsm/new"]) as writer:
            writer.append_rows("obsm/new", np.ones((30, 2)))

    thread = threading.Thread(target=add)
    thread.start()
    thread.join()
    assert anndata.read_h5ad(h5ad).obsm["new"].shape == (30, 2)
