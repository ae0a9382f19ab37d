"""Counts of every kind of source: the same cells come out, and what is wrong is refused by name."""

import errno
import gzip
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse

from langcell.counts.reader import open_counts
from langcell.counts.scale import guess_transform
from langcell.genes.vocabulary import GeneTable

N_CELLS = 70


@pytest.fixture(scope="module")
def symbols() -> list[str]:
    table = GeneTable.bundled()
    names = table.symbols[table.is_protein_coding & (table.symbols != "")]
    unique, times = np.unique(names.astype(str), return_counts=True)
    return unique[times == 1][:40].tolist()


@pytest.fixture
def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.lognormal(-0.5, 1.0, 40), (N_CELLS, 40)).astype(np.float32)
    counts[7] = 0  # an empty cell
    return counts


@pytest.fixture
def adata(counts: np.ndarray, symbols: list[str]) -> ad.AnnData:
    return make(sparse.csr_matrix(counts), symbols)


def make(matrix: Any, symbols: list[str]) -> ad.AnnData:
    cells = pd.DataFrame(index=[f"cell-{number}" for number in range(matrix.shape[0])])
    return ad.AnnData(X=matrix, obs=cells, var=pd.DataFrame(index=symbols))


def normalised(counts: np.ndarray) -> np.ndarray:
    totals = np.maximum(1, counts.sum(axis=1, keepdims=True))
    return np.log1p(counts / totals * 1e4).astype(np.float32)


def read(source: Any, rows: int = 16, **options: Any) -> np.ndarray:
    with open_counts(source, **options) as matrix:
        blocks = list(matrix.blocks(rows))
        assert [block.start for block in blocks] == list(range(0, matrix.n_cells, rows))
        for block in blocks:
            assert isinstance(block.counts, sparse.csr_matrix)
            assert block.counts.dtype in (np.float32, np.float64)
            assert block.totals.dtype == np.float64
        whole = sparse.vstack([block.counts for block in blocks]).toarray()
        if matrix.transform == "none":
            assert np.array_equal(np.concatenate([b.totals for b in blocks]), whole.sum(axis=1))
        assert list(matrix.obs_names) == [f"cell-{number}" for number in range(len(whole))]
        return whole


def as_h5ad(adata: ad.AnnData, folder: Path) -> Path:
    adata.write_h5ad(folder / "x.h5ad")
    return folder / "x.h5ad"


