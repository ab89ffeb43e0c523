"""What colors look like: contrast, lightness, and distances as readers with and without color blindness see them."""

import math

import numpy as np

WHITE, DARK = "#ffffff", "#0d1117"  # the pages of a light and of a dark theme; the second is GitHub's

# Linear RGB -> linear RGB as seen with full color blindness: Machado, Oliveira, Fernandes, "A Physiologically-based
# Model for Simulation of Color Vision Deficiency", IEEE TVCG 15 (2009), the supplement's table for severity 1.0.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip

# Linear sRGB -> CIE XYZ with white D65 (IEC 61966-2-1).
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(color: str) -> np.ndarray:
    """Return "#rrggbb" as linear red, green and blue from 0 to 1."""
    c = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2, from 1 to 21."""
    low, high = sorted(float(XYZ[1] @ linear(color)) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def blend(above: str, below: str, opacity: float) -> str:
    """Return the color of a page with a translucent color on it."""
    pairs = ((int(above[i : i + 2], 16), int(below[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(opacity * a + (1 - opacity) * b):02x}" for a, b in pairs)


def lab(color: str, vision: str = "normal") -> np.ndarray:
    """Return CIELAB's L*, a*, b* of the color as it looks with this vision."""
    t = XYZ @ np.clip(VISION[vision] @ linear(color), 0, 1) / XYZ.sum(axis=1)
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * 841 / 108 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def delta_e(one: np.ndarray, other: np.ndarray) -> float:
    """Return the color difference CIEDE2000 of two L*, a*, b*. About 1 is just noticeable.

    The plain distance in CIELAB overrates differences between saturated colors, such as blues. Sharma, Wu, Dalal, "The
    CIEDE2000 Color-Difference Formula", Color Research and Application 30 (2005).
    """
    (L1, a1, b1), (L2, a2, b2) = one.tolist(), other.tolist()
    chroma = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    G = 0.5 * (1 - math.sqrt(chroma**7 / (chroma**7 + 25**7)))
    C1, C2 = math.hypot((1 + G) * a1, b1), math.hypot((1 + G) * a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, (1 + G) * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if C1 * C2 else 0.0
    L, C, h = (L1 + L2) / 2, (C1 + C2) / 2, h1 + turn / 2 if C1 * C2 else h1 + h2
    T = 1 + sum(f * math.cos(math.radians(k * h + p)) for f, k, p in HUE)
    SL, SC, SH = 1 + 0.015 * (L - 50) ** 2 / math.sqrt(20 + (L - 50) ** 2), 1 + 0.045 * C, 1 + 0.015 * C * T
    angle = math.radians(60 * math.exp(-(((h % 360 - 275) / 25) ** 2)))
    rotation = -2 * math.sqrt(C**7 / (C**7 + 25**7)) * math.sin(angle)
    dL, dC = (L2 - L1) / SL, (C2 - C1) / SC
    dH = 2 * math.sqrt(C1 * C2) * math.sin(math.radians(turn / 2)) / SH
    return math.sqrt(dL**2 + dC**2 + dH**2 + rotation * dC * dH)


HUE = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))  # factor, multiple of the hue, phase: of T
