"""Encoder and decoder are objects of their own: built from their parts without a TiTok, they give the same result."""

import torch

from modeling.adapters import Adapters
from modeling.conditioning.none import NoConditioning
from modeling.decoder import FrameDecoder
from modeling.encoder import Chunks, FrameEncoder
from modeling.flow import SamplerOptions
from modeling.heart.phases import along_stack, cycle
from modeling.tokenizer import Tokenizer
from tests.tiny import TINY, tiny_config, tiny_model

FRAMES = torch.rand(2, 3, 4, 1, 32, 32, generator=torch.Generator().manual_seed(1))  # (B, D, T, C, H, W)
PHASE = cycle(4, torch.device("cpu")).expand(2, -1)


def test_an_encoder_without_a_model_encodes_frames_in_any_chunks() -> None:
    torch.manual_seed(0)
    config = tiny_config("titok")
    tokenizer, adapters = Tokenizer(config.tokenizer.vq_model), Adapters(TINY["width"], config.adapters)
    ids = [
        FrameEncoder(tokenizer.eval(), adapters.eval(), NoConditioning(), None, Chunks(size)).frame_ids(FRAMES, PHASE)
        for size in (128, 4)
    ]
    assert ids[0].shape == (2, 3, 4, 8) and torch.equal(ids[0], ids[1])


@torch.no_grad()
def test_encoder_and_decoder_alone_give_the_result_of_the_model() -> None:
    model = tiny_model("titok")
    encoder = FrameEncoder(model.tokenizer, model.adapters, NoConditioning(), None, Chunks())
    decoder = FrameDecoder(model.tokenizer, NoConditioning(), None, None, False, 1, Chunks())
    x = FRAMES.permute(0, 3, 4, 5, 1, 2)  # (B, C, H, W, D, T)
    tokens = model.encode(x, ed=0, es=1)
    ids = encoder.frame_ids(FRAMES, PHASE)
    assert torch.equal(tokens[:, :, 2:], ids.flatten(2))
    position, phase = along_stack(3, ids.device).repeat(2), PHASE.repeat_interleave(3, 0)
    anatomy = encoder.no_anatomy(6, ids.device)
    frames = decoder.decode(ids.flatten(0, 1), anatomy, position, phase, SamplerOptions(), [0, 1, 2] * 2)
    decoded = model.decode_tokens(tokens).permute(0, 4, 5, 1, 2, 3).flatten(0, 1)  # (B * D, T, C, H, W)
    assert torch.allclose(frames.clamp(0, 1), decoded)
