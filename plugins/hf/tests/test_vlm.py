"""Vision-language models, against transformers itself."""

from __future__ import annotations

import json
import shutil

import msgspec
import numpy as np
import pytest

from mataserver import (
    BadRequest,
    Detection,
    Entity,
    InvalidParams,
    ModelFiles,
    ModelSpec,
    Usage,
    VlmResult,
)
from mataserver_hf import vlm
from mataserver_hf.dialects import DIALECTS, View

FAMILIES = sorted(vlm.FAMILIES)

CHATTING = sorted(vlm.FAMILIES - {"paligemma", "florence2"})

QUESTION = "What is this?"


def wanted(**changes):
    return vlm.VlmParams(**{"prompt": QUESTION, "max_tokens": 8, **changes})


def answer(model, image, **changes):
    """Return the text of one answer."""
    [result] = model.predict([image], [wanted(**changes)])
    return result.text


def messages(image, system):
    said = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    return [*said, {"role": "user", "content": content}]


def by_processor(path, image, system):
    """Prepare the question by the processor that transformers finds itself."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    if processor.chat_template:
        return processor.apply_chat_template(
            messages(image, system),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    mark = "<image>" if "PaliGemma" in type(processor).__name__ else ""
    read = processor(images=[image], text=[f"{mark}{QUESTION}"])
    read.pop("labels", None)
    return read.convert_to_tensors("pt")


def by_hand(path, image, system):
    """Prepare the question as Qwen's and SmolVLM's own processors do, which need torchvision."""
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    pixels = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    text = tokenizer.apply_chat_template(
        messages(image, system), add_generation_prompt=True, tokenize=False
    )
    if "smolvlm" in str(path):
        read = pixels(images=[[image]], return_row_col_info=True, return_tensors="pt")
        [[rows]], [[columns]] = read.pop("rows"), read.pop("cols")
        marks = ("<fake_token_around_image>", "<image>", "<global-img>")
        text = text.replace("<image>", get_image_prompt_string(rows, columns, 4, *marks))
        return {**tokenizer(text, return_tensors="pt"), **read}
    read = pixels(images=[image], return_tensors="pt")
    count = int(read["image_grid_thw"][0].prod()) // 4
    tokens = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * count), return_tensors="pt")
    mark = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    kinds = (tokens["input_ids"] == mark).to(torch.int64)
    return {**tokens, **read, "mm_token_type_ids": kinds}


def directly(path, image, system="", length=8):
    """Answer greedily by one call of transformers' own ``generate``."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    name = path.name
    prepare = by_hand if name == "smolvlm" or "qwen" in name else by_processor
    network = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).eval()
    question = prepare(path, Image.fromarray(image), system)
    with torch.inference_mode():
        tokens = network.generate(**question, max_new_tokens=length, do_sample=False, num_beams=1)
    begun = 1 if network.config.is_encoder_decoder else question["input_ids"].shape[1]
    tokenizer = AutoTokenizer.from_pretrained(path)
    text = tokenizer.decode(tokens[0, begun:], skip_special_tokens=name != "florence2")
    return text.replace("<s>", "").replace("</s>", "").replace("<pad>", "")


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_transformers(name, model, checkpoint, picture):
    """Without a temperature the text is transformers' greedy one, for images of any shape."""
    texts = set()
    for size in ((90, 150), (70, 40)):
        image = picture(*size)
        text = answer(model(name), image)
        assert text == directly(checkpoint(name), image)
        texts.add(text)
    assert len(texts) == 2


@pytest.mark.parametrize("name", CHATTING)
def test_system_prompt(name, model, checkpoint, picture):
    """A system prompt goes where the chat template puts it, and changes the answer."""
    image = picture(90, 150)
    text = answer(model(name), image, system_prompt="Be brief.")
    assert text == directly(checkpoint(name), image, "Be brief.")
    assert text != answer(model(name), image)


