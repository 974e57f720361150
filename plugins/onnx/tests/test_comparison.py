"""The comparison of an export with torch: what it must notice, and what it must not."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from mataserver import Detection, DetectResult, EmbedResult
from mataserver_onnx.export import comparison, families, photos, tracing, trial

pytestmark = pytest.mark.long

TASKS = {"rt_detr": "detect", "clip": "embed"}
LOST, ADDED = list(comparison.LIMITS["detect"])[:2]


class Changed:
    """An export whose answer to one of the pictures is changed."""

    def __init__(self, model, change, picture):
        self._model, self._change, self._picture = model, change, picture
        self._asked = 0

    def predict(self, images, params):
        """Answer, and change what is said about the picture of that number."""
        results = self._model.predict(images, params)
        place = self._picture - self._asked
        self._asked += len(images)
        return [
            self._change(result) if number == place else result
            for number, result in enumerate(results)
        ]


@pytest.fixture
def compared(checkpoint, exported, load):
    """``compared(name, change, picture)`` are the figures of an export with a changed answer."""

    def compare(name, change, picture):
        source = checkpoint(name)
        family = families.find(families.read_config(source), TASKS[name])
        model = Changed(load(exported(name), family.task), change, picture)
        figures = comparison.compare(
            tracing.Checkpoint(source, family),
            *(model, trial.BACKENDS[family.task][1], photos.read(None)),
            int8=False,
        )
        return {figure.name: figure for figure in figures}

    return compare


def added(result):
    """Say of one more place that something is there."""
    [first, *_] = result.detections
    one = Detection(first.label, 0.9, (0.0, 0.0, 3.0, 3.0))
    return DetectResult([one, *result.detections])


def doubled(result):
    """Say the best one twice."""
    return DetectResult([result.detections[0], *result.detections])


def lost(result):
    """Leave the best one out."""
    return DetectResult(result.detections[1:])


@pytest.mark.parametrize(
    ("change", "noticed"), [(added, ADDED), (doubled, ADDED), (lost, LOST), (lambda same: same, "")]
)
def test_detections_of_one_side_alone(change, noticed, compared):
    """Each side's detections must be the other's, one for one."""
    figures = compared("rt_detr", change, 2)
    assert [name for name in (LOST, ADDED) if not figures[name].passed] == [noticed][
        : bool(noticed)
    ]
    others = [figure for name, figure in figures.items() if name not in (LOST, ADDED)]
    assert all(figure.passed for figure in others), [str(figure) for figure in others]


def test_a_score_that_rises_from_nothing(compared):
    """What the export is sure of and torch is not is a difference in score."""

    def raised(result):
        *rest, last = result.detections
        return DetectResult([Detection(last.label, 0.9, last.bbox), *rest])

    figures = compared("rt_detr", raised, 1)
    assert not all(figure.passed for figure in figures.values())


@pytest.mark.parametrize("picture", [0, 2])
def test_what_is_no_number_is_noticed(picture, compared):
    """NaN on any picture fails the comparison."""
    figures = compared(
        "clip", lambda result: EmbedResult(np.full_like(result.embedding, np.nan)), picture
    )
    assert [figure.passed for figure in figures.values()] == [False]


def test_a_single_class_is_compared_by_its_own_pixels(checkpoint, tmp_path):
    """A network of one class, as of cracks: a picture's other pixels belong to none."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(1)
    given = SegformerConfig.from_pretrained(checkpoint("segformer")).to_dict()
    config = SegformerConfig.from_dict(given | {"id2label": {0: "crack"}, "label2id": {"crack": 0}})
    network = SegformerForSemanticSegmentation(config).eval()
    network.decode_head.classifier.weight.data *= 20
    pictures = photos.read(None)
    source = tmp_path / "one"
    source.mkdir()
    shutil.copy(checkpoint("segformer") / "preprocessor_config.json", source)
    network.save_pretrained(source)
    family = families.find(families.read_config(source), "segment")
    opened = tracing.Checkpoint(source, family)
    with torch.inference_mode():
        middle = opened.module(**opened.prepare(pictures[0])).logits.median()
    network.decode_head.classifier.bias.data -= middle  # so that half of the first is one
    network.save_pretrained(source)
    (tmp_path / "made").mkdir()
    figures = trial.export_and_compare(
        source, tmp_path / "made", family, "onnx", pictures, int8=False
    )
    assert all(figure.passed for figure in figures), [str(figure) for figure in figures]
