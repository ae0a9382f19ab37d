"""Human genes: the table of names, the resolution of published names, and model vocabularies."""
