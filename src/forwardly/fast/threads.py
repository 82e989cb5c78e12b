"""Compiled functions on the threads that torch has already.

torch's operations run on OpenMP threads, which wait for the next one by spinning. Threads of
another pool would have to share the processors with them, so what is compiled here goes to the same
pool, by the entry that compilers use for ``#pragma omp parallel``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, cast

import torch


class Pool(NamedTuple):
    """torch's OpenMP library: GOMP_parallel, and the addresses of more of its functions."""

    parallel: Callable[..., None]
    thread_number: int  # omp_get_thread_num
    threads_at_work: int  # omp_get_num_threads; may be fewer than were asked for
    barrier: int  # GOMP_barrier, where all of them wait for the last
    most: int  # threads that there can be; 1 where their number is not sure


def all_threads_come() -> bool:
    """Whether an operation gets as many threads as torch asks for, as far as can be told.

    Where the environment limits them (OMP_THREAD_LIMIT, OMP_DYNAMIC), products by oneDNN are wrong.
    """
    openmp = pool()
    return openmp is None or torch.get_num_threads() <= openmp.most


@cache
def pool() -> Pool | None:
    """The library that torch's threads are of: GNU's, or another with its entries, as LLVM's."""
    from threadpoolctl import ThreadpoolController  # pyright: ignore[reportMissingTypeStubs]

    found = cast(Any, ThreadpoolController()).select(user_api="openmp").lib_controllers
    for path in (one.filepath for one in found if _is_torchs(one.get_num_threads)):
        library = ctypes.CDLL(path)  # loaded already; this only finds it again
        try:
            parallel, barrier = library.GOMP_parallel, library.GOMP_barrier
        except AttributeError:  # none of GNU's entries
            continue
        parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        parallel.restype = None
        return Pool(
            parallel,
            _address(library.omp_get_thread_num),
            _address(library.omp_get_num_threads),
            _address(barrier),
            1 if library.omp_get_dynamic() else library.omp_get_thread_limit(),
        )
    return None


def _is_torchs(threads: Callable[[], int]) -> bool:
    """Whether a library's number of threads is the one that torch sets.

    Other packages bring theirs, scikit-learn for one.
    """
    before, seen = torch.get_num_threads(), list[int]()
    for count in (1, 2):
        torch.set_num_threads(count)
        seen.append(threads())
    torch.set_num_threads(before)
    return seen == [1, 2]


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0
