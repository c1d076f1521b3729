"""Kernels that ship with Assay, one file a family; their C++ is in `src`. Each says what it implements, for what, and how it may be broken."""
