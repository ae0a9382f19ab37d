"""The command `langcell corpus`."""

from pathlib import Path
from typing import Annotated

import typer

from langcell.runtime.cli_options import AllowNormalized, Layer

app = typer.Typer(
    name="corpus",
    help="Build and check pre-tokenised corpora for pretraining at scale.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes on this machine. Default: one per core.")
]
Dask = Annotated[
    str,
    typer.Option(help="Run on a Dask cluster: address of its scheduler, or 'local'."),
]


@app.command()
def build(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="h5ad, zarr or 10x files; folders of a Hugging Face dataset of tokens; SOMA "
            "experiments by folder or URI, or census:DATE; globs, and folders of any of these."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Output folder of the corpus.")],
    max_genes: Annotated[int, typer.Option(help="Genes kept per cell.")] = 2048,
    min_genes: Annotated[int, typer.Option(help="Minimum known genes of a cell.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of the cells.")] = 0,
    shard_cells: Annotated[int, typer.Option(help="Cells per shard, on average.")] = 32768,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of an obs column, as label=cell_type or study=dataset_id; also donor, "
            "tissue, disease, stage, assay, primary."
        ),
    ] = None,
    ontology: Annotated[
        str, typer.Option(help="Ontology of the labels: bundled, or an .obo file.")
    ] = "bundled",
    layer: Layer = None,
    allow_normalized: AllowNormalized = False,
    keep_unlabelled: Annotated[
        bool, typer.Option("--keep-unlabelled", help="Keep cells without a cell type.")
    ] = False,
    keep_secondary: Annotated[
        bool, typer.Option("--keep-secondary", help="Keep cells that are not primary data.")
    ] = False,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Keep duplicate cells.")
    ] = False,
    genes: Annotated[
        str,
        typer.Option(
            help="genes.tsv whose medians rank the genes. Default: medians of the inputs."
        ),
    ] = "",
    token_dictionary: Annotated[
        str,
        typer.Option(
            help="Maps Ensembl ids to tokens, for datasets of tokens: .json, .tsv or .pkl."
        ),
    ] = "",
    gene_medians: Annotated[
        str,
        typer.Option(help="Maps Ensembl ids to the medians that ranked them: .json, .tsv or .pkl."),
    ] = "",
    median_cells: Annotated[
        int, typer.Option(help="Cells sampled for the medians; at least 1,000 per input.")
    ] = 200_000,
    min_observations: Annotated[
        int, typer.Option(help="Sampled cells that must express a gene for it to have a median.")
    ] = 10,
    min_inputs: Annotated[int, typer.Option(help="Minimum inputs that measure a gene.")] = 1,
    measurement: Annotated[str, typer.Option(help="Measurement of SOMA experiments.")] = "RNA",
    soma_layer: Annotated[str, typer.Option(help="X layer of SOMA experiments.")] = "raw",
    obs_filter: Annotated[
        str, typer.Option(help="Obs filter of SOMA experiments, as: tissue_general == 'lung'.")
    ] = "",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip inputs that cannot be read.")
    ] = False,
    part: Annotated[
        str,
        typer.Option(help="Do part i of n of the work, as 2/8; finish with langcell corpus merge."),
    ] = "",
    workers: Workers = None,
    dask: Dask = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete what the folder holds and start over.")
    ] = False,
) -> None:
    """Turn labelled cells into shards of ranked tokens, shuffled and checksummed.

    Example: langcell corpus build 'atlas/**/*.h5ad' --out corpus

    Run the same command again to resume a build that was stopped. On a cluster, each task of a job
    array builds a part, and one more command merges them:

    langcell corpus build atlas --out corpus --part $SLURM_ARRAY_TASK_ID/8
    langcell corpus merge corpus

    The folder gets manifest.json, genes.tsv (with the medians), descriptions.tsv, shards, and
    report.txt, which lists what was kept and why the rest was not.
    """
    from langcell.runtime.threads import available_threads
    from pretrain.corpus.build import Part, build_corpus
    from pretrain.corpus.options import BuildOptions, with_columns

    options = BuildOptions(
        max_genes=max_genes,
        min_genes=min_genes,
        seed=seed,
        shard_cells=shard_cells,
        columns=with_columns(column or []),
        layer=layer,
        allow_normalized=allow_normalized,
        keep_unlabelled=keep_unlabelled,
        keep_secondary=keep_secondary,
        keep_duplicates=keep_duplicates,
        genes=genes,
        token_dictionary=token_dictionary,
        gene_medians=gene_medians,
        median_cells=median_cells,
        min_observations=min_observations,
        min_inputs=min_inputs,
        ontology=ontology,
        measurement=measurement,
        soma_layer=soma_layer,
        obs_filter=obs_filter,
        skip_bad=skip_bad,
    )
    if part and overwrite:
        raise ValueError("--part cannot be combined with --overwrite: remove the folder instead")
    manifest = build_corpus(
        out,
        inputs,
        options,
        n_workers=workers or available_threads(),
        dask=dask,
        part=Part.parse(part) if part else None,
        overwrite=overwrite,
    )
    if manifest is None:
        print(f"part {part} is done; when all are, run: langcell corpus merge {out}")
    else:
        print(f"wrote\t{out}")


@app.command()
def merge(
    folder: Annotated[Path, typer.Argument(help="Folder that all parts were built in.")],
    workers: Workers = None,
    dask: Dask = "",
) -> None:
    """Finish a build that was done in parts.

    Example: langcell corpus merge corpus
    """
    from langcell.runtime.threads import available_threads
    from pretrain.corpus.build import merge_corpus

    merge_corpus(folder, n_workers=workers or available_threads(), dask=dask)
    print(f"wrote\t{folder}")


@app.command()
def check(folder: Annotated[Path, typer.Argument(help="Folder of a corpus.")]) -> None:
    """Compare every file of a corpus with its checksum and list damaged files.

    Example: langcell corpus check corpus
    """
    from langcell.tokens.token_corpus import Manifest, find_damage

    manifest = Manifest.read(folder)
    damages = find_damage(folder, manifest)
    for damage in damages:
        print(damage)
    if damages:
        raise ValueError(
            f"{len(damages)} of the {len(manifest.files)} files of {folder} are damaged"
        )
    print(f"{len(manifest.files)} files are intact, {manifest.n_cells:,} cells")


@app.command()
def info(folder: Annotated[Path, typer.Argument(help="Folder of a corpus.")]) -> None:
    """Describe a corpus: sizes, most frequent types, how it was built.

    Example: langcell corpus info corpus
    """
    from langcell.tokens.token_corpus import TokenCorpus
    from pretrain.corpus.report import corpus_lines

    for line in corpus_lines(TokenCorpus(folder, verify=False)):
        print(line)
