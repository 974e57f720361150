"""Detection of what the request names, against transformers itself."""

from __future__ import annotations

import msgspec
import pytest

from mataserver import BadRequest, InvalidParams, MataError, ModelFiles, ModelSpec
from mataserver_hf import boxes, grounding_text, zero_shot_detect

OWLS = ("owlvit", "owlv2")
GROUNDED = ("grounding_dino", "mm_grounding_dino")
EVERYONE = (*OWLS, *GROUNDED)
PROMPTS = ("Cat", "a red dog", "person", "car")


def wanted(name, **changes):
    values = {"prompts": PROMPTS, "confidence": 0.0, **changes}
    if name in OWLS:
        return zero_shot_detect.OwlParams(**values)
    return zero_shot_detect.GroundingParams(**{"text_confidence": 0.0, **values})


def parts(path, image):
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForZeroShotObjectDetection, AutoTokenizer

    network = AutoModelForZeroShotObjectDetection.from_pretrained(
        path, local_files_only=True, dtype=torch.float32
    ).eval()
    processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    pixels = processor(images=Image.fromarray(image), return_tensors="pt")
    return network, processor, AutoTokenizer.from_pretrained(path), pixels


def directly(path, name, image, prompts=PROMPTS, text_threshold=0.0):
    """What transformers' own processor says: (label or phrase, score, box), best first."""
    import torch
    from transformers import GroundingDinoProcessor, Owlv2Processor, OwlViTProcessor

    network, pictures, tokenizer, pixels = parts(path, image)
    size = [image.shape[:2]]
    if name in OWLS:
        kind = OwlViTProcessor if name == "owlvit" else Owlv2Processor
        processor = kind(image_processor=pictures, tokenizer=tokenizer)
        text = tokenizer(list(prompts), padding="max_length", max_length=16, return_tensors="pt")
        text.pop("token_type_ids", None)
        options = {"text_labels": [list(prompts)]}
    else:
        processor = GroundingDinoProcessor(pictures, tokenizer)
        text = processor(text=[list(prompts)], return_tensors="pt")
        options = {"input_ids": text["input_ids"], "text_threshold": text_threshold}
    with torch.inference_mode():
        output = network(**text, **pixels)
    [answer] = processor.post_process_grounded_object_detection(
        output, threshold=-1.0, target_sizes=size, **options
    )
    rows = zip(answer["text_labels"], answer["scores"], answer["boxes"], strict=True)
    return sorted(((t, s.item(), b.tolist()) for t, s, b in rows), key=lambda row: -row[1])


def clipped(box, height, width):
    limits = (width, height, width, height)
    return [min(max(value, 0), limit) for value, limit in zip(box, limits, strict=True)]


def inside(rows, height, width):
    """Clip boxes and drop those that have no pixel of the image."""
    cut = [(label, score, clipped(box, height, width)) for label, score, box in rows]
    return [row for row in cut if row[2][0] < row[2][2] and row[2][1] < row[2][3]]


def assert_same(one, other):
    assert [d.label for d in one.detections] == [d.label for d in other.detections]
    for a, b in zip(one.detections, other.detections, strict=True):
        assert a.confidence == pytest.approx(b.confidence, abs=1e-4)
        assert a.bbox == pytest.approx(b.bbox, abs=0.05)


@pytest.mark.parametrize("shape", [(90, 150), (150, 60)])
@pytest.mark.parametrize("name", EVERYONE)
def test_equals_transformers(name, shape, model, checkpoint, picture):
    """Scores and boxes are those of a direct call, clipped; OWL's labels are, too."""
    image = picture(*shape)
    [result] = model(name).predict([image], [wanted(name)])
    rows = inside(directly(checkpoint(name), name, image), *shape)
    assert len(rows) >= 5
    assert [d.confidence for d in result.detections] == pytest.approx(
        [row[1] for row in rows], abs=1e-5
    )
    for detection, (_, _, box) in zip(result.detections, rows, strict=True):
        assert detection.bbox == pytest.approx(box, abs=1e-2)
    if name in OWLS:
        assert [d.label for d in result.detections] == [row[0] for row in rows]
        assert len({d.label for d in result.detections}) > 1


def test_grounding_names_are_prompts(model, checkpoint, picture):
    """The label is the prompt, as given, that holds what the model says about the box."""
    image = picture(90, 150)
    [result] = model("grounding_dino").predict([image], [wanted("grounding_dino")])
    checked = 0
    for place, detection in enumerate(result.detections):
        # Just below the best probability the free text is the likeliest word alone.
        rows = directly(
            checkpoint("grounding_dino"),
            "grounding_dino",
            image,
            text_threshold=detection.confidence - 1e-5,
        )
        word = inside(rows, 90, 150)[place][0]
        if word.isalpha():
            assert word in detection.label.lower()
            checked += 1
    assert checked >= 5
    assert {d.label for d in result.detections} <= set(PROMPTS)
    assert len({d.label for d in result.detections}) > 1


