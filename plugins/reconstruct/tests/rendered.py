"""Photographs that the tests render: textured boxes on a ground, seen by known cameras.

Plain ray casting, so every pixel and every pose is known; the same seed gives the same pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from pathlib import Path

SKY = np.array([150.0, 170.0, 215.0])
LIGHT = np.array([0.4, 0.3, 0.866])
FOCAL = 1.1
"""Focal length as a part of the longer side."""


class Quad(NamedTuple):
    """A textured parallelogram: a corner and two edges, ``[3]`` each; texture ``[n, n, 3]``."""

    corner: np.ndarray
    across: np.ndarray
    along: np.ndarray
    texture: np.ndarray


@dataclass
class Pose:
    """Where a photograph was taken: from the world to the camera."""

    rotation: np.ndarray
    translation: np.ndarray

    @property
    def centre(self):
        """The place of the camera."""
        return -self.rotation.T @ self.translation


def texture(rng, side):
    """Return noise of several scales with hard-edged shapes on it: corners to find."""
    total, weight, amplitude = np.zeros((side, side, 3), np.float32), 0.0, 1.0
    for cells in (6, 16, 48, 128, 320):
        small = Image.fromarray((rng.random((cells, cells, 3)) * 255).astype(np.uint8))
        total += amplitude * np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
        weight += amplitude
        amplitude *= 0.8
    picture = Image.fromarray(np.clip((total / weight - 127.5) * 1.9 + 127.5, 0, 255).astype("u1"))
    draw = ImageDraw.Draw(picture)
    for _ in range(220):
        x, y = rng.integers(0, side, 2).tolist()
        width, height = rng.integers(6, 70, 2).tolist()
        colour = tuple(rng.integers(0, 256, 3).tolist())
        corners = [(x, y), (x + width, y + height // 3), (x + width // 2, y + height)]
        kind = int(rng.integers(0, 3))
        if kind == 0:
            draw.rectangle((x, y, x + width, y + height), fill=colour)
        elif kind == 1:
            draw.ellipse((x, y, x + width, y + height), fill=colour)
        else:
            draw.polygon(corners, fill=colour)
    return np.asarray(picture, np.float32)


def scene(seed, boxes=7):
    """Return a scene: a ground of 8 by 8 and some boxes on it."""
    rng = np.random.default_rng(seed)
    ground = np.array([-4.0, -4.0, 0.0])
    quads = [Quad(ground, np.array([8.0, 0, 0]), np.array([0, 8.0, 0]), texture(rng, 1536))]
    for _ in range(boxes):
        quads += box(rng)
    return quads


def box(rng):
    """Return the five faces of a box that are seen."""
    (x, y), (width, depth) = rng.uniform(-1.7, 1.7, 2), rng.uniform(0.35, 0.9, 2)
    tall, angle = np.array([0, 0, rng.uniform(0.4, 1.7)]), rng.uniform(0, np.pi)
    across = np.array([np.cos(angle), np.sin(angle), 0]) * width
    along = np.array([-np.sin(angle), np.cos(angle), 0]) * depth
    corner = np.array([x, y, 0]) - across / 2 - along / 2
    sides = ((corner, across), (corner + across, along))
    sides += ((corner + across + along, -across), (corner + along, -along))
    faces = [Quad(corner + tall, across, along, texture(rng, 768))]
    return faces + [Quad(start, edge, tall, texture(rng, 768)) for start, edge in sides]


def looking(centre, target):
    """Return the pose of a level camera at a place that looks at another."""
    ahead = np.asarray(target, float) - centre
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, (0, 0, 1))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(ahead, right), ahead])
    return Pose(rotation, -rotation @ centre)


def photograph(seen, size, rng, gain=1.0):
    """Return what a camera keeps of ``[2H, 2W, 3]``, uint8 ``[H, W, 3]``: averaged, with noise."""
    width, height = size
    picture = seen.reshape(height, 2, width, 2, 3).mean((1, 3)) * gain
    picture += rng.normal(0, 2.0, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def look(quads, pose, size, focal):
    """Return colours and depths, twice as large as asked: ``[2H, 2W, 3]`` and ``[2H, 2W]``."""
    width, height = size
    x = ((np.arange(width * 2) + 0.5) / 2 - width / 2)[None, :] / focal
    y = ((np.arange(height * 2) + 0.5) / 2 - height / 2)[:, None] / focal
    depth = np.full((height * 2, width * 2), np.inf, np.float32)
    seen = np.empty((height * 2, width * 2, 3), np.float32)
    seen[:] = SKY
    for quad in quads:
        cast(quad, pose, (x, y), (depth, seen), focal, size)
    return seen, depth


def cast(quad, pose, rays, layers, focal, size):
    """Draw one quad where it is the nearest."""
    depth, seen = layers
    normal = np.cross(quad.across, quad.along)
    facing = normal @ (quad.corner - pose.centre)
    window = bounds(quad, pose, focal, size)
    if abs(facing) < 1e-9 or window is None:
        return
    rows, columns = window
    x, y = rays[0][:, columns], rays[1][rows]
    slope = pose.rotation @ normal
    with np.errstate(divide="ignore", invalid="ignore"):
        away = (facing / (slope[0] * x + slope[1] * y + slope[2])).astype(np.float32)
    a = along_edge(quad.across, quad.corner, pose, x, y, away)
    b = along_edge(quad.along, quad.corner, pose, x, y, away)
    hit = (away > 1e-3) & (away < depth[rows, columns])
    hit &= (a >= 0) & (a <= 1) & (b >= 0) & (b <= 1)
    shade = 0.65 + 0.35 * abs(normal @ LIGHT) / np.linalg.norm(normal)
    seen[rows, columns][hit] = sampled(quad.texture, a[hit], b[hit]) * shade
    depth[rows, columns][hit] = away[hit]


def bounds(quad, pose, focal, size):
    """Return the rows and columns that a quad may cover; None when it is behind."""
    edges = (0 * quad.across, quad.across, quad.along, quad.across + quad.along)
    corners = np.array([quad.corner + edge for edge in edges])
    local = corners @ pose.rotation.T + pose.translation
    width, height = size[0] * 2, size[1] * 2
    if (local[:, 2] <= 0.05).all():
        return None
    if (local[:, 2] <= 0.05).any():
        return slice(0, height), slice(0, width)
    at = (local[:, :2] / local[:, 2:] * focal + np.array(size) / 2) * 2
    low = np.maximum(np.floor(at.min(0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(at.max(0)).astype(int) + 2, (width, height))
    return (slice(low[1], high[1]), slice(low[0], high[0])) if (low < high).all() else None


def along_edge(edge, corner, pose, x, y, away):
    """Return how far along an edge of a quad each ray meets its plane."""
    step = edge / (edge @ edge)
    turned = pose.rotation @ step
    return away * (turned[0] * x + turned[1] * y + turned[2]) + (pose.centre - corner) @ step


def sampled(picture, a, b):
    """Return a texture's colours at places of 0 to 1, between its four nearest."""
    scale = picture.shape[0] - 1.001
    x, y = a * scale, b * scale
    left, top = x.astype(np.int32), y.astype(np.int32)
    right, down = (x - left)[:, None], (y - top)[:, None]
    upper = picture[top, left] * (1 - right) + picture[top, left + 1] * right
    lower = picture[top + 1, left] * (1 - right) + picture[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def orbit(folder: Path, seed, count, prefix="", size=(800, 600), *, arc=2 * np.pi, depths=None):
    """Write photographs around a scene into a folder; return their poses by name.

    ``depths``: a list that gets those of each photograph, ``[2H, 2W]``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    quads, rng, poses = scene(seed), np.random.default_rng(seed + 1000), {}
    focal = FOCAL * max(size)
    for number in range(count):
        angle = arc * number / count + rng.normal(0, 0.03)
        radius = 5.2 + rng.normal(0, 0.25)
        height = 2.6 + 0.5 * np.sin(3 * angle) + rng.normal(0, 0.1)
        centre = np.array([radius * np.cos(angle), radius * np.sin(angle), height])
        pose = looking(centre, [*rng.normal(0, 0.1, 2), 0.5])
        seen, depth = look(quads, pose, size, focal)
        pixels = photograph(seen, size, rng, float(rng.uniform(0.9, 1.1)))
        if depths is not None:
            depths.append(depth)
        name = f"{prefix}{number:03d}.jpg"
        save(folder / name, pixels, round(FOCAL * 36))
        poses[name] = pose
    return poses


def stray(path: Path, seed, size):
    """Write a photograph of a scene of its own."""
    rng = np.random.default_rng(seed)
    quads, pose = scene(seed, boxes=3), looking(np.array([4.0, 1.0, 2.0]), [0, 0, 0.5])
    seen, _ = look(quads, pose, size, 1.2 * max(size))
    save(path, photograph(seen, size, rng), None)


def save(path, pixels, focal_35):
    """Write a JPEG, with an equivalent focal length in its EXIF if one is given."""
    exif = Image.Exif()
    if focal_35 is not None:
        exif.get_ifd(0x8769)[0xA405] = focal_35
    Image.fromarray(pixels).save(path, quality=92, exif=exif)
