"""Answers as supervision's detections and as COCO's JSON, checked by the libraries themselves."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import supervision
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mataserver.results import Classification, Detection, Segment
from mataserver_client import (
    AsyncClient,
    InferResponse,
    coco_categories,
    mask_array,
    to_coco,
    to_supervision,
)
from mataserver_client.interop import compress, run_lengths

BOX = (10.0, 8.0, 30.0, 28.0)


@pytest.fixture(params=[False, True], ids=["json", "msgpack"])
async def client(request, server):
    """A client of a server with the fake models, in both encodings."""
    async with AsyncClient(server.url, server.key, msgpack=request.param) as made:
        yield made


def answer(task="detect", **fields):
    """An answer as it is decoded."""
    return InferResponse(schema_version="mata.v1", task=task, model="m", timestamp=0.0, **fields)


def detections(*found):
    """An answer of the task detect: label, confidence, box."""
    return answer(detections=[Detection(*each) for each in found])


async def test_detections_become_supervisions(client, png):
    """Boxes, confidences and labels of a served answer, in order, with the types of supervision."""
    response = await client.infer("fake-detect", png, confidence=0.1)
    made = to_supervision(response, classes=["faint", "64x48"])
    assert isinstance(made, supervision.Detections)
    assert made.xyxy.tolist() == [list(BOX), list(BOX)]
    assert made.confidence == pytest.approx([0.9, 0.3])
    assert made.class_id.tolist() == [1, 0]
    assert made.data["class_name"].tolist() == ["64x48", "faint"]
    assert made.mask is None
    assert made.tracker_id is None


async def test_masks_become_supervisions(client, png):
    """A mask is the array that ``mask_array`` gives; a segment without one has an empty mask."""
    response = await client.infer("fake-segment", png)
    made = to_supervision(response)
    assert made.mask.shape == (2, 48, 64)
    assert made.mask.dtype == bool
    assert np.array_equal(made.mask[0], mask_array(response.segments[0]))
    assert made.mask[0].sum() == 400
    assert not made.mask[1].any()


async def test_track_ids_become_supervisions(client, png):
    """The ids of tracks are ``tracker_id``, so that supervision's annotators can follow them."""
    stream = client.stream("fake-track", [png] * 3)
    ids = [to_supervision(response).tracker_id.tolist() async for response in stream]
    assert ids == [[1], [2], [3]]


def test_an_answer_with_some_track_ids():
    """A detection without an id among others has -1."""
    response = answer(detections=[Detection("a", 0.9, BOX, 4), Detection("b", 0.9, BOX)])
    assert to_supervision(response).tracker_id.tolist() == [4, -1]


def test_an_empty_answer_is_empty():
    """No detections are an empty ``Detections``, which filters and merges like any other."""
    made = to_supervision(answer(detections=[]))
    full = to_supervision(detections(("a", 0.9, BOX)))
    assert len(made) == 0
    assert made.xyxy.shape == (0, 4)
    assert len(made[made.confidence > 0.5]) == 0
    assert supervision.Detections.merge([made, full]).xyxy.tolist() == [list(BOX)]


def test_a_label_has_one_class_id_in_all_answers():
    """Without a list of classes the id depends on the label alone."""
    first = to_supervision(detections(("cat", 0.9, BOX), ("dog", 0.9, BOX)))
    second = to_supervision(detections(("dog", 0.5, BOX)))
    assert first.class_id[1] == second.class_id[0]
    assert first.class_id[0] != first.class_id[1]
    assert (first.class_id >= 0).all()


def test_what_has_no_boxes_is_refused():
    """An answer of another task, and a label that is not in the list, are ValueErrors."""
    classes = answer("classify", classifications=[Classification("a", 0.9)])
    for convert in (to_supervision, lambda each: to_coco([(1, each)])):
        with pytest.raises(ValueError, match="classify"):
            convert(classes)
    cat = detections(("cat", 0.9, BOX))
    with pytest.raises(ValueError, match="'cat'"):
        to_supervision(cat, classes=["dog"])
    with pytest.raises(ValueError, match="'cat'"):
        to_coco([(1, cat)], {"dog": 1})


