"""The configuration that a user may write: validated models, with errors in one line.

Every key of a YAML file is a field here; an unknown key is an error, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError, model_validator

from condense.config.hyperparameters import Hyperparameters as Hyperparameters
from condense.config.hyperparameters import is_hyperparameter as is_hyperparameter
from condense.config.modalities import MODALITIES as MODALITIES
from condense.config.modalities import Modalities
from condense.config.modalities import Modality as Modality
from condense.config.strict import Seed
from condense.config.strict import Strict as Strict
from condense.config.towers import AlignedEncoder
from condense.system.errors import UserError

NAMED = (
    "name -> its kind, of modalities besides ImageBind's six. Left out: as the header of a manifest says "
    "(`accelerometer:series`), or a safetensors file's metadata"
)


class SpokenDigits(Strict):
    """The embedded dataset: handwritten digits (scikit-learn) paired with synthesised speech (espeak-ng)."""

    name: Literal["spoken_digits"] = "spoken_digits"
    pairs_per_image: int = Field(4, ge=1, le=16, description="pairs made of each handwritten image")
    seed: Seed = Field(0, description="seed of everything drawn while the dataset is made")


class ManifestDataset(Strict):
    """A CSV of files: columns `split`, `label`, one per modality and, if items belong together, `group`."""

    name: Literal["manifest"]
    path: Path = Field(description="the CSV; file paths in it are relative to its folder")
    validation_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of train split off if no row is `validation`"
    )
    on_unreadable: Literal["stop", "skip"] = Field(
        "stop",
        description="of items with a file that is missing, cut or damaged: `stop` tells them all, `skip` leaves them out",
    )
    unreadable_limit: float = Field(
        0.05, ge=0, le=1, description="with `on_unreadable: skip`: the largest share of items that may be left out"
    )
    modalities: Modalities = Field({}, description=NAMED)


class TensorsDataset(Strict):
    """Tensors that are already in the encoder's input format: one safetensors file, or AVDD's pair of `.pt` files."""

    name: Literal["tensors"]
    path: Path = Field(description="the file")
    validation_fraction: float = Field(0.2, gt=0, lt=1, description="share of train split off if the file has none")
    modalities: Modalities = Field({}, description=NAMED)


DatasetConfig = Annotated[SpokenDigits | ManifestDataset | TensorsDataset, Field(discriminator="name")]


class TinyEncoder(Strict):
    """Small convolutional towers, one per modality, into one space; the CPU default."""

    name: Literal["tiny"] = "tiny"
    pretraining: Literal["contrastive", "none"] = Field(
        "contrastive", description="`contrastive`: InfoNCE on the pairs of the condense split; `none`: random towers"
    )
    dim: int = Field(64, ge=2, le=2**16, description="dimension of the unified space")
    width: int = Field(
        16, ge=1, le=2**12, description="channels of the first convolution; doubled at each of the next two"
    )
    image_size: int = Field(
        32, ge=8, le=2**12, multiple_of=8, description="side of vision, depth and thermal inputs, pixels"
    )
    image_channels: Literal[1, 3] = Field(1, description="channels of a vision input")
    epochs: int = Field(10, ge=1, description="passes over the condense split in pretraining")
    seed: Seed = Field(0, description="of the towers' start and of pretraining")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the towers; embeddings and losses are float32 in any case"
    )


class ImageBindEncoder(Strict):
    """ImageBind (Girdhar et al. 2023): six modalities in one space. Needs the `imagebind` package and its checkpoint."""

    name: Literal["imagebind"] = "imagebind"
    checkpoint: Path | None = Field(
        None, description="imagebind_huge.pth; `python -m condense download imagebind --to FILE` fetches it"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the towers; embeddings and losses are float32 in any case"
    )
    audio_clips: int = Field(
        3, ge=1, le=10, description="clips of 2 s per sound, spread over it; their embeddings are averaged"
    )
    size: Literal["huge", "small"] = Field(
        "huge", description="`small`: a few narrow layers of the same classes, for tests; random without a checkpoint"
    )
    random_weights: bool = Field(False, description="no checkpoint, for benchmarks: embeddings mean nothing")
    seed: Seed = Field(0, description="of random weights")

    @model_validator(mode="after")
    def _check_checkpoint(self) -> ImageBindEncoder:
        if self.random_weights and self.checkpoint is not None:
            raise ValueError("`random_weights` must not be given together with a `checkpoint`")
        if self.checkpoint is None and self.size == "huge" and not self.random_weights:
            raise ValueError(
                "`checkpoint` is missing: the file imagebind_huge.pth, which "
                "`python -m condense download imagebind --to FILE` fetches"
            )
        return self


class TransformersEncoder(Strict):
    """CLIP or SigLIP (vision, text) or CLAP (audio, text) from the transformers library."""

    name: Literal["transformers"]
    model: str = Field(min_length=1, description="folder of a saved model, or a model's name on the Hugging Face hub")
    download: bool = Field(False, description="fetch a model that is not in the Hugging Face cache yet")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the towers; embeddings and losses are float32 in any case"
    )


class PythonEncoder(Strict):
    """The user's own encoder: a Python file with `specs(options)` and `build(options, dataset)`; see docs/encoders.md."""

    name: Literal["python"]
    path: Path = Field(description="the file; it is run")
    options: dict[str, Any] = Field({}, description="handed to both of its functions")


