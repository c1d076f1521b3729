"""One file per backend. None imports its compiler at import time."""
