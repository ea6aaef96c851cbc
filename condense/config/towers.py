"""What an `aligned` encoder is made of: a tower per modality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from condense.config.modalities import NAME_RULE, is_name
from condense.config.strict import Seed, Strict


class TransformersTower(Strict):
    """A model of one modality from the transformers library: images (ViT, DINOv2 ...), text (BERT-likes), Whisper's encoder."""

    kind: Literal["transformers"] = Field(description="which tower this is")
    model: str = Field(min_length=1, description="folder of a saved model, or a model's name on the Hugging Face hub")
    download: bool = Field(False, description="fetch a model that is not in the Hugging Face cache yet")
    pooling: Literal["mean", "cls"] | None = Field(
        None,
        description="`mean` over the places of the output, or the first, `cls`; left out: `cls` for images where the model has "
        "it, else `mean`",
    )
    image_size: int | None = Field(
        None, ge=8, le=2**12, description="of an image model: side of its input, pixels; left out: as it was trained"
    )
    max_tokens: int | None = Field(
        None, ge=3, le=2**12, description="of a text model: tokens of an item; left out: at most 32"
    )
    seconds: float | None = Field(
        None,
        ge=0.1,
        le=30,
        description="of a sound model: length of an item; left out: 1. Positions after it are cut off",
    )


class EfficientNetLite0Tower(Strict):
    """EfficientNet-Lite0 of images, 1280 features."""

    kind: Literal["efficientnet_lite0"] = Field(description="which tower this is")
    path: Path = Field(description="a folder with model.safetensors")
    image_size: int = Field(64, ge=32, le=2**12, description="side of its input, pixels")


class PythonTower(Strict):
    """The user's own tower: a Python file with `spec(options)` and `build(options)`; see docs/encoders.md."""

    kind: Literal["python"] = Field(description="which tower this is")
    path: Path = Field(description="the file; it is run")
    options: dict[str, Any] = Field({}, description="handed to both of its functions")


class TinyTower(Strict):
    """A small convolutional tower as the `tiny` encoder has, trained together with the heads."""

    kind: Literal["tiny"] = Field(description="which tower this is")
    dim: int = Field(64, ge=2, le=2**16, description="its features")
    width: int = Field(
        16, ge=1, le=2**12, description="channels of the first convolution; doubled at each of the next two"
    )
    image_size: int = Field(32, ge=8, le=2**12, multiple_of=8, description="side of an image, pixels")
    image_channels: Literal[1, 3] = Field(1, description="channels of a vision input")


TOWER_KINDS = ("transformers", "efficientnet_lite0", "python", "tiny")


def _kind(value: Any) -> Any:
    return value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)


TowerConfig = Annotated[
    Annotated[TransformersTower, Tag("transformers")]
    | Annotated[EfficientNetLite0Tower, Tag("efficientnet_lite0")]
    | Annotated[PythonTower, Tag("python")]
    | Annotated[TinyTower, Tag("tiny")],
    Discriminator(
        _kind,
        custom_error_type="tower_kind",
        custom_error_message=f"`kind` must be one of {', '.join(TOWER_KINDS)}",
    ),
]


class AlignedEncoder(Strict):
    """Frozen towers of one modality each, with heads into one space that are trained on the pairs of the condense split."""

    name: Literal["aligned"]
    towers: dict[str, TowerConfig] = Field(
        min_length=1,
        description="modality -> its tower, by its `kind`; those of modalities that the data lacks are not loaded",
    )
    dim: int = Field(128, ge=2, le=2**16, description="dimension of the unified space")
    head: Literal["linear", "mlp"] = Field(
        "linear", description="from a tower's features to the space; `mlp`: with a hidden layer of 2 x `dim`"
    )
    loss: Literal["infonce", "siglip"] = Field(
        "infonce", description="symmetric, over all pairs of modalities: `infonce` as in CLIP, `siglip` pair by pair"
    )
    epochs: int = Field(60, ge=1, le=10_000, description="passes over the condense split")
    temperature: float = Field(0.1, gt=0, description="of the similarities in the loss")
    learning_rate: float = Field(1e-3, gt=0, description="largest of the heads' training (AdamW, one cycle)")
    dropout: float = Field(
        0.5, ge=0, lt=1, description="share of a frozen tower's features left out at random in training"
    )
    weight_decay: float = Field(0.1, ge=0, description="of the heads' training")
    seed: Seed = Field(0, description="of the heads' start and of training")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the frozen towers; heads, embeddings and losses are float32 in any case"
    )

    @model_validator(mode="after")
    def _check_names(self) -> AlignedEncoder:
        for name in self.towers:
            if not is_name(name):
                raise ValueError(f"`towers`: a modality's name {NAME_RULE}, but got {name!r}")
        return self
