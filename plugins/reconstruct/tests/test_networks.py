"""Our use of the learned networks against the libraries' own calls, on drawn weights."""

from __future__ import annotations

import json
import shutil

import msgspec
import numpy as np
import pytest
import torch
from kornia.feature import ALIKED, DISK, LoFTR
from networks_drawn import aliked, disk, glue, light_glue, superpoint
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, LightGlueForKeypointMatching

from mataserver import Unavailable
from mataserver_reconstruct import networks
from mataserver_reconstruct.program import MatcherRequest, Pair
from mataserver_reconstruct.sparse import read
from mataserver_reconstruct.weights import Checkpoint, DetectorAndMatcher, Matchers

MOST = 64


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks as tiny as these are slower by two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures():
    """Two pictures of noise, the second some pixels further."""
    noise = np.random.default_rng(0).integers(0, 256, (10, 14, 3), np.uint8)
    whole = np.asarray(Image.fromarray(noise).resize((144, 100)), np.uint8)
    return whole[:96, :128].copy(), whole[2:98, 4:132].copy()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Settings that name checkpoints with drawn weights."""
    folder = tmp_path_factory.mktemp("drawn")
    matcher, earlier = glue(folder / "glue.pth"), glue(folder / "earlier.pth", 128, early=True)
    return Matchers(
        superpoint_lightglue=Checkpoint(weights=str(superpoint(folder / "superpoint"))),
        disk_lightglue=DetectorAndMatcher(features=disk(folder / "disk.pth"), matcher=matcher),
        aliked_lightglue=DetectorAndMatcher(
            features=aliked(folder / "aliked.pth"), matcher=earlier
        ),
    )


def shown(pixels):
    """Return a picture as kornia takes it."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def pairs(rows):
    """Return matches as a set."""
    return {tuple(int(each) for each in row) for row in rows}


def test_superpoint_finds_and_matches_as_the_library_does(drawn, pictures):
    """Keypoints that are found once, and their matches, are those of transformers' whole call."""
    place = drawn.superpoint_lightglue.weights
    model = LightGlueForKeypointMatching.from_pretrained(place).eval()
    model.keypoint_detector.keypoint_decoder.max_keypoints = MOST
    processor = AutoImageProcessor.from_pretrained(place)
    given = processor(list(pictures), do_resize=False, return_tensors="pt")
    network = networks.load("superpoint_lightglue", drawn, MOST)
    with torch.inference_mode():
        told = model(**given)
        found = [network.find(each) for each in pictures]
        matches = network.match(*found)
    size = np.array([128, 96])
    for side in (0, 1):
        there = told.mask[0, side].bool()
        assert np.allclose(found[side].xy, told.keypoints[0, side][there].numpy() * size)
        assert 0 < len(found[side].xy) <= MOST
    of_first = told.matches[0, 0].numpy()
    assert pairs(matches) == {(a, int(b)) for a, b in enumerate(of_first) if b >= 0}
    assert len(matches) > 3


def test_superpoint_takes_pictures_of_two_sizes(drawn, pictures):
    """Pictures that stand upright and lie are matched, and an empty one with nothing."""
    network = networks.load("superpoint_lightglue", drawn, MOST)
    with torch.inference_mode():
        one = network.find(pictures[0])
        two = network.find(np.ascontiguousarray(pictures[1].transpose(1, 0, 2)))
        matches = network.match(one, two)
        none = networks.Features(one.xy[:0], one.size, one.score[:0], one.descriptors[:0])
        assert network.match(one, none).shape == (0, 2)
    assert (matches < (len(one.xy), len(two.xy))).all()


@pytest.mark.parametrize(("name", "width"), [("disk_lightglue", 32), ("aliked_lightglue", 128)])
def test_kornia_finds_and_matches_as_the_library_does(name, width, drawn, pictures, tmp_path):
    """Features and matches are those of kornia's own networks, whoever named the layers."""
    network = networks.load(name, drawn, MOST)
    matcher = light_glue(width)
    matcher.load_state_dict(torch.load(glue(tmp_path / "glue.pth", width)))
    with torch.inference_mode():
        found = [network.find(each) for each in pictures]
        own = [finder(name, drawn)(shown(each)) for each in pictures]
        sized = torch.tensor([[128.0, 96.0]])
        given = {
            f"image{at}": {"keypoints": xy[None], "descriptors": rows[None], "image_size": sized}
            for at, (xy, rows) in enumerate(own)
        }
        told = matcher.eval()(given)["matches"][0]
        matches = network.match(*found)
    for ours, (xy, rows) in zip(found, own, strict=True):
        assert np.array_equal(ours.xy, xy.numpy())
        assert np.array_equal(ours.descriptors, rows.numpy())
        assert 0 < len(ours.xy) <= MOST
    assert pairs(matches) == pairs(told)
    assert len(matches) > 10


