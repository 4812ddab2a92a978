"""Pictures that nobody took: coloured circles on a gradient."""

from __future__ import annotations

import colorsys
import random

from PIL import Image, ImageDraw, ImageOps

SIZE = (1600, 1200)  # pixels
THUMBNAIL_SIZE = (320, 240)  # pixels
CIRCLES = 40


def draw(seed: int) -> Image.Image:
    """Draw a picture of `SIZE`; the same one for the same seed."""
    dice = random.Random(seed)
    hue = (0.13 + seed * 0.618) % 1  # the golden section keeps neighbours apart
    gradient = ImageOps.colorize(Image.linear_gradient("L"), colour(hue, 0.55, 0.35), colour(hue + 0.12, 0.35, 0.95))
    picture = gradient.resize(SIZE)
    pencil = ImageDraw.Draw(picture, "RGBA")
    for _ in range(CIRCLES):
        x, y, radius = dice.randrange(SIZE[0]), dice.randrange(SIZE[1]), dice.randrange(30, 260)
        fill = (*colour(hue + dice.uniform(-0.15, 0.3), 0.6, dice.uniform(0.5, 1)), 110)
        pencil.ellipse((x - radius, y - radius, x + radius, y + radius), fill)
    return picture


def thumbnail(picture: Image.Image) -> Image.Image:
    """Shrink a picture to `THUMBNAIL_SIZE`, cutting off what does not fit."""
    return ImageOps.fit(picture, THUMBNAIL_SIZE)


def colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
