"""How pixels are shared out, on maps made by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mataserver_hf import segment


def test_box_is_the_extent_of_the_mask():
    """A box runs from the first pixel's upper left corner to the last one's lower right."""
    import torch

    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[4, 7] = mask[9, 5] = True
    assert segment.segment_of_mask("a", 0.5, mask).bbox == (5.0, 4.0, 8.0, 10.0)
    mask[:] = False
    mask[19, 29] = True
    assert segment.segment_of_mask("a", 0.5, mask).bbox == (29.0, 19.0, 30.0, 20.0)


def crafted():
    """Class and mask logits ``[1, 3, ...]`` of three queries on 8 x 8 pixels, made by hand.

    Columns 0 to 3 are the first query's for sure, 4 and 5 its own but below one half, 6 and 7 the
    second one's. The last two rows are the third one's, surely without its score and not with it.
    """
    import torch

    scores, masks = torch.tensor([0.9, 0.85, 0.8]), torch.full((3, 8, 8), 0.1)
    masks[0, :6, :4], masks[0, :6, 4:6], masks[1, :6, 4:6] = 0.9, 0.4, 0.2
    masks[1, :6, 6:], masks[2, 6:] = 0.9, 0.6
    nothing = torch.full((3, 1), 1e-3)
    classes = torch.full((3, 3), 0.0).fill_diagonal_(1.0) * scores[:, None]
    rest = (1 - scores[:, None] - nothing) / 2
    shares = torch.where(classes > 0, classes, rest)
    return torch.cat([shares, nothing], 1).log()[None], masks.logit()[None]


def by_transformers(processor, classes, masks, **options):
    """Return what an image processor makes of the logits: the mask of each class."""
    output = SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)
    output.logits, output.pred_masks = classes, masks  # DETR's names
    [answer] = processor.post_process_panoptic_segmentation(
        output, threshold=0.5, target_sizes=[(8, 8)], **options
    )
    found = answer["segments_info"]
    return {row["label_id"]: answer["segmentation"] == row["id"] for row in found}


@pytest.mark.parametrize("family", ["MaskFormer", "Mask2Former", "Detr", "Eomt"])
def test_unsure_pixels(family):
    """Panoptic pixels of which the winner is unsure: its own, as transformers has it; not in EoMT.

    Whether a segment is large enough is judged with its score, in EoMT without it.
    """
    import torch
    import transformers

    from mataserver_hf.segment_eomt import EomtReader
    from mataserver_hf.segment_queries import QueryReader

    classes, masks = crafted()
    columns, rows = torch.arange(8)[None, :], torch.arange(8)[:, None]
    kind = getattr(transformers, f"{family}ImageProcessorPil")
    if family == "Eomt":
        processor = kind(size={"shortest_edge": 8, "longest_edge": 8}, do_pad=True)
        reader, options = EomtReader("panoptic", processor), {}
        own = {0: (rows < 6) & (columns < 4), 2: (rows >= 6).expand(8, 8)}
    else:
        side = 384 if family == "Mask2Former" else None
        processor, reader = kind(), QueryReader("panoptic", side=side)
        options = {"label_ids_to_fuse": set()}
        own = {0: (rows < 6) & (columns < 6)}
    own[1] = (rows < 6) & (columns >= 6)
    found = reader.read((classes, masks), (8, 8), "panoptic", 0.5)
    ours = {each.label: each.mask for each in found}
    theirs = by_transformers(processor, classes, masks, **options)
    assert set(ours) == set(theirs) == set(own)
    for label, mask in own.items():
        assert (ours[label] == mask).all()
        assert (theirs[label] == mask).all()


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
    assert count * 4 * size[0] * size[1] > segment_mask.STRETCHED_BYTES
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

    from mataserver_hf.segment_mask import largest_maps

    maps = torch.tensor([[0.0, 2.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2.0, 3.0], [0.0, 0.0, 3.0]])
    for cuts in ((4,), (1, 3), (2, 2), (1, 1, 1, 1)):
        assert largest_maps(maps[:, None].split(cuts)).tolist() == [[1, 0, 2]]