@pytest.mark.parametrize("name", EVERYONE)
def test_spaces_around_a_prompt(name, model, picture):
    """A label is what the client sent; what is read is the same without the spaces around it."""
    plain, spaced = PROMPTS, tuple(f"  {each}\t" for each in PROMPTS)
    [bare] = model(name).predict([picture(90, 150)], [wanted(name, prompts=plain)])
    [kept] = model(name).predict([picture(90, 150)], [wanted(name, prompts=spaced)])
    assert {each.label for each in kept.detections} <= set(spaced)
    assert [each.label.strip() for each in kept.detections] == [d.label for d in bare.detections]
    assert [d.confidence for d in kept.detections] == [d.confidence for d in bare.detections]


@pytest.mark.parametrize("name", EVERYONE)
def test_batch_equals_single(name, model, picture):
    """Images of several sizes with different prompts share a batch and keep their own answers."""
    images = [picture(90, 150, seed) for seed in (1, 2, 3)] + [picture(120, 70, 4)]
    prompts = [PROMPTS, ("car", "dog"), PROMPTS, PROMPTS]
    params = [wanted(name, prompts=each) for each in prompts]
    batch = model(name).predict(images, params)
    for image, each, result in zip(images, params, batch, strict=True):
        [single] = model(name).predict([image], [each])
        assert_same(result, single)
    assert {d.label for d in batch[1].detections} <= {"car", "dog"}
    assert batch[0] != batch[2]


def test_boxes_beside_the_image_are_left_out(model, checkpoint, picture):
    """OWLv2 looks at a square: what it finds below a wide image is nothing that exists."""
    image = picture(60, 160)
    rows = directly(checkpoint("owlv2"), "owlv2", image)
    assert any(box[1] >= 60 for *_, box in rows)
    [result] = model("owlv2").predict([image], [wanted("owlv2")])
    assert 0 < len(result.detections) < len(rows)
    for x1, y1, x2, y2 in (d.bbox for d in result.detections):
        assert 0 <= x1 < x2 <= 160
        assert 0 <= y1 < y2 <= 60


@pytest.mark.parametrize("name", EVERYONE)
def test_confidence_counts_per_image(name, model, picture):
    """Every image of a batch is cut at its own confidence, and the best come first."""
    image = picture(90, 150)
    [everything] = model(name).predict([image], [wanted(name)])
    scores = [d.confidence for d in everything.detections]
    assert scores == sorted(scores, reverse=True)
    cut = max(range(1, len(scores)), key=lambda place: scores[place - 1] - scores[place])
    middle = (scores[cut - 1] + scores[cut]) / 2
    some, none = model(name).predict(
        [image] * 2, [wanted(name, confidence=middle), wanted(name, confidence=1.0)]
    )
    assert [d.confidence for d in some.detections] == pytest.approx(scores[:cut], abs=1e-4)
    assert none.detections == []


def test_text_confidence_needs_a_clear_word():
    """A box whose likeliest word is less likely than that has no name and is left out."""
    import torch

    #         [CLS]  red   car    .    dog    .
    owners = [-1, 0, 0, -1, 1, -1]
    chances = torch.tensor(
        [
            [0.9, 0.1, 0.2, 0.0, 0.1, 0.0],
            [0.0, 0.3, 0.7, 0.0, 0.6, 0.0],
            [0.0, 0.2, 0.1, 0.8, 0.5, 0.0],
        ]
    )
    boxes = torch.tensor([[80.0, 30.0, 120.0, 70.0]] * 3)

    def named(**changes):
        params = zero_shot_detect.GroundingParams(**changes)
        result = zero_shot_detect._label_boxes(
            ("red car", "dog"), owners, chances, boxes, (100, 200), params
        )
        return [(d.label, round(d.confidence, 3)) for d in result.detections]

    assert named(text_confidence=0.0) == [("red car", 0.9), ("dog", 0.8), ("red car", 0.7)]
    assert named() == [("dog", 0.8), ("red car", 0.7)]
    assert named(text_confidence=0.55) == [("red car", 0.7)]
    assert named(confidence=0.75) == [("dog", 0.8)]
    low = [("red car", 0.9), ("dog", 0.8), ("red car", 0.7)]
    assert named(confidence=0.15) == low  # no word need be clearer than the box
    assert named(confidence=0.15, text_confidence=0.25) == low[1:]


def test_boxes_are_scaled_to_the_image():
    """Centre and size in parts of the image become corners in pixels."""
    import torch

    given = torch.tensor([[0.5, 0.25, 0.2, 0.1]])
    [found] = boxes.corners(given, (100, 200)).tolist()
    assert found == pytest.approx([80, 20, 120, 30])


