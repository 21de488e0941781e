"""The parts that heads add to a picture's embedding: with the rest they are the whole, and a model of another form says so."""

import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.model.image_tower import ImageTower, joint_contributions
from conceptlab.worlds.trained_dual_encoder import D_JOINT, END, N_HEADS, N_LAYERS, _fresh


@pytest.fixture(scope="module")
def clip():
    return _fresh(5).eval()


def test_contributions_are_what_leaving_a_head_out_takes_from_the_normed_stream(clip):
    tower, pictures = ImageTower.of(clip), torch.randn(6, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    found = joint_contributions(tower, pictures)
    assert found.shape == (6, N_LAYERS, N_HEADS, D_JOINT)
    layer, attention = clip.vision_model.encoder.layers[-2], {}
    hook = layer.self_attn.out_proj.register_forward_hook(lambda m, a, out: attention.update(z=a[0], out=out))
    with torch.no_grad():
        final = clip.vision_model(pixel_values=pictures, output_hidden_states=True).hidden_states[-1][:, 0]
    hook.remove()
    head = torch.arange(8 * 3, 8 * 4)  # what head 3 of that block writes at the class token
    wrote = attention["z"][:, 0, head] @ layer.self_attn.out_proj.weight[:, head].T
    norm = clip.vision_model.post_layernorm
    scale = (final.var(1, unbiased=False) + norm.eps).sqrt()
    normed = (wrote - wrote.mean(1, keepdim=True)) / scale[:, None] * norm.weight
    wants = normed @ clip.visual_projection.weight.T
    assert torch.allclose(found[:, -2, 3], wants, atol=1e-5)


def test_embeddings_are_those_of_the_model_itself(clip):
    pictures = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ids = torch.tensor([[1, 5, END]]).expand(3, -1)
        wants = clip(input_ids=ids, pixel_values=pictures).image_embeds
    mine = ImageTower.of(clip).embedded(pictures)
    assert torch.allclose(mine / mine.norm(dim=1, keepdim=True), wants, atol=1e-5)


def test_a_model_of_another_form_is_one_line():
    with pytest.raises(InputError, match="has no vision_model with a post_layernorm"):
        ImageTower.of(torch.nn.Linear(2, 2))
