"""Annotated cells as CELLxGENE, CAP and the Cell Annotation Schema take them."""
