"""What a user may choose when an image is enlarged. Neither torch nor numpy here: the command's help reads this."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from zoo_core.options import Options

MAX_OUTPUT_PIXELS = 400_000_000


class SROptions(Options):
    """Options of `zoo predict` for the super-resolution models."""

    scale: float | None = Field(
        default=None,
        ge=1,
        le=16,
        description="Enlarge this many times, by default as the model does. A smaller factor is reached by shrinking "
        "the model's output (antialiased bicubic).",
    )
    width: int | None = Field(
        default=None, ge=1, le=100_000, description="Width of the result in pixels; the height follows unless given."
    )
    height: int | None = Field(
        default=None, ge=1, le=100_000, description="Height of the result in pixels; the width follows unless given."
    )
    tile: int | Literal["auto"] = Field(
        default="auto",
        description="Side of the tiles in pixels of the input, or auto: as large as the free memory allows. Any value "
        "gives the same image.",
    )
    adaptive_cropping: bool = Field(
        default=False,
        description="Work on four overlapping quarters, as the paper does for its any-scale model. Quarters can differ "
        "in tone; without it the image is worked on as a whole.",
    )
    seamless: bool = Field(
        default=False, description="Keep a texture seamless: each border continues on the other side."
    )
    self_ensemble: bool = Field(
        default=False, description="Average over the 8 flips and rotations: slightly better, 8 times the time."
    )
    image_format: Literal["same", "png", "jpg", "webp", "tiff"] = Field(
        default="same",
        description="File format of the result; same is the input's, where that can be written without losing colours.",
    )
    quality: int = Field(default=95, ge=1, le=100, description="Quality of jpg and webp files.")
    suffix: str | None = Field(
        default=None, max_length=100, description="What is added to the name of the input, by default _MODEL."
    )
    strip_metadata: bool = Field(
        default=False, description="Leave out EXIF, XMP, resolution and software tag; the colour profile stays."
    )
    alpha: Literal["auto", "net", "bicubic", "drop"] = Field(
        default="auto",
        description="How transparency is enlarged; auto: by the network if it is smooth, by bicubic with a hard edge "
        "if it is on or off.",
    )
    compare: bool = Field(
        default=False, description="Write a second picture, NAME_compare.png: bicubic left, the model right."
    )
    all_frames: bool = Field(
        default=False,
        description="Enlarge all frames of an animation and all pages of a TIFF; otherwise the first one.",
    )
    max_pixels: int = Field(
        default=MAX_OUTPUT_PIXELS, ge=1, description="Refuse results with more pixels than this, all frames together."
    )

    @field_validator("tile")
    @classmethod
    def _tile_has_room(cls, tile: int | Literal["auto"]) -> int | Literal["auto"]:
        if tile != "auto" and tile < 32:
            raise ValueError("a tile has at least 32 pixels a side")
        return tile

    @field_validator("suffix")
    @classmethod
    def _suffix_is_no_path(cls, suffix: str | None) -> str | None:
        if suffix is not None and re.search(r"[/\\\0]", suffix):
            raise ValueError("a suffix is a part of a file name, without slashes")
        return suffix

    @model_validator(mode="after")
    def _quarters_have_no_other_side(self) -> SROptions:
        if self.seamless and self.adaptive_cropping:
            raise ValueError("--seamless needs the whole image, --adaptive-cropping cuts it")
        return self
