"""Decoding of images to RGB arrays, within limits, and encoding of masks as PNG."""

from mataserver.media.jpeg import MARGINS
from mataserver.media.kinds import FORMATS
from mataserver.media.limits import Picture
from mataserver.media.picture import decode, decoding, reduced
from mataserver.media.png import encode_png, grey

__all__ = ["FORMATS", "MARGINS", "Picture", "decode", "decoding", "encode_png", "grey", "reduced"]