def test_without_supervision_the_error_says_what_to_install():
    """The client works without supervision; only the conversion asks for it."""
    code = (
        "import sys; sys.modules['supervision'] = None\n"
        "from mataserver_client import InferResponse, to_supervision\n"
        "answer = InferResponse(schema_version='', task='', model='', timestamp=0, detections=[])\n"
        "try: to_supervision(answer)\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "to_supervision needs supervision: pip install supervision\n"


async def test_segments_become_coco(client, png):
    """An entry has COCO's box, score, area and run lengths, the last from a mask alone."""
    response = await client.infer("fake-segment", png)
    entries = to_coco([(7, response)])
    mask = mask_array(response.segments[0])
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    shared = {"image_id": 7, "bbox": [10.0, 8.0, 20.0, 20.0], "area": 400.0, "iscrowd": 0}
    counts = encoded["counts"].decode()
    segmentation = {"size": [48, 64], "counts": counts}
    assert entries == [
        {"id": 1, "category_id": 1, "score": 0.9, **shared, "segmentation": segmentation},
        {"id": 2, "category_id": 2, "score": 0.8, **shared},
    ]
    assert json.loads(json.dumps(entries)) == entries


async def test_track_ids_are_kept_in_coco(client, png):
    """Entries of tracks carry their ``track_id``."""
    [response] = [each async for each in client.stream("fake-track", [png])]
    assert [entry["track_id"] for entry in to_coco([(1, response)])] == [1]


def test_categories_are_the_labels_in_order():
    """Without given categories the labels of all images are numbered from 1 alphabetically."""
    pairs = [(1, detections(("dog", 0.9, BOX))), (2, detections(("cat", 0.8, BOX)))]
    assert coco_categories(pairs) == {"cat": 1, "dog": 2}
    assert [entry["category_id"] for entry in to_coco(iter(pairs))] == [2, 1]
    assert [entry["category_id"] for entry in to_coco(pairs, {"cat": 17, "dog": 18})] == [18, 17]


def coco(folder, name, content):
    """Write COCO JSON and open it with COCO's tools."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(content))
    return COCO(str(file))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("compressed", [True, False])
async def test_cocos_tools_evaluate_the_entries(client, png, tmp_path, kind, compressed):
    """As annotations and as results of the same images the entries agree: average precision 1."""
    response = await client.infer("fake-segment", png)
    whole = answer("segment", segments=response.segments[:1])
    pairs = [(1, whole), (2, whole)]
    entries = to_coco(pairs, compressed=compressed)
    images = [{"id": number, "width": 64, "height": 48} for number, _ in pairs]
    categories = [{"id": i, "name": label} for label, i in coco_categories(pairs).items()]
    truth = {"info": {}, "images": images, "categories": categories, "annotations": entries}
    truth = coco(tmp_path, "truth", truth)
    evaluation = COCOeval(truth, truth.loadRes(entries), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


masks = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(masks)
def test_run_lengths_are_cocos(mask):
    """Whatever the mask, the text is byte for byte that of COCO's tools."""
    expected = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    assert compress(run_lengths(mask)) == expected["counts"].decode()


@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=12), st.booleans())
def test_long_runs_are_cocos(runs, begins_with_one):
    """Runs of more than one piece, longer and shorter than the one before the last, too."""
    bits = np.repeat((np.arange(len(runs)) + begins_with_one) % 2, runs).astype(bool)
    mask = bits.reshape(-1, 1)
    counts = run_lengths(mask)
    assert sum(counts) == len(bits)
    expected = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    assert compress(counts) == expected["counts"].decode()


def test_box_area_without_a_mask():
    """A detection's area is its box's."""
    [entry] = to_coco([(3, answer(detections=[Detection("a", 0.5, (1.5, 2.0, 4.0, 6.0))]))])
    assert entry["bbox"] == [1.5, 2.0, 2.5, 4.0]
    assert entry["area"] == 10.0
    assert "segmentation" not in entry


def test_a_segment_that_has_no_mask_at_all():
    """Segments without any mask have boxes alone in both forms."""
    response = answer("segment", segments=[Segment("a", 0.5, BOX)])
    assert to_supervision(response).mask is None
    assert "segmentation" not in to_coco([(1, response)])[0]
