"""How pixels are shared out, on maps made by hand."""

from __future__ import annotations

import pytest

from mataserver_hf import segment


def test_box_is_the_extent_of_the_mask():
    """A box runs from the first pixel's upper left corner to the last one's lower right."""
    import torch

    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[4, 7] = mask[9, 5] = True
    assert segment.outlined("a", 0.5, mask).bbox == (5.0, 4.0, 8.0, 10.0)
    mask[:] = False
    mask[19, 29] = True
    assert segment.outlined("a", 0.5, mask).bbox == (29.0, 19.0, 30.0, 20.0)


def test_stuff_is_joined():
    """Two regions of a class that cannot be counted are one segment with the better score."""
    import torch

    from mataserver_hf.segment_queries import panoptic

    classes = torch.tensor([[4.0, 0, 0], [3.0, 0, 0], [0, 5.0, 0], [0, 0, 9.0]])
    masks = torch.full((4, 8, 8), -9.0)
    masks[0, :, :2] = masks[1, :, 6:] = masks[2, :, 2:6] = 9.0
    share = classes.softmax(-1)
    apart = list(panoptic(classes, masks, (8, 8), 0.5, frozenset()))
    assert [each.label for each in apart] == [0, 0, 1]
    joined = {each.label: each for each in panoptic(classes, masks, (8, 8), 0.5, frozenset({0}))}
    assert set(joined) == {0, 1}
    assert joined[0].confidence == pytest.approx(share[0, 0].item())
    assert (joined[0].mask == (apart[0].mask | apart[1].mask)).all()
    assert joined[0].mask.sum() == 32


def test_large_images_are_done_in_pieces():
    """Many classes at a large size give what they would give all at once."""
    import torch

    from mataserver_hf import segment_mask

    torch.manual_seed(0)
    size, count = (1000, 1100), 40
    assert count * 4 * size[0] * size[1] > segment_mask.BUDGET
    scores = torch.rand(count, 6, 7)
    found = list(segment_mask.semantic(scores, scores, size, 0.0))
    whole = torch.nn.functional.interpolate(
        scores[None], size=size, mode="bilinear", align_corners=False
    )[0].argmax(0)
    assert [each.label for each in found] == whole.unique().tolist()
    assert all((each.mask == (whole == each.label)).all() for each in found)


def test_the_first_of_equals_wins():
    """Where two maps are equal the first one has the pixel, through all pieces."""
    import torch

    from mataserver_hf.segment_mask import winners

    maps = torch.tensor([[0.0, 2.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2.0, 3.0], [0.0, 0.0, 3.0]])
    for cuts in ((4,), (1, 3), (2, 2), (1, 1, 1, 1)):
        assert winners(maps[:, None].split(cuts)).tolist() == [[1, 0, 2]]
