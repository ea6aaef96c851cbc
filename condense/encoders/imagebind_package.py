"""The official ImageBind classes, from the installed `imagebind` package, on current PyTorch.

Neither the package (PyPI: imagebind-packaged 0.1.2) nor the official repository can simply be imported: their `__init__`
imports torchaudio, torchvision and pytorchvideo, and the model files a timm of 2022. The classes need none of these.
So `imagebind` is imported as a bare package over the installed folder, without its `__init__`, and replacements stand in
for what the model files import from timm (`DropPath`, `trunc_normal_`) and iopath (`g_pathmgr.open`).

Code and weights are under CC-BY-NC-SA 4.0; neither is part of this project.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from condense.system.errors import UserError

log = logging.getLogger(__name__)
LICENCE = "ImageBind's code and weights are under CC-BY-NC-SA 4.0: for non-commercial use only"
INSTALL = "pip install 'condense-search[imagebind]' && pip install --no-deps imagebind-packaged==0.1.2"
MODEL, PREPROCESSORS = "imagebind.models.imagebind_model", "imagebind.models.multimodal_preprocessors"
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_lock = threading.Lock()
_said: set[str] = set()


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training a residual branch is left out per item, else scaled by 1 / kept.

    Stands in for timm's class of this name. Frozen towers are never in training mode.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0:
            return x
        kept = 1 - self.drop_prob
        return x * x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(kept).div_(kept)


def model_module() -> Any:
    """`imagebind.models.imagebind_model`: has `ImageBindModel` and `imagebind_huge`. Prints the licence once.

    Raises UserError if the package, or one that it needs, is not installed.
    """
    if LICENCE not in _said:
        _said.add(LICENCE)
        log.warning(LICENCE)
    return _load(MODEL)


def tokenizer() -> Any:
    """The official byte-pair tokenizer with the vocabulary in the package: `encode(text)`, `decode(ids)`.

    Raises UserError if the package, or one that it needs, is not installed.
    """
    classes = _load(PREPROCESSORS)
    folder = Path(classes.__file__).parents[1]
    for vocabulary in (folder / "bpe" / VOCABULARY, folder.parent / "bpe" / VOCABULARY):
        if vocabulary.is_file():
            return classes.SimpleTokenizer(bpe_path=str(vocabulary))
    raise UserError(f"{folder / 'bpe' / VOCABULARY}: no such file: install imagebind again ({INSTALL})")


def _load(name: str) -> Any:
    with _lock:
        if name in sys.modules:
            return sys.modules[name]
        _make_bare_package()
        with _stand_ins(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return importlib.import_module(name)
            except ImportError as error:
                missing = error.name or str(error)
                raise UserError(f"encoder imagebind: `{missing}` cannot be imported: {INSTALL}") from None


def _make_bare_package() -> None:
    """Puts a package `imagebind` over the installed folder into `sys.modules`, unless one has been imported."""
    if "imagebind" in sys.modules:
        return
    found = importlib.util.find_spec("imagebind")  # locates it without importing it
    folders = [] if found is None else found.submodule_search_locations or []
    if found is None or not any((Path(folder) / "models" / "imagebind_model.py").is_file() for folder in folders):
        raise UserError(f"encoder imagebind: the package `imagebind` is not installed: {INSTALL}")
    sys.modules["imagebind"] = importlib.util.module_from_spec(found)  # created, but not executed


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Inside the block, timm and iopath are stand-in modules with the few names that are needed."""

    def module(name: str, **content: Any) -> ModuleType:
        made = ModuleType(name)
        made.__path__ = []
        vars(made).update(content)
        return made

    stands = [
        module("timm"),
        module("timm.models"),
        module("timm.models.layers", DropPath=DropPath, trunc_normal_=torch.nn.init.trunc_normal_),
        module("iopath"),
        module("iopath.common"),
        module("iopath.common.file_io", g_pathmgr=SimpleNamespace(open=open)),
    ]
    before = {stand.__name__: sys.modules.get(stand.__name__) for stand in stands}
    sys.modules.update({stand.__name__: stand for stand in stands})
    try:
        yield
    finally:
        for name, earlier in before.items():
            if earlier is None:
                del sys.modules[name]
            else:
                sys.modules[name] = earlier
