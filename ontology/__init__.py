"""Cell Ontology terms, their order and their words. Never imports torch."""