def _encoder_name(value: Any) -> Any:
    """The name of the configured encoder; `tiny` by default."""
    return value.get("name", "tiny") if isinstance(value, dict) else getattr(value, "name", None)


EncoderConfig = Annotated[
    Annotated[TinyEncoder, Tag("tiny")]
    | Annotated[ImageBindEncoder, Tag("imagebind")]
    | Annotated[TransformersEncoder, Tag("transformers")]
    | Annotated[AlignedEncoder, Tag("aligned")]
    | Annotated[PythonEncoder, Tag("python")],
    Discriminator(
        _encoder_name,
        custom_error_type="encoder_name",
        custom_error_message="`name` must be one of tiny, imagebind, transformers, aligned, python",
    ),
]


class Fold(Strict):
    """One of several divisions of train and validation, such that each item is held out for validation once."""

    index: int = Field(ge=0, description="which part is held out, from 0")
    of: int = Field(ge=2, le=20, description="number of parts")
    by: Literal["group", "class"] = Field(
        "class", description="`group`: no group is divided; `class`: as many items of each label in each part"
    )

    @model_validator(mode="after")
    def _check_index(self) -> Fold:
        if self.index >= self.of:
            raise ValueError(f"`index` must be < of ({self.of}), but got {self.index}")
        return self


class TaskConfig(Strict):
    """What is condensed: a dataset, seen through an encoder, into `dpc` items per class."""

    dataset: DatasetConfig = Field(SpokenDigits(), description="what is condensed, by its `name`")
    fold: Fold | None = Field(
        None,
        description="a fold of train and validation instead of the dataset's own split; a search with `validation` sets it",
    )
    encoder: EncoderConfig = Field(TinyEncoder(), description="what it is seen through, by its `name`")
    encoders: list[EncoderConfig] = Field(
        [],
        max_length=16,
        description="a bank: the items are matched in all of these, and the loss is the mean over them; `encoder` then only "
        "chooses the start and judges the items, and need not be among them. All must take the same inputs",
    )
    dpc: int = Field(1, ge=1, description="synthetic items per class (data per class)")
    initialization: Literal["random", "herding", "k_center", "k_means", "noise"] = Field(
        "herding", description="where the synthetic items start: chosen real items, or noise"
    )
    metric: Literal["accuracy", "log_loss", "retrieval"] = Field(
        "accuracy",
        description="what a condensed set is judged by: `accuracy` of a probe on its classes; `log_loss`, the geometric mean of "
        "the probability that this probe gives to the right class, exp(-log-loss), which still tells sets apart whose accuracy "
        "is 1; or `retrieval` of another modality after training on its pairs: recall@1 of the class. Data without classes has "
        "one label for all, and needs `retrieval`: recall@1, 5 and 10 (their mean) of partners",
    )
    mirror: bool = Field(
        False, description="whether an image keeps its class when left and right change places; used by `views`"
    )
    synthesize: Literal["inputs", "features"] = Field(
        "inputs",
        description="what is made: `inputs` of the encoder, or `features`, what an `aligned` encoder's towers make of them "
        "before the heads: hundreds of times cheaper, for those who train heads on frozen backbones",
    )

    @model_validator(mode="after")
    def _features_have_heads(self) -> TaskConfig:
        if self.synthesize == "features":
            if not isinstance(self.encoder, AlignedEncoder):
                raise ValueError(
                    "`synthesize: features` needs an encoder of towers and heads, `encoder: {name: aligned, ...}`, "
                    f"but `encoder` is {self.encoder.name}"
                )
            if self.encoders:
                raise ValueError("`synthesize: features` must not be given together with `encoders`")
        return self