@pytest.mark.parametrize("name", ["paligemma", "florence2"])
def test_no_place_for_a_system_prompt(name, model, picture):
    """A model without a place for a system prompt refuses one rather than ignore it."""
    with pytest.raises(InvalidParams, match=r"^params\.system_prompt: .*no system prompt"):
        answer(model(name), picture(40, 40), system_prompt="Be brief.")


@pytest.mark.parametrize(
    "beginning",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('no such role') }}{% endif %}",
        "{% if messages[0].role == 'system' %}{% set messages = messages[1:] %}{% endif %}",
    ],
)
def test_template_without_system_prompt(beginning, checkpoint, session_context, picture, tmp_path):
    """A chat template that refuses or drops the system prompt makes it a 422."""
    path = shutil.copytree(checkpoint("llava"), tmp_path / "llava")
    template = path / "chat_template.jinja"
    template.write_text(beginning + template.read_text())
    loaded = vlm.load(ModelSpec("tiny/llava", "vlm", "hf", path), session_context)
    assert answer(loaded, picture(40, 40))
    with pytest.raises(InvalidParams, match=r"^params\.system_prompt: .*no system prompt"):
        answer(loaded, picture(40, 40), system_prompt="Be brief.")


@pytest.mark.parametrize("name", FAMILIES)
def test_stream_equals_predict(name, model, picture):
    """The pieces of a streamed answer add up to its text, and the result comes last."""
    image = picture(90, 150)
    for params in (wanted(), wanted(temperature=1.0, seed=3)):
        *pieces, result = model(name).stream(image, params)
        assert result == model(name).predict([image], [params])[0]
        assert "".join(pieces) == result.text
        assert len([piece for piece in pieces if piece]) > 1


def test_batch(model, picture):
    """Each image of a batch gets the answer to its own question."""
    images = [picture(90, 150, 1), picture(70, 40, 2)]
    params = [wanted(), wanted(prompt="Who?", max_tokens=3)]
    texts = [each.text for each in model("qwen3_vl").predict(images, params)]
    assert texts == [
        answer(model("qwen3_vl"), images[0]),
        answer(model("qwen3_vl"), images[1], prompt="Who?", max_tokens=3),
    ]


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_prompt_is_needed(prompt, model, picture):
    """A request without a prompt is a 422 that names it, whether or not it is streamed."""
    for call in (
        lambda p: model("llava").predict([picture(40, 40)], [p]),
        lambda p: list(model("llava").stream(picture(40, 40), p)),
    ):
        with pytest.raises(InvalidParams, match=r"^params\.prompt: .*needs a prompt"):
            call(wanted(prompt=prompt, output_mode="json"))


@pytest.mark.parametrize(
    ("name", "mark"),
    [("llava", "<image>"), ("paligemma", "<image>"), ("qwen2_vl", "<|video_pad|>")],
)
@pytest.mark.parametrize("field", ["prompt", "system_prompt"])
def test_a_prompt_is_no_image(name, mark, field, model, picture):
    """A prompt that holds the mark of an image or a video is a 422 that names both."""
    with pytest.raises(InvalidParams) as refused:
        answer(model(name), picture(40, 40), **{field: f"look {mark} here"})
    assert refused.value.detail == f"params.{field}: must not contain {mark}"


def test_task_words_stand_alone(model, picture):
    """Florence-2's words for tasks without input are refused beside other words."""
    assert answer(model("florence2"), picture(40, 40), prompt="<OD>")
    with pytest.raises(InvalidParams, match=r"^params\.prompt: <OD> must stand alone"):
        answer(model("florence2"), picture(40, 40), prompt="<OD> cats")


@pytest.mark.parametrize(("name", "room"), [("llava", 511), ("paligemma", 255), ("florence2", 128)])
def test_too_long_a_prompt(name, room, model, picture):
    """Image and prompt that fill the context are a 422 that says how much fits."""
    with pytest.raises(InvalidParams, match=rf"^params\.prompt: .*tokens.* at most {room}$"):
        answer(model(name), picture(40, 40), prompt="x" * room)


