"""One paper, one file: what each changes in attention, in the paper's own order. docs/papers.md lists them."""
