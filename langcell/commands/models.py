"""The command `langcell models`."""


def models() -> None:
    """List the models that come with the package: name, genes a cell, layers, width, size.

    Example: langcell models
    """
    from langcell.checkpoints.checkpoint import list_bundled_models, resolve_checkpoint
    from langcell.nn.config import LangCellConfig

    print("name\tgenes a cell\tlayers\tembedding\tweights MB\ttext tower")
    for name in list_bundled_models():
        folder = resolve_checkpoint(name)
        config = LangCellConfig.read(folder / "config.json")
        size = (folder / "model.safetensors").stat().st_size / 1e6
        print(
            f"{name}\t{config.max_genes}\t{config.cell.n_layers}\t{config.embedding_dim}\t"
            f"{size:.1f}\t{config.text.tower}"
        )