def test_an_answer_ends_with_the_context(model, checkpoint, picture):
    """``max_tokens`` is an upper limit: an answer also ends where the context does."""
    image = picture(40, 40)
    prompt = "x" * (512 - 16 - len("USER: \n ASSISTANT:") - 5)
    [result] = model("llava").predict([image], [wanted(prompt=prompt, max_tokens=1000)])
    tokens = len(list(model("llava")._generator._tokenizer(result.text).input_ids))
    assert 0 < tokens <= 15


def test_a_line_of_pixels_is_not_enlarged_to_gigabytes(checkpoint, context, picture):
    """LLaVA's processor enlarges the shorter side, and cuts out the middle: that is bounded."""
    spec = ModelSpec("tiny/llava", "vlm", "hf", checkpoint("llava"))
    bounded = vlm.load(spec, context(max_pixels=20_000))
    [answered] = bounded.predict([picture(4, 40)], [wanted(max_tokens=2)])
    assert answered.usage.completion_tokens <= 2
    with pytest.raises(BadRequest, match="40x1 pixels is too small or too narrow"):
        bounded.predict([picture(1, 40)], [wanted(max_tokens=2)])
    bounded = vlm.load(spec, context(max_pixels=700))
    for shape in [(20, 24), (70, 10)]:  # the network's own input has more pixels than that
        assert bounded.predict([picture(*shape)], [wanted(max_tokens=2)])


@pytest.mark.parametrize(
    ("name", "size"), [("qwen2_vl", (1, 300)), ("qwen3_vl", (300, 1)), ("qwen2_5_vl", (2, 500))]
)
def test_too_narrow_an_image(name, size, model, picture):
    """An image that the processor refuses is a 400 that names its size."""
    height, width = size
    with pytest.raises(BadRequest, match=rf"{width}x{height} pixels is too small or too narrow"):
        answer(model(name), np.zeros((height, width, 3), np.uint8))


@pytest.mark.parametrize("name", FAMILIES)
def test_one_pixel(name, model):
    """The smallest image is answered like any other."""
    assert answer(model(name), np.full((1, 1, 3), 200, np.uint8))


class Scripted:
    """Writes one text whatever it is asked, and remembers the question."""

    def __init__(self, text):
        self.text = text
        self.asked = ""

    def tensors(self, images, system, prompt):
        self.asked = prompt
        return {}

    def view(self, image, tensors):
        height, width = image.shape[:2]
        return View((width, height), (0, 0, width, height), (width, height))

    def generate(self, questions):
        return [(self.text, Usage(1, 2)) for _ in questions]

    def stream(self, prompt, params):
        yield from self.text
        yield Usage(1, 2)