def as_zarr(adata: ad.AnnData, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 2 and 3 layouts each warn of the other
        adata.write_zarr(folder / "x.zarr")
    return folder / "x.zarr"


def as_memory(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    return adata


LAYOUTS: dict[str, Callable] = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "dense": np.asarray,
    "csr int64": lambda counts: sparse.csr_matrix(counts.astype(np.int64)),
    "csr float64": lambda counts: sparse.csr_matrix(counts.astype(np.float64)),
    "dense uint16": lambda counts: counts.astype(np.uint16),
}


@pytest.mark.filterwarnings("ignore:.*making a temporary copy")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("save", [as_memory, as_h5ad, as_zarr])
def test_every_layout_gives_the_same_cells(
    counts: np.ndarray, symbols: list[str], tmp_path: Path, layout: str, save: Callable
) -> None:
    adata = make(LAYOUTS[layout](counts), symbols)
    assert np.array_equal(read(save(adata, tmp_path)), counts)


def test_the_source_is_left_as_it_was(adata: ad.AnnData, counts: np.ndarray) -> None:
    adata.X = sparse.csr_matrix(normalised(counts))
    before = adata.X.data.copy()
    read(adata, allow_normalized=True)
    assert np.array_equal(adata.X.data, before)


def test_a_matrix_by_gene_is_copied_by_cell_and_the_user_told(
    counts: np.ndarray, symbols: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    # Small enough that the copy is made from several reads into several bands.
    monkeypatch.setattr("langcell.counts.row_readers._COLUMN_VALUES", 97)
    monkeypatch.setattr("langcell.counts.csr_store._BAND_VALUES", 200)
    path = as_h5ad(make(sparse.csc_matrix(counts), symbols), tmp_path)
    with open_counts(path) as matrix, pytest.warns(UserWarning, match="stored by gene; making a"):
        assert np.array_equal(matrix.read(0, N_CELLS).counts.toarray(), counts)
        assert np.array_equal(matrix.read(33, 50).counts.toarray(), counts[33:50])
        assert list(scratch.iterdir())
    assert not list(scratch.iterdir())


def test_a_copy_that_does_not_fit_is_refused(
    counts: np.ndarray, symbols: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = as_h5ad(make(sparse.csc_matrix(counts), symbols), tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with open_counts(path) as matrix, pytest.raises(OSError, match="set TMPDIR to a larger disk"):
        matrix.read(0, 1)


def write_tenx_h5(path: Path, counts: np.ndarray, symbols: list[str], version: int) -> Path:
    cells = sparse.csr_matrix(counts)
    ids = GeneTable.bundled().resolve(symbols).ensembl_ids.astype("S")
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(cells, name).astype(np.int64)
        group["shape"] = np.array(counts.shape[::-1])
        group["barcodes"] = np.array([f"cell-{n}" for n in range(len(counts))], dtype="S")
        group["features/id" if version == 3 else "genes"] = ids
        group["features/name" if version == 3 else "gene_names"] = np.array(symbols, dtype="S")
        if version == 3:
            group["features/feature_type"] = np.array(["Gene Expression"] * len(ids), dtype="S")
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_tenx_h5(counts: np.ndarray, symbols: list[str], tmp_path: Path, version: int) -> None:
    path = write_tenx_h5(tmp_path / "filtered.h5", counts, symbols, version)
    with h5py.File(path, "r+") as file:
        file["a number of somebody's"] = 7
    assert np.array_equal(read(path), counts)
    with open_counts(path) as matrix:
        assert matrix.gene_names_key == "gene_ids"
        assert matrix.resolution.share_coding_resolved == 1


def write_mtx(folder: Path, counts: np.ndarray, symbols: list[str], *, packed: bool) -> Path:
    folder.mkdir()
    ids = GeneTable.bundled().resolve(symbols).ensembl_ids
    rows = [f"{a}\t{b}\tGene Expression\n" for a, b in zip(ids, symbols, strict=True)]
    texts = {
        "features.tsv" if packed else "genes.tsv": "".join(rows),
        "barcodes.tsv": "".join(f"cell-{number}\n" for number in range(len(counts))),
    }
    io.mmwrite(folder / "matrix.mtx", sparse.coo_matrix(counts.T.astype(int)), comment="by 10x")
    texts["matrix.mtx"] = (folder / "matrix.mtx").read_text()
    for name, text in texts.items():
        if packed:
            (folder / name).unlink(missing_ok=True)
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text)
    return folder


@pytest.mark.filterwarnings("ignore:.*making a temporary copy")
@pytest.mark.parametrize("packed", [False, True])
def test_tenx_mtx(counts: np.ndarray, symbols: list[str], tmp_path: Path, packed: bool) -> None:
    assert np.array_equal(read(write_mtx(tmp_path / "x", counts, symbols, packed=packed)), counts)


@pytest.mark.filterwarnings("ignore:.*making a temporary copy")
@pytest.mark.parametrize("packed", [False, True])
def test_a_matrix_cut_short_is_refused(
    counts: np.ndarray, symbols: list[str], tmp_path: Path, packed: bool
) -> None:
    folder = write_mtx(tmp_path / "x", counts, symbols, packed=packed)
    matrix = folder / ("matrix.mtx.gz" if packed else "matrix.mtx")
    content = matrix.read_bytes()
    end = len(content) * 2 // 3
    matrix.write_bytes(content[: end if packed else content.rindex(b"\n", 0, end) + 1])
    with pytest.raises(ValueError, match="cut short"), open_counts(folder):
        pass


@pytest.mark.filterwarnings("ignore:.*making a temporary copy")
def test_a_matrix_that_does_not_unpack_is_refused(
    counts: np.ndarray, symbols: list[str], tmp_path: Path
) -> None:
    folder = write_mtx(tmp_path / "x", counts, symbols, packed=True)
    content = bytearray((folder / "matrix.mtx.gz").read_bytes())
    content[10:40] = b"\xff" * 30  # what follows the header of gzip
    (folder / "matrix.mtx.gz").write_bytes(content)
    with pytest.raises(ValueError, match="matrix.mtx.gz: damaged"), open_counts(folder):
        pass


@pytest.mark.filterwarnings("ignore:.*making a temporary copy")
def test_a_full_disk_is_no_damaged_file(
    counts: np.ndarray, symbols: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("langcell.counts.csr_store.CsrStore.fill", full)
    folder = write_mtx(tmp_path / "x", counts, symbols, packed=False)
    with pytest.raises(OSError, match="No space left"), open_counts(folder):
        pass


def test_a_matrix_needs_its_names(counts: np.ndarray, symbols: list[str], tmp_path: Path) -> None:
    folder = write_mtx(tmp_path / "x", counts, symbols, packed=False)
    (folder / "barcodes.tsv").unlink()
    with pytest.raises(FileNotFoundError, match="barcodes.tsv"), open_counts(folder):
        pass


def chosen(source: Any, **options: Any) -> tuple[str, str, bool]:
    with open_counts(source, **options) as matrix:
        return matrix.source, matrix.transform, matrix.is_normalized


@pytest.mark.parametrize("save", [as_memory, as_h5ad])
def test_counts_are_looked_for_in_order(
    adata: ad.AnnData, counts: np.ndarray, tmp_path: Path, save: Callable
) -> None:
    logs = sparse.csr_matrix(normalised(counts))
    adata.layers["counts"] = sparse.csr_matrix(counts * 2)
    adata.layers["other"] = sparse.csr_matrix(counts * 3)
    adata.raw = adata.copy()
    assert chosen(save(adata, tmp_path)) == ("raw.X", "none", False)
    adata.raw = None
    assert chosen(save(adata, tmp_path)) == ("X", "none", False)
    adata.X = logs
    assert chosen(save(adata, tmp_path)) == ("layers/counts", "none", False)
    assert np.array_equal(read(save(adata, tmp_path)), counts * 2)
    assert np.array_equal(read(save(adata, tmp_path), layer="other"), counts * 3)
    adata.raw = adata.copy()
    assert chosen(save(adata, tmp_path)) == ("layers/counts", "none", False)


def test_an_absent_layer_is_named_beside_those_there_are(adata: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="no layer 'spliced'; it has X"):
        chosen(adata, layer="spliced")


def test_raw_brings_its_own_genes(adata: ad.AnnData) -> None:
    adata.raw = adata.copy()
    with open_counts(adata[:, :5].copy()) as matrix:
        assert (matrix.source, matrix.n_genes) == ("raw.X", 40)
        assert len(matrix.gene_names) == 40


def test_logarithms_need_permission_and_are_made_linear(
    adata: ad.AnnData, counts: np.ndarray
) -> None:
    adata.X = sparse.csr_matrix(normalised(counts))
    with pytest.raises(ValueError, match="X holds non-integer values.*allow_normalized=True"):
        chosen(adata)
    assert chosen(adata, allow_normalized=True) == ("X", "expm1", True)
    linear = read(adata, allow_normalized=True)
    expected = counts / np.maximum(1, counts.sum(axis=1, keepdims=True)) * 1e4
    np.testing.assert_allclose(linear, expected, rtol=1e-5)


def test_scaled_values_are_never_counts(adata: ad.AnnData, counts: np.ndarray) -> None:
    logs = normalised(counts)
    adata.X = (logs - logs.mean(axis=0)) / (logs.std(axis=0) + 1)
    for allow_normalized in (False, True):
        with pytest.raises(ValueError, match="X holds negative values .scaled.*before scaling"):
            chosen(adata, allow_normalized=allow_normalized)
    adata.raw = make(sparse.csr_matrix(logs), adata.var_names.tolist())
    assert chosen(adata, allow_normalized=True) == ("raw.X", "expm1", True)


@pytest.mark.parametrize(
    ("scale", "transform", "is_normalized"),
    [
        ("counts", "none", False),
        ("linear", "none", True),
        ("log1p", "expm1", True),
        ("log2", "exp2m1", True),
        ("ranks", "none", True),
    ],
)
def test_a_declared_scale_is_believed(
    adata: ad.AnnData, counts: np.ndarray, scale: str, transform: str, is_normalized: bool
) -> None:
    adata.X = sparse.csr_matrix(counts / 2)
    adata.raw = make(sparse.csr_matrix(counts), adata.var_names.tolist())
    assert chosen(adata, scale=scale) == ("X", transform, is_normalized)
    undo: Callable = {  # type: ignore[assignment]
        "none": lambda x: x,
        "expm1": np.expm1,
        "exp2m1": lambda x: 2**x - 1,
    }[transform]
    np.testing.assert_allclose(read(adata, scale=scale), undo(counts / 2.0), rtol=1e-6)
    with pytest.raises(ValueError, match="scale must be one of counts, linear.*got 'log10'"):
        chosen(adata, scale="log10")


def sample(depth: float, n_genes: int = 400) -> np.ndarray:
    rng = np.random.default_rng(3)
    rates = rng.lognormal(0, 1.5, n_genes)
    return rng.poisson(depth * rates / rates.sum(), (100, n_genes)).astype(np.float64)


@pytest.mark.parametrize("n_genes", [400, 60])
def test_the_guess_does_not_need_whole_rows(n_genes: int) -> None:
    counts = sample(3000)
    scaled = counts / counts.sum(axis=1, keepdims=True) * 1e4
    # A subset of the genes: sums of rows are not constant any more.
    for values, expected in [
        (np.log1p(scaled), "expm1"),
        (np.log2(scaled + 1), "exp2m1"),
        (scaled, "none"),
        (scaled / 1e4, "none"),
    ]:
        subset = sparse.csr_matrix(values[:, :n_genes].astype(np.float32))
        assert guess_transform(subset) == expected


def test_the_guess_falls_back_on_size_where_no_unit_shows() -> None:
    tpm = np.random.default_rng(0).lognormal(2, 2, (50, 300))
    assert guess_transform(sparse.csr_matrix(tpm)) == "none"
    assert guess_transform(sparse.csr_matrix(np.log1p(tpm))) == "expm1"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1.0, r"a negative or missing value \(-1\) in cell 52 \('cell-52'\)"),
        (np.nan, r"a negative or missing value \(nan\) in cell 52"),
        (np.inf, r"a negative or missing value \(inf\) in cell 52"),
        (1.5, r"a non-integer value \(1.5\) in cell 52 .*allow_normalized=True"),
    ],
)
@pytest.mark.parametrize("save", [as_memory, as_h5ad])
def test_every_block_is_checked(
    adata: ad.AnnData,
    counts: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    message: str,
    save: Callable,
) -> None:
    counts[52, 3] = value
    adata.X = sparse.csr_matrix(counts)
    source = save(adata, tmp_path)
    # The sample that the choice rests on misses the value, as it may in a large file.
    monkeypatch.setattr("langcell.counts.row_readers._SAMPLE_VALUES", 5)
    with open_counts(source) as matrix:
        blocks = matrix.blocks(20)
        assert [next(blocks).start, next(blocks).start] == [0, 20]
        with pytest.raises(ValueError, match=message):
            next(blocks)


def test_permission_holds_for_what_the_sample_missed(
    adata: ad.AnnData, counts: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts[52, 3] = 1.5
    adata.X = sparse.csr_matrix(counts)
    monkeypatch.setattr("langcell.counts.row_readers._SAMPLE_VALUES", 5)
    assert np.array_equal(read(adata, allow_normalized=True), counts)


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1.0, "X holds negative values"), (np.nan, "X holds NaN or infinite values")],
)
def test_wrong_values_in_the_sample_are_refused_at_once(
    adata: ad.AnnData, counts: np.ndarray, value: float, message: str
) -> None:
    counts[0, 0] = value
    adata.X = sparse.csr_matrix(counts)
    with pytest.raises(ValueError, match=message):
        chosen(adata)


