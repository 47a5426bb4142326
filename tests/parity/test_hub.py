"""The published weights themselves, for whoever has a network: `pytest -m hub`."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from modeling.titok import TiTok

PICTURE = os.environ.get("TITOK_MRI_IMAGENET_PICTURE")
PUBLISHED = [
    *(887, 3979, 349, 720, 2809, 2743, 2101, 603, 2205, 1508, 1891, 4015, 1317, 2956, 3774, 2296),
    *(484, 2612, 3472, 2330, 3140, 3113, 1056, 3779, 654, 2360, 1901, 2908, 2169, 953, 1326, 2598),
]


@pytest.mark.hub
@pytest.mark.skipif(
    PICTURE is None,
    reason="set TITOK_MRI_IMAGENET_PICTURE to ILSVRC2012_val_00010240.png of bytedance/1d-tokenizer (assets/)",
)
def test_titok_l32_gives_the_tokens_that_its_authors_published() -> None:
    try:
        model = TiTok.from_pretrained("yucornetto/tokenizer_titok_l32_imagenet")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with Image.open(PICTURE) as picture:
        image = torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32) / 255)
    tokens = model.encode(image.permute(2, 0, 1)[None])
    assert tokens.tolist() == [PUBLISHED]
    assert model.decode_tokens(tokens).shape == (1, 3, 256, 256)
