"""L1: entries in the memory of this process, bounded in bytes, and the one function that a plain hit runs."""
