"""Export annotated cells for CELLxGENE, CAP and the Cell Annotation Schema."""