def missing(folder: Path, adata: ad.AnnData) -> Path:
    return folder / "nothing.h5ad"


def text(folder: Path, adata: ad.AnnData) -> Path:
    (folder / "x.h5ad").write_text("gene,cell\n")
    return folder / "x.h5ad"


def cut_short(folder: Path, adata: ad.AnnData) -> Path:
    path = as_h5ad(adata, folder)
    path.write_bytes(path.read_bytes()[:-4000])
    return path


def other_hdf5(folder: Path, adata: ad.AnnData) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file["weights"] = np.zeros(3)
    return folder / "x.h5"


def empty_folder(folder: Path, adata: ad.AnnData) -> Path:
    return folder


def no_cells(folder: Path, adata: ad.AnnData) -> Path:
    return as_h5ad(adata[:0].copy(), folder)


def no_matrix(folder: Path, adata: ad.AnnData) -> Path:
    return as_h5ad(ad.AnnData(obs=adata.obs, var=adata.var), folder)


def mouse(folder: Path, adata: ad.AnnData) -> Path:
    adata.var_names = [name.capitalize() for name in adata.var_names]
    return as_h5ad(adata, folder)


def fewer_names(folder: Path, adata: ad.AnnData) -> Path:
    path = as_h5ad(adata, folder)
    with h5py.File(path, "a") as file:
        del file["var"]
        ad.io.write_elem(file, "var", adata.var.iloc[:-1])
    return path


