"""SAM3 on videos: what a session costs beyond transformers' own loop, and what it remembers.

Run as ``python bench/sam_video.py [FRAMES]``; it prints a Markdown table. The network is that of
``facebook/sam3`` with random weights, on squares of 504 pixels instead of 1008, and with a vision
encoder of 2 layers of width 64 instead of 32 of width 1024. The encoder is most of the work of
either loop, so the ratios that are printed are worse than those of the whole network.

Both loops advance in turns, frame by frame, on one thread of torch; what is told is the processor
time of the process, so that other programs count little. Transformers' loop is given every frame
decoded and prepared, and its masks stay as the network gives them; ours decodes a video of
1920x1080, and ends with masks of that size as JSON.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
import transformers
from transformers import Sam3Config, Sam3TrackerVideoConfig, Sam3VideoConfig, Sam3VideoModel
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import (
    Sam3TrackerVideoInferenceSession,
)
from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

from mataserver_sam.footage import Footage
from mataserver_sam.limits import Limits
from mataserver_sam.loading import load_sam3
from mataserver_sam.memory_pruning import held_bytes
from mataserver_sam.network import Network
from mataserver_sam.preprocess import StretchPreparation
from mataserver_sam.video import Video
from mataserver_sam.video_requests import PromptRequest, PropagateRequest
from mataserver_sam.weights import Weights

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "plugins" / "sam" / "tests"))

import movies  # noqa: E402 - the plugin's tests write videos and tokenizers
import tiny  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECTS = 2
SIZE = (1920, 1080)
SIDE, GRID = 504, 36
CACHE = 64e6
TEXT = "person"
BOXES = [(0.3, 0.4, 0.2, 0.3), (0.6, 0.6, 0.3, 0.2)]


def build() -> Network:
    """Return the network."""
    texts = tiny.tokenizer()
    words = len(texts)
    detector = Sam3Config().to_dict()
    detector["vision_config"]["backbone_config"].update(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        global_attn_indexes=[1], image_size=SIDE,
    )  # fmt: skip
    sizes = [[GRID * times] * 2 for times in (4, 2, 1)]
    detector["vision_config"]["backbone_feature_sizes"] = sizes
    detector["text_config"].update(
        vocab_size=words, num_hidden_layers=2, bos_token_id=words - 2, eos_token_id=words - 1,
        pad_token_id=words - 1,
    )  # fmt: skip
    tracker = Sam3TrackerVideoConfig().to_dict()
    tracker.update(
        vision_config=detector["vision_config"], image_size=SIDE,
        memory_attention_rope_feat_sizes=[GRID, GRID],
    )  # fmt: skip
    tracker["prompt_encoder_config"]["image_size"] = SIDE
    knobs = {"score_threshold_detection": 0.0, "new_det_thresh": 0.0, "det_nms_thresh": 0.0}
    hotstart = {"hotstart_delay": 0, "hotstart_unmatch_thresh": 0, "hotstart_dup_thresh": 0}
    config = Sam3VideoConfig(
        detector_config=detector, tracker_config=tracker, max_num_objects=OBJECTS,
        low_res_mask_size=4 * GRID, **knobs, **hotstart,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = Sam3VideoModel(config).eval().requires_grad_(requires_grad=False)
    cpu = torch.device("cpu")
    return Network.of(Weights(model, None, texts, StretchPreparation(SIDE), cpu, torch.float32))


def text_loop(network: Network, pixels: torch.Tensor) -> tuple[Any, Callable[[int], Any]]:
    """Return transformers' session that looks for a text, and its step."""
    weights: Any = network.texts
    session: Any = Sam3VideoInferenceSession(
        video=pixels, video_height=SIZE[1], video_width=SIZE[0], dtype=torch.float32
    )
    number, tokens = session.add_prompt(TEXT), weights.tokens([TEXT])
    session.prompt_input_ids[number] = tokens["input_ids"]
    session.prompt_attention_masks[number] = tokens["attention_mask"]
    return session, lambda frame: weights.video(session, frame_idx=frame)


def box_loop(network: Network, pixels: torch.Tensor) -> tuple[Any, Callable[[int], Any]]:
    """Return transformers' session with an object in each box, and its step."""
    session: Any = Sam3TrackerVideoInferenceSession(
        video=pixels, video_height=SIZE[1], video_width=SIZE[0], dtype=torch.float32
    )
    for number, (cx, cy, width, height) in enumerate(BOXES, 1):
        corners = [[cx - width / 2, cy - height / 2], [cx + width / 2, cy + height / 2]]
        given = {
            "point_coords": torch.tensor(corners)[None, None] * SIDE,
            "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32),
        }
        session.add_point_inputs(session.obj_id_to_idx(number), 0, given)
    session.obj_with_new_inputs = [1, 2]

    def step(frame: int) -> Any:
        with torch.inference_mode():
            session.cache.cache_vision_features(frame, network.features(session.get_frame(frame)))
        return network.tracker(session, frame_idx=frame)

    return session, step


