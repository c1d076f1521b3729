"""What `fuzz init` writes: an example kernel, the configuration, and a job for CI."""