def test_caption():
    """Prompts are read in lower case with a dot after each, also where one has its own."""
    text, spans = grounding_text.caption(("A Cat.", " red  car ", "2.5 m pole"))
    assert text == "a cat. red  car. 2.5 m pole."
    assert [text[start:end] for start, end in spans] == ["a cat", "red  car", "2.5 m pole"]


def test_defaults():
    """The thresholds are those that go with each family."""
    owl, grounding = zero_shot_detect.OwlParams(), zero_shot_detect.GroundingParams()
    assert owl.confidence == 0.1
    assert (grounding.confidence, grounding.least_text_confidence) == (0.3, 0.25)


@pytest.mark.parametrize("name", EVERYONE)
def test_missing_prompts(name, model, picture):
    """A request without prompts is a 422 that names the parameter."""
    with pytest.raises(InvalidParams, match=r"^params\.prompts: .*at least one prompt"):
        model(name).predict([picture(40, 40)], [wanted(name, prompts=())])


@pytest.mark.parametrize("name", OWLS)
def test_long_prompt_is_refused(name, model, picture):
    """A prompt that OWL would cut off is a 422 rather than half read."""
    with pytest.raises(InvalidParams, match=r"^params\.prompts: a prompt .* than the 16 tokens"):
        model(name).predict([picture(40, 40)], [wanted(name, prompts=("cat", "x" * 15))])


def test_long_text_is_refused(model, picture):
    """Prompts that together are more than Grounding DINO reads are a 422."""
    grounding = model("grounding_dino")
    fits, long = ("cat",) * 15, ("cat",) * 16  # each with its dot, [CLS] and [SEP]: 32 and 34
    result = grounding.predict([picture(90, 150)], [wanted("grounding_dino", prompts=fits)])
    assert len(result) == 1
    with pytest.raises(InvalidParams, match=r"^params\.prompts: together .* the 32 tokens"):
        grounding.predict([picture(40, 40)], [wanted("grounding_dino", prompts=long)])


@pytest.mark.parametrize("prompt", [" . ", "猫"])
def test_prompt_without_words_is_refused(prompt, model, picture):
    """A prompt of which no token is left, or none that is known, names nothing: a 422."""
    with pytest.raises(InvalidParams, match=r"^params\.prompts: a prompt holds no word"):
        model("grounding_dino").predict(
            [picture(40, 40)], [wanted("grounding_dino", prompts=("cat", prompt))]
        )


@pytest.mark.parametrize("name", EVERYONE)
def test_overflow_is_an_error(name, checkpoint, context, picture):
    """A network that computes NaN is an error, not an image without objects."""
    import torch

    grounded = name in GROUNDED
    load = zero_shot_detect.load_grounding if grounded else zero_shot_detect.load_owl
    broken = load(ModelSpec(f"tiny/{name}", "detect", "hf", checkpoint(name)), context())
    module = broken._network._module
    last = module.bbox_embed[-1].layers[-1] if grounded else module.box_head.dense2
    with torch.no_grad():
        last.bias.fill_(float("nan"))
    with pytest.raises(MataError, match=r"no numbers in torch\.float32$"):
        broken.predict([picture(90, 150)], [wanted(name)])


def test_families_of_the_backends():
    """Each family is served by the backend with its parameters."""
    for backend, families in (
        (zero_shot_detect.OWL, ("owlvit", "owlv2")),
        (zero_shot_detect.GROUNDING, ("grounding-dino", "mm-grounding-dino")),
    ):
        for family in ("owlvit", "owlv2", "grounding-dino", "mm-grounding-dino", "detr"):
            files = ModelFiles("a/b", "hf", config={"model_type": family})
            assert backend.serves(files, "detect") == (family in families)


@pytest.mark.parametrize("name", ["owlvit", "grounding_dino"])
def test_params_cross_the_wire(name):
    """Parameters survive the way to a worker; OWL has no threshold for words."""
    made = wanted(name, confidence=0.25)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=type(made)) == made
    with pytest.raises(msgspec.ValidationError, match="text_confidence"):
        msgspec.convert({"text_confidence": 0.5}, zero_shot_detect.OwlParams)


@pytest.mark.parametrize("name", GROUNDED)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (1, 400), (400, 2)])
def test_a_picture_that_is_too_small_for_the_network(name, size, model, picture):
    """Its last map would be of one value, or of none: that is the picture's fault, and told so."""
    with pytest.raises(BadRequest, match=r"an image .* \d+x\d+ pixels is too small or too narrow"):
        model(name).predict([picture(*size)], [wanted(name)])


@pytest.mark.parametrize("name", GROUNDED)
@pytest.mark.parametrize("size", [(1, 10), (40, 1), (5, 400)])
def test_a_narrow_picture_is_looked_at(name, size, model, picture):
    """As long as something is left of it, a narrow picture is one like any other."""
    [result] = model(name).predict([picture(*size)], [wanted(name)])
    assert len(result.detections) <= 10
