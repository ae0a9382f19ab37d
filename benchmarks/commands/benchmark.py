"""The command `langcell benchmark`."""

from pathlib import Path
from typing import Annotated

import typer

from langcell.runtime.cli_options import Device, Threads

app = typer.Typer(
    name="benchmark",
    help="Compare annotators on the same tasks: models, baselines, language models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    suite: Annotated[str, typer.Option(help="quick (minutes) or full (hours).")] = "quick",
    out: Annotated[
        Path, typer.Option(help="Folder of the results; a run that was stopped resumes there.")
    ] = Path("benchmark"),
    model: Annotated[
        list[str] | None,
        typer.Option(help="Bundled name, folder or hub id; may be repeated. Default: all bundled."),
    ] = None,
    h5ad: Annotated[
        list[Path] | None,
        typer.Option(
            help="Your labelled cells instead of the validation studies; may be repeated."
        ),
    ] = None,
    label_key: Annotated[
        str | None,
        typer.Option(help="With --h5ad: obs column with names, synonyms or CL ids of cell types."),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="With --h5ad: scale of the values: counts, linear, log1p, log2 or ranks."
        ),
    ] = "counts",
    lists: Annotated[
        Path | None,
        typer.Option(help="Table of marker lists; columns NAME_annotation are recorded answers."),
    ] = None,
    puzzles: Annotated[
        Path | None,
        typer.Option(help="Puzzles in the format of CellPuzzles: .json, .jsonl or .parquet."),
    ] = None,
    llm: Annotated[
        list[str] | None,
        typer.Option(help="Language model behind an OpenAI-compatible endpoint; may be repeated."),
    ] = None,
    endpoint: Annotated[
        str,
        typer.Option(
            envvar="OPENAI_BASE_URL",
            help="URL for --llm, such as http://localhost:8000/v1; the key is read from OPENAI_API_KEY.",
        ),
    ] = "",
    llm_price: Annotated[
        str, typer.Option(help="Dollars per million prompt and completion tokens, as 2.5,10.")
    ] = "0,0",
    hf_model: Annotated[
        list[str] | None,
        typer.Option(help="Hugging Face language model, folder or hub id, run on --device."),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="Prompt of language models for marker lists: zero-shot or cot, as in SOAR."
        ),
    ] = "zero-shot",
    shared: Annotated[
        Path | None,
        typer.Option(help="Folder with corpus/. Default: LANGCELL_SHARED or ../shared."),
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Run a suite; print the main scores, write results.json, results.md and leaderboard.html.

    Example: langcell benchmark run --suite quick --out arena

    With your own cells: langcell benchmark run --h5ad mine.h5ad --label-key cell_type
    """
    import sys

    from benchmarks.arena.report import measure_and_write
    from benchmarks.arena.suites import Inputs, own_files
    from benchmarks.data.studies import shared_folder
    from benchmarks.language_models.named_models import LanguageModels, language_models
    from langcell.counts.scale import checked_scale
    from langcell.runtime.threads import set_threads
    from ontology.graph import Ontology

    if h5ad and label_key is None:
        raise ValueError("--h5ad needs --label-key, the obs column with the labels")
    set_threads(threads)
    ontology = Ontology.bundled()
    named = LanguageModels(
        served=tuple(llm or ()),
        endpoint=endpoint,
        local=tuple(hf_model or ()),
        device=device,
        prompt=prompt,
        price=llm_price,
    )
    inputs = Inputs(
        corpus=(shared or shared_folder()) / "corpus",
        folder=out,
        models=tuple(model or ()),
        own=own_files(h5ad or (), label_key or "", checked_scale(scale), ontology),
        lists=lists,
        puzzles=puzzles,
        device=device,
        others=language_models(named, ontology),
    )
    print(measure_and_write(suite, inputs, ontology, log=lambda line: print(line, file=sys.stderr)))


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="results.json of a run.")],
    after: Annotated[Path, typer.Argument(help="results.json of another.")],
) -> None:
    """Print the scores of two runs side by side.

    Example: langcell benchmark compare old/results.json new/results.json
    """
    from benchmarks.arena.compare import compare_cards, comparison
    from benchmarks.arena.result_card import ResultCard

    print(comparison(compare_cards(ResultCard.read(before), ResultCard.read(after))))
