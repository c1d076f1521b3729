"""One file per family of operators; importing a file registers its specs."""
