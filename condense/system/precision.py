"""float32 that is float32, on a GPU as well.

PyTorch lets cuDNN round convolutions to TF32, and which algorithm does them depends on the size of the batch: a
condensation's result would then depend on which others share its pass.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_lock = threading.Lock()
_inside = 0  # blocks that are being run, in all threads
_before = (True, False)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Inside of the block, matrix products and convolutions of float32 tensors on a GPU use float32 throughout.

    The settings are PyTorch's, of the whole process. What they were is restored at the end of the last such block, whichever
    thread runs it. Can be used as a decorator, too.
    """
    global _inside, _before
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    with _lock:
        _inside += 1
        if _inside == 1:
            _before = cudnn.allow_tf32, matmul.allow_tf32
            cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                cudnn.allow_tf32, matmul.allow_tf32 = _before