def test_output_mode(picture, session_context):
    """A mode changes the question and parses the answer, streamed or not; without it neither."""
    text = '[{"label": "cat", "bbox_2d": [0, 0, 500, 1000]}]'
    script = Scripted(text)
    scripted = vlm.VisionLanguageModel(
        script, script, DIALECTS["qwen3_vl"], vlm.ConversationImages(session_context)
    )
    image = picture(100, 200)
    params = wanted(output_mode="detect")
    detections = [Detection("cat", 1.0, (0.0, 0.0, 100.0, 100.0))]
    expected = VlmResult(text, [Entity("cat")], detections, usage=Usage(1, 2))
    assert scripted.predict([image], [params]) == [expected]
    assert script.asked == DIALECTS["qwen3_vl"].format_prompt(QUESTION, "detect")
    assert list(scripted.stream(image, params)) == [*text, expected]
    assert scripted.predict([image], [wanted()]) == [VlmResult(text, usage=Usage(1, 2))]
    assert script.asked == QUESTION


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_counted(name, model, checkpoint, picture):
    """The usage is what transformers itself writes: truncated at the limit, whole before it."""
    image, loaded = picture(90, 150), model(name)
    [cut] = loaded.predict([image], [wanted(max_tokens=3)])
    tensors = loaded._prompt_processor.tensors([image], wanted(), QUESTION)
    asked = tensors["input_ids"].shape[1]
    assert cut.usage == Usage(asked, 3, truncated=True)
    network = loaded._generator._network
    first = int(network.run(tensors, "generate", do_sample=False, max_new_tokens=1)[0, -1])
    chosen = network._module.generation_config
    before, chosen.eos_token_id = chosen.eos_token_id, first
    try:
        [ended] = loaded.predict([image], [wanted(max_tokens=3)])
        [exactly] = loaded.predict([image], [wanted(max_tokens=1)])
        *_, streamed = loaded.stream(image, wanted(max_tokens=3))
    finally:
        chosen.eos_token_id = before
    assert ended.usage == exactly.usage == streamed.usage == Usage(asked, 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_output_mode_of_random_text(name, model, picture):
    """A model that does not answer in the layout still answers with its text."""
    [result] = model(name).predict([picture(90, 150)], [wanted(output_mode="detect")])
    assert result.text
    assert msgspec.UNSET is result.output


@pytest.mark.parametrize(
    ("name", "size", "region", "resized"),
    [
        ("llava", (100, 200), (50, 0, 100, 100), (200, 100)),
        ("llava", (200, 100), (0, 50, 100, 100), (100, 200)),
        ("llava_next", (100, 200), (0, 0, 200, 100), (200, 100)),
        ("qwen2_5_vl", (90, 150), (0, 0, 150, 90), (140, 84)),
        ("qwen3_vl", (90, 150), (0, 0, 150, 90), (160, 96)),
    ],
)
def test_view(name, size, region, resized, model, picture):
    """What a model sees: LLaVA the middle square, Qwen-VL all of it at another size."""
    prompt_processor = model(name)._prompt_processor
    image = picture(*size)
    view = prompt_processor.view(image, prompt_processor.tensors([image], wanted(), QUESTION))
    assert view == View((size[1], size[0]), region, resized)


def test_padded_view(checkpoint, session_context, picture, tmp_path):
    """A LLaVA whose processor pads to a square sees more than the image."""
    path = shutil.copytree(checkpoint("llava"), tmp_path / "llava")
    settings = json.loads((path / "processor_config.json").read_text())
    settings["image_processor"] |= {
        "image_processor_type": "LlavaImageProcessor",
        "do_pad": True,
    }
    (path / "processor_config.json").write_text(json.dumps(settings))
    loaded = vlm.load(ModelSpec("tiny/llava", "vlm", "hf", path), session_context)
    view = loaded._prompt_processor.view(picture(100, 200), {})
    assert view.region == (0, -50, 200, 200)
    assert answer(loaded, picture(100, 200)) != ""


def test_a_template_that_needs_a_system_prompt(checkpoint, session_context, picture, tmp_path):
    """It takes questions with one, so that the model is loaded."""
    path = shutil.copytree(checkpoint("llava"), tmp_path / "llava")
    template = path / "chat_template.jinja"
    needing = "{% if messages[0].role != 'system' %}{{ raise_exception('none') }}{% endif %}"
    template.write_text(needing + template.read_text())
    loaded = vlm.load(ModelSpec("tiny/llava", "vlm", "hf", path), session_context)
    assert answer(loaded, picture(40, 40), system_prompt="Be brief.")


def test_closed(checkpoint, session_context, picture):
    """A closed model holds no weights."""
    loaded = vlm.load(ModelSpec("a", "vlm", "hf", checkpoint("llava")), session_context)
    loaded.close()
    with pytest.raises(AttributeError):
        answer(loaded, picture(40, 40))


def test_serves_families():
    """The model type decides; Pixtral calls itself LLaVA and is none."""
    for family in FAMILIES:
        files = ModelFiles("a/b", "hf", config={"model_type": family})
        assert vlm.BACKEND.serves(files, "vlm")
        assert not vlm.BACKEND.serves(files, "ocr")
    pixtral = {"model_type": "llava", "vision_config": {"model_type": "pixtral"}}
    assert not vlm.BACKEND.serves(ModelFiles("a/llava", "hf", config=pixtral), "vlm")
    assert not vlm.BACKEND.serves(ModelFiles("a/llava", "hf", config={}), "vlm")