def short_indptr(folder: Path, adata: ad.AnnData) -> Path:
    path = as_h5ad(adata, folder)
    with h5py.File(path, "a") as file:
        short = file["X/indptr"][:-1]
        del file["X/indptr"]
        file["X/indptr"] = short
    return path


def zarr_without_chunks(folder: Path, adata: ad.AnnData) -> Path:
    path = as_zarr(adata, folder)
    for chunk in (path / "X" / "data").rglob("*"):
        if chunk.is_file() and not chunk.name.endswith((".json", ".zarray", ".zattrs")):
            chunk.write_bytes(b"broken")
    return path


def wild_index(folder: Path, adata: ad.AnnData) -> Path:
    path = as_h5ad(adata, folder)
    with h5py.File(path, "a") as file:
        file["X/indices"][5] = 4_000
    return path


@pytest.mark.filterwarnings("ignore:Transforming to str index")  # pandas 2.1, of an empty one
@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (missing, FileNotFoundError, "no such file or folder"),
        (text, ValueError, "not an HDF5 file; counts are read from h5ad, zarr"),
        (cut_short, ValueError, "damaged or cut short"),
        (other_hdf5, ValueError, "neither AnnData .no 'var'. nor a single 10x matrix"),
        (empty_folder, ValueError, "a folder with 0 matrix.mtx that is not an AnnData zarr"),
        (no_cells, ValueError, "X has 0 cells and 40 genes; expected at least one of each"),
        (no_matrix, ValueError, "no X, raw.X or layers.'counts'.; pass layer='NAME'"),
        (mouse, ValueError, "those of mouse or rat"),
        (fewer_names, ValueError, "X has 40 columns, but var has 39 rows"),
        (short_indptr, ValueError, "damaged or cut short .indptr must have length 71, got 70"),
        (zarr_without_chunks, ValueError, "damaged or cut short"),
        (wild_index, ValueError, "damaged"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(
    adata: ad.AnnData, tmp_path: Path, spoil: Callable, error: type[Exception], message: str
) -> None:
    path = spoil(tmp_path, adata)
    with pytest.raises(error, match=message) as caught, open_counts(path) as matrix:
        list(matrix.blocks())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_that_begin_behind_all_values_are_refused_where_they_end_where_they_began(
    adata: ad.AnnData, tmp_path: Path
) -> None:
    path = as_h5ad(adata, tmp_path)
    with h5py.File(path, "a") as file:
        indptr = file["X/indptr"][:]
        indptr[11:20], indptr[20] = indptr[10] + 50_000_000, indptr[10]
        file["X/indptr"][:] = indptr
    with open_counts(path) as matrix, pytest.raises(ValueError, match="cells 10 to 19.*indptr"):
        matrix.read(10, 20)


def test_the_column_that_resolves_best_names_the_genes(
    adata: ad.AnnData, symbols: list[str], tmp_path: Path
) -> None:
    adata.var["gene_ids"] = GeneTable.bundled().resolve(symbols).ensembl_ids
    adata.var["feature_name"] = pd.Categorical(symbols)
    adata.var_names = [str(number) for number in range(40)]
    for source in (adata, as_h5ad(adata, tmp_path)):
        with open_counts(source) as matrix:
            assert matrix.gene_names_key == "gene_ids"
            assert matrix.gene_names.tolist() == adata.var["gene_ids"].tolist()
    adata.var["gene_ids"] = adata.var_names
    with open_counts(adata) as matrix:
        assert matrix.gene_names_key == "feature_name"
    adata.var_names = symbols
    with open_counts(adata) as matrix:
        assert matrix.gene_names_key == "index"


def test_antibodies_are_no_genes(adata: ad.AnnData, counts: np.ndarray) -> None:
    adata.var["feature_types"] = ["Gene Expression"] * 38 + ["Antibody Capture"] * 2
    with open_counts(adata) as matrix:
        assert (matrix.resolution.ensembl_ids != "").tolist() == [True] * 38 + [False] * 2
        assert np.array_equal(matrix.read(0, 5).totals, counts[:5].sum(axis=1))


def test_entries_written_twice_are_added_up(symbols: list[str], tmp_path: Path) -> None:
    matrix = sparse.csr_matrix(
        (np.array([1.0, 2.0, 4.0]), np.array([3, 1, 3]), np.array([0, 3])), shape=(1, 40)
    )
    path = as_h5ad(make(sparse.csr_matrix((1, 40)), symbols), tmp_path)
    with h5py.File(path, "a") as file:
        del file["X"]
        ad.io.write_elem(file, "X", matrix)
    row = read(path)[0]
    assert (row[1], row[3], row.sum()) == (2, 5, 7)


def test_a_backed_file_is_read_from_disk(adata: ad.AnnData, tmp_path: Path) -> None:
    backed = ad.read_h5ad(as_h5ad(adata, tmp_path), backed="r")
    assert np.array_equal(read(backed), adata.X.toarray())
    with pytest.raises(ValueError, match="view of a backed AnnData.*to_memory"):
        chosen(backed[:5])
    backed.file.close()


@pytest.fixture
def opened(adata: ad.AnnData, tmp_path: Path) -> Iterator[h5py.File]:
    adata.layers["wide"] = sparse.csr_matrix(adata.X)
    adata.obsm["X_pca"] = np.zeros((N_CELLS, 3))
    with h5py.File(as_h5ad(adata, tmp_path), "a") as file:
        # Reading what is not asked for would fail.
        del file["layers/wide/data"], file["obsm/X_pca"]
        file["obsm/X_pca"] = h5py.Empty("f")
        yield file


def test_layers_and_embeddings_are_not_read(opened: h5py.File, counts: np.ndarray) -> None:
    path = opened.filename
    opened.close()
    assert np.array_equal(read(Path(path)), counts)