def finder(name, drawn):
    """Return kornia's own call: keypoints and descriptors of a picture."""
    if name == "disk_lightglue":
        made = DISK().eval()
        made.load_state_dict(torch.load(drawn.disk_lightglue.features)["extractor"])
        more = {"n": MOST, "pad_if_not_divisible": True}
    else:
        made = ALIKED("aliked-n16", max_num_keypoints=MOST).eval()
        made.load_state_dict(torch.load(drawn.aliked_lightglue.features))
        more = {}

    def find(picture):
        (told,) = made(picture, **more)
        return told.keypoints, told.descriptors

    return find


def test_loftr_matches_as_the_library_does(pictures, tmp_path):
    """Places are those of kornia's LoFTR."""
    torch.manual_seed(7)
    own = LoFTR(None).eval()
    torch.save({"state_dict": own.state_dict()}, tmp_path / "loftr.ckpt")
    settings = Matchers(loftr=Checkpoint(weights=str(tmp_path / "loftr.ckpt")))
    network = networks.load("loftr", settings, MOST)
    own.coarse_matching.thr = network._network.coarse_matching.thr = 0.0  # drawn ones are unsure
    small = [each[:64, :80].copy() for each in pictures]
    grey = [network._grey(each) for each in small]
    with torch.inference_mode():
        told = own({"image0": grey[0], "image1": grey[1]})
        found = network.match_pair(*small)
    assert np.array_equal(found.first, told["keypoints0"].numpy())
    assert np.array_equal(found.second, told["keypoints1"].numpy())
    assert len(found.score) > 0


def order(drawn, folder, matcher, **asked):
    """Return what a program is told."""
    (folder / matcher).mkdir()
    return MatcherRequest(
        photos=str(folder), output=str(folder / matcher), most=MOST, seed=0, threads=1,
        matcher=matcher, settings=msgspec.to_builtins(drawn), **asked,
    )  # fmt: skip


def test_an_order_is_carried_out(drawn, pictures, tmp_path):
    """Features of each photograph and matches of each pair are written, and each is told."""
    for name, pixels in zip("ab", pictures, strict=True):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    done = []
    told = order(
        drawn, tmp_path, "superpoint_lightglue", files=["a.png", "b.png"],
        pairs=[Pair("a.png", "b.png", "pair.npz")],
    )  # fmt: skip
    networks.process_request(told, lambda: done.append(1))
    assert len(done) == 3
    network = networks.load("superpoint_lightglue", drawn, MOST)
    with torch.inference_mode():
        found = [network.find(each) for each in pictures]
        wanted = network.match(*found)
    folder = tmp_path / "superpoint_lightglue"
    assert np.array_equal(read(folder / "a.png.npz", "xy")[0], found[0].xy)
    assert pairs(read(folder / "pair.npz", "matches")[0]) == pairs(wanted)


def test_weights_elsewhere_are_refused(tmp_path):
    """A checkpoint's index must not lead out of its directory."""
    elsewhere, own = superpoint(tmp_path / "elsewhere"), tmp_path / "own"
    shutil.copytree(elsewhere, own)
    held = elsewhere / "model.safetensors"
    (own / held.name).unlink()
    named = dict.fromkeys(load_file(held), str(held))
    index = {"metadata": {}, "weight_map": named}
    (own / "model.safetensors.index.json").write_text(json.dumps(index))
    needs = Matchers(superpoint_lightglue=Checkpoint(weights=str(own)))
    with pytest.raises(Unavailable, match=r"model\.safetensors\.index\.json names a file outside"):
        networks.load("superpoint_lightglue", needs, MOST)


@pytest.mark.parametrize(
    ("file", "settings", "told"),
    [
        ("config.json", {"_attn_implementation": "someone/kernel"}, "names code of another"),
        ("adapter_config.json", {"base_model_name_or_path": "/srv/other"}, "is an adapter"),
    ],
)
def test_parts_elsewhere_are_refused(file, settings, told, tmp_path):
    """A checkpoint's settings must not name code of the hub or another checkpoint."""
    place = superpoint(tmp_path / "own")
    known = json.loads((place / file).read_text()) if (place / file).exists() else {}
    (place / file).write_text(json.dumps(known | settings))
    needs = Matchers(superpoint_lightglue=Checkpoint(weights=str(place)))
    with pytest.raises(Unavailable, match=rf"its weights are refused: .* {told}"):
        networks.load("superpoint_lightglue", needs, MOST)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("loftr", lambda place: place.write_bytes(b"no weights")),
        ("loftr", disk),
        ("disk_lightglue", glue),
        ("aliked_lightglue", lambda place: torch.save([1, 2], place)),
        ("superpoint_lightglue", lambda place: place.mkdir()),
        ("superpoint_lightglue", lambda _: None),
    ],
)
def test_other_weights_are_refused(name, make, tmp_path):
    """Weights that are damaged, gone or of another network are told when they are loaded."""
    place = tmp_path / "weights"
    make(place)
    one = name in {"loftr", "superpoint_lightglue"}
    needs = (
        Checkpoint(weights=str(place))
        if one
        else DetectorAndMatcher(features=str(place), matcher=str(place))
    )
    with pytest.raises(Unavailable, match="its weights are"):
        networks.load(name, Matchers(**{name: needs}), MOST)
