"""Where on the earth a number of metres leads."""

from __future__ import annotations

import pycolmap

LATITUDE, LONGITUDE = 52.5, 13.4


def place(metres, latitude=LATITUDE, longitude=LONGITUDE):
    """Return the latitude, longitude and altitude of a place, metres east and north."""
    here = [[metres[0], metres[1], 0.0]]
    found = pycolmap.GPSTransform().enu_to_ellipsoid(here, latitude, longitude, 0.0)[0]
    return float(found[0]), float(found[1]), 30.0
