"""The number of threads that torch and numba compute with."""


def limit_threads(count: int | None = None) -> None:
    """Make torch and numba use `count` threads; None extends torch's present number to numba.

    Both use one OpenMP runtime. When numba starts its threads, at its first parallel call, it sets
    that runtime's number to NUMBA_NUM_THREADS, which defaults to the number of cores and overrides
    `torch.set_num_threads`; later calls leave it alone. Here numba starts its threads first, and
    torch's number is set afterwards.

    numba's number holds for the calling thread. Other threads of the process use NUMBA_NUM_THREADS,
    which numba reads when it is imported, and which bounds `count` for numba.
    """
    import numba
    import torch

    count = torch.get_num_threads() if count is None else count
    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore
    numba.set_num_threads(min(count, most))
    torch.set_num_threads(count)