def timed(work: Callable[[], Any]) -> float:
    """Return how many milliseconds of processor time a piece of work takes."""
    begun = time.process_time()
    work()
    return (time.process_time() - begun) * 1e3


def measure(name: str, loop: Any, prompts: list[Any], network: Network, footage: Footage) -> None:
    """Print one comparison."""
    count = len(footage)
    pixels = torch.stack([footage[frame] for frame in range(count)])
    reference, step = loop(network, pixels)
    session = Video(network, footage, OBJECTS)
    step(0)
    session.prompt(msgspec.convert({"frame_index": 0, "prompts": prompts}, PromptRequest))
    ours = session.propagate(PropagateRequest(direction="forward"))
    next(ours)
    bare, whole, sizes = [], [], []
    for frame in range(1, count):
        bare.append(timed(lambda at=frame: step(at)))  # type: ignore[misc]
        whole.append(timed(lambda: next(ours)))
        kept = session.figures().total_bytes - footage.clip.cached_bytes
        sizes.append((held_bytes(reference.output_dict_per_obj)["cpu"], kept))
    ratio = statistics.median(mine / theirs for mine, theirs in zip(whole, bare, strict=True))
    first, last = sizes[count // 2], sizes[-1]
    steps = count - 2 - count // 2
    theirs, mine = ((last[i] - first[i]) / steps / OBJECTS / 1e6 for i in (0, 1))
    share = last[1] / (last[0] + pixels.nbytes)
    print(
        f"| {name} | {statistics.median(bare):.0f} | {statistics.median(whole):.0f} | {ratio:.3f} "
        f"| {theirs:.2f} | {mine:.3f} | {last[0] / 1e6:.0f} + {pixels.nbytes / 1e6:.0f} "
        f"| {last[1] / 1e6:.1f} + {footage.clip.cached_bytes / 1e6:.0f} | {share:.3f} |",
        flush=True,
    )


def flat(folder: Path, count: int = 500) -> None:
    """Print what a long video leaves in both, with the tiny network of the tests."""
    tiny.sam3(folder / "tiny")
    network = Network.of(load_sam3(folder / "tiny", "cpu", "float32"))
    path = movies.write(folder / "long.mp4", count, "mpeg4", options={"g": "12"})
    footage = Footage(path, network, 1e6, Limits())
    session = Video(network, footage, OBJECTS)
    prompts = [{"type": "text", "text": TEXT}, {"type": "box", "box": BOXES[0]}]
    session.prompt(msgspec.convert({"frame_index": 0, "prompts": prompts}, PromptRequest))
    sizes = [
        session.figures().total_bytes - footage.clip.cached_bytes
        for _ in session.propagate(PropagateRequest())
    ]
    pixels = torch.stack([footage[frame] for frame in range(count)])
    reference, step = text_loop(network, pixels)
    theirs = []
    for frame in range(count):
        step(frame)
        theirs.append(held_bytes(vars(reference))["cpu"] - pixels.nbytes)
    print(f"\nThe tiny network, {count} frames, bytes kept without frames.\n")
    print("| after frame | ours: a text and a box | transformers: a text |\n|---|---|---|")
    for frame in (16, 32, 100, count - 1):
        print(f"| {frame} | {sizes[frame]} | {theirs[frame]} |")


def main(count: int) -> None:
    """Build, write a video and measure."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    network = build()
    with tempfile.TemporaryDirectory() as folder:
        path = movies.write(
            Path(folder) / "video.mp4", count, size=SIZE, options={"preset": "veryfast", "g": "60"}
        )
        footage = Footage(path, network, CACHE, Limits())
        print(f"{count} frames of {SIZE[0]}x{SIZE[1]}, {OBJECTS} objects, float32.\n")
        print(
            "| | transformers, ms a frame | ours | median of ours / transformers "
            "| MB that a frame adds per object | ours | MB kept: outputs + frames | ours | share |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        boxes = [{"type": "box", "box": box} for box in BOXES]
        measure("boxes", box_loop, boxes, network, footage)
        measure("a text", text_loop, [{"type": "text", "text": TEXT}], network, footage)
        flat(Path(folder))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
