"""Second calls from stored scores: smoothing, cluster consensus, joint assignment."""
