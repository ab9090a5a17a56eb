"""`python -m benchmarks` in a checkout: `tiered-cache bench` without an installation."""

import sys

from tiered_cache.benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