class CondensationConfig(TaskConfig):
    """One condensation: what `python -m condense run` takes and a search's `best.yaml` holds."""

    steps: int = Field(100, ge=0, description="optimiser steps")
    seed: Seed = Field(0, description="of the start, and of the frequencies")
    soft_labels: Literal["none", "probe", "convnet"] = Field(
        "none",
        description="also labels the items by a teacher trained on the full data: a linear `probe` on the encoder's embeddings, "
        "or ConvNets (`convnet`); `evaluate` then shows every method with hard and with soft labels",
    )
    hyperparameters: Hyperparameters = Field(
        Hyperparameters(), description="the same as a space's `search` and `fixed`"
    )

    @model_validator(mode="after")
    def _features_are_made_as_they_are(self) -> CondensationConfig:
        h = self.hyperparameters
        if self.synthesize == "features" and (h.views or h.formation > 1):
            raise ValueError("`synthesize: features` needs `views: 0` and `formation: 1`: those transform inputs")
        return self


Model = TypeVar("Model", bound=BaseModel)


def explain(error: ValidationError, source: str) -> str:
    """The first error in a configuration, as one line naming file, key, value and rule."""
    problems = error.errors(include_url=False)
    first = problems[0]
    place = first["loc"]
    # After `dataset`, `encoder` and a tower pydantic adds the name, which is not a key of the file.
    named = {
        i
        for i, part in enumerate(place)
        if place[i - 1 : i] in (("dataset",), ("encoder",)) or place[i - 2 : i - 1] in (("encoders",), ("towers",))
    }
    parts = [part for i, part in enumerate(place) if i not in named or i == 0]
    key = ".".join(map(str, parts)) or "the file"
    if first["type"] == "extra_forbidden":
        text = f"{source}: unknown key `{key}`"
    elif not parts and isinstance(first["input"], dict):  # the message of such a rule names its keys
        text = f"{source}: {first['msg'].removeprefix('Value error, ')}"
    elif first["type"] == "missing":
        text = f"{source}: `{key}` is missing"
    else:
        rule = first["msg"].removeprefix("Value error, ")
        value = repr(first["input"])
        shown = "" if isinstance(first["input"], dict | list) or value in rule else f", but got {value}"
        text = f"{source}: `{key}`: {rule}{shown}"
    text = " ".join(text.split())  # a key may hold a line break
    more = len(problems) - 1
    return text + (f" (and {more} more problem{'s' if more > 1 else ''})" if more else "")


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text: `1e-3` is a number, a duplicate key an error.

    Raises:
        UserError: it is not YAML, or a value does not fit its YAML type; one line that names `source`.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
        _refuse_loops(value, set(), set())
        return value
    # Not only YAMLError: 2001-99-99 is a ValueError, `!!bool maybe` a KeyError, thousands of brackets a RecursionError.
    except Exception as error:
        raise UserError(f"{source}: is not valid YAML: {' '.join(str(error).split())}") from None


def _refuse_loops(value: Any, above: set[int], seen: set[int]) -> None:
    """Raises ValueError if a node contains itself by an alias (`&a [*a]`). `above`, `seen`: ids of its parents, of all nodes."""
    if id(value) in above:
        raise ValueError("an alias must not refer to a node that contains it")
    if id(value) in seen or not isinstance(value, dict | list):
        return
    seen.add(id(value))
    for inner in value.values() if isinstance(value, dict) else value:
        _refuse_loops(inner, above | {id(value)}, seen)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file. Raises UserError if it cannot be read or is not a mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file in UTF-8") from None
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold `key: value` pairs, but holds {type(content).__name__}")
    return content


def validate(model: type[Model], content: dict[str, Any], source: str) -> Model:
    """`content` as `model`. Raises UserError with one line naming `source`."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(explain(error, source)) from None


class _Loader(yaml.SafeLoader):
    """safe_load that reads `1e-3` as a number (YAML 1.1 wants a dot) and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor`; what it brings may be overridden
                continue
            key = self.construct_object(key_node, deep=deep)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be one value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_SCIENTIFIC = re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
for _first in "-+.0123456789":
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).insert(0, ("tag:yaml.org,2002:float", _SCIENTIFIC))
