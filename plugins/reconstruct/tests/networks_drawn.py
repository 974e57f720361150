"""Checkpoints of tiny networks with drawn weights, as the libraries write theirs."""

from __future__ import annotations

import torch
from kornia.feature import ALIKED, DISK, LightGlue
from transformers import (
    LightGlueConfig,
    LightGlueForKeypointMatching,
    LightGlueImageProcessor,
    SuperPointConfig,
)


def superpoint(folder):
    """Write SuperPoint with LightGlue into a folder; return it."""
    torch.manual_seed(3)
    detector = SuperPointConfig(
        encoder_hidden_sizes=[8, 8, 16, 16],
        decoder_hidden_size=16,
        descriptor_decoder_dim=16,
        initializer_range=0.3,
    )
    config = LightGlueConfig(
        keypoint_detector_config=detector,
        descriptor_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    made = LightGlueForKeypointMatching(config).eval()
    planted(made.state_dict(), "mlp.fc2", "final_projection")
    made.save_pretrained(folder)
    LightGlueImageProcessor().save_pretrained(folder)
    return folder


def planted(state, last, compared):
    """Have LightGlue match the nearest descriptors: drawn layers would make all alike.

    The last step of each layer adds nothing, and what they are compared by is themselves.
    """
    for name, each in state.items():
        if last in name:
            each.zero_()
        elif f"{compared}.weight" in name:
            each.copy_(1_000 * torch.eye(len(each)))
        elif "matchability.bias" in name:
            each.fill_(5.0)


def light_glue(width):
    """Return LightGlue of a width for 128 numbers a feature.

    Of less than 128 it projects them first, which features that are much alike do not survive.
    """
    return LightGlue(None, input_dim=128, descriptor_dim=width, num_heads=2, n_layers=2)


def glue(file, width=32, *, early=False):
    """Write LightGlue of a width; ``early``: with the authors' own names."""
    torch.manual_seed(4)
    state = light_glue(width).state_dict()
    planted(state, "ffn.3", "final_proj")
    if early:
        state = {
            "matcher." + (name if "attn" not in name else earlier(name)): each
            for name, each in state.items()
        }
    torch.save(state, file)
    return str(file)


def earlier(name):
    """Return the name of a layer in the authors' files: ``self_attn.0`` was another's child."""
    _, number, kind, rest = name.split(".", 3)
    return f"{kind}.{number}.{rest}"


def disk(file):
    """Write DISK."""
    torch.manual_seed(5)
    torch.save({"extractor": DISK().state_dict()}, file)
    return str(file)


def aliked(file):
    """Write ALIKED."""
    torch.manual_seed(6)
    torch.save(ALIKED("aliked-n16").state_dict(), file)
    return str(file)
