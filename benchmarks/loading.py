"""How fast corpora are built and read, both in a minute or two: `python -m benchmarks.loading`."""

from benchmarks import corpus, loader


def main() -> None:
    """Print what `benchmarks.corpus` and `benchmarks.loader` print."""
    corpus.main([])
    loader.main([])


if __name__ == "__main__":
    main()
