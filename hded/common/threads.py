"""The number of threads that torch and numba compute with."""


def limit_threads(count: int | None = None) -> None:
    """Make torch and numba use `count` threads; None applies torch's current number to numba.

    Both share one OpenMP runtime. When numba starts its threads, at its first parallel call, it
    sets the runtime's number of threads to NUMBA_NUM_THREADS (by default the number of cores),
    which overrides `torch.set_num_threads`; later calls do not change it. Therefore numba's threads
    are started here first, and torch's number is set afterwards.

    numba's number applies to the calling thread. Other threads of the process use
    NUMBA_NUM_THREADS, which numba reads when it is imported, and which limits `count` for numba.
    """
    import numba
    import torch

    count = torch.get_num_threads() if count is None else count
    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore
    numba.set_num_threads(min(count, most))
    torch.set_num_threads(count)
