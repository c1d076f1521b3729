"""Pages of findings: one file, no scripts or styles from elsewhere."""
