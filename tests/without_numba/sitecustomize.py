"""Python imports this first where its folder is on PYTHONPATH: numba is as good as not there."""

import sys

for name in ("numba", "llvmlite"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
