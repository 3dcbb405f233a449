from __future__ import annotations

import numpy as np
import pytest
import torch

from danlu.base.errors import ConfigError
from danlu.nn.attention import Attention, AttentionConfig, Look, at_once, whole_attention
from danlu.nn.norm import NormConfig

T, E, D = 7, 6, 10


def by_hand(attention: Attention, x: np.ndarray, heads: int, kv_heads: int, visible: np.ndarray, normed: bool) -> np.ndarray:
    """The definition, one row, one head and one query at a time."""

    def project(layer: torch.nn.Linear) -> np.ndarray:
        bias = 0 if layer.bias is None else layer.bias.detach().numpy()
        return x @ layer.weight.detach().numpy().T + bias

    def norm(vector: np.ndarray, gain: torch.Tensor) -> np.ndarray:
        return vector / np.sqrt((vector**2).mean() + 1e-6) * gain.detach().numpy()

    query, key, value = (project(layer) for layer in (attention.query, attention.key, attention.value))
    mixed = np.zeros((*x.shape[:2], heads * E))
    for row in range(len(x)):
        for head in range(heads):
            own, shared = slice(head * E, head * E + E), slice(head // (heads // kv_heads) * E, head // (heads // kv_heads) * E + E)
            keys, queries = key[row][:, shared], query[row][:, own]
            if normed:
                queries = np.stack([norm(q, attention.query_norm.weight) for q in queries])
                keys = np.stack([norm(k, attention.key_norm.weight) for k in keys])
            for t in range(T):
                seen = np.flatnonzero(visible[t])
                scores = np.array([queries[t] @ keys[s] / np.sqrt(E) for s in seen])
                shares = np.exp(scores - scores.max())
                shares /= shares.sum()
                mixed[row, t, own] = sum(share * value[row][s, shared] for share, s in zip(shares, seen, strict=True))
    bias = 0 if attention.output.bias is None else attention.output.bias.detach().numpy()
    return mixed @ attention.output.weight.detach().numpy().T + bias


@pytest.mark.parametrize("masked", [False, True], ids=["causal", "masked"])
@pytest.mark.parametrize(("heads", "kv_heads", "extras"), [(4, 4, False), (4, 2, True), (3, 1, False), (1, 1, True)])
def test_attention_is_its_definition(heads: int, kv_heads: int, extras: bool, masked: bool) -> None:
    torch.manual_seed(0)
    config = AttentionConfig(
        num_heads=heads, num_kv_heads=kv_heads, head_dim=E, input_bias=extras, output_bias=extras, query_key_norm=extras
    )
    attention = Attention(config, D, NormConfig(epsilon=1e-6))
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, T, D)
    visible = torch.rand(T, T) < 0.5 if masked else torch.ones(T, T, dtype=torch.bool).tril()
    visible |= torch.eye(T, dtype=torch.bool)
    expected = by_hand(attention, x.numpy().astype(np.float64), heads, kv_heads, visible.numpy(), extras)
    with torch.no_grad():
        found = attention(x, Look(visible=visible[None, None] if masked else None))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(4, 3, 8), (2, 4, 8), (0, 1, 8), (4, 0, 8), (4, 2, 0), (4, 2, 1.5), ("4", 2, 8)]
)
def test_heads_that_do_not_fit_are_refused(heads: int, kv_heads: int, head_dim: int) -> None:
    with pytest.raises(ConfigError, match=r"attention(\.\w+)? came"):
        AttentionConfig(num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_all_scores_at_once_are_what_torch_computes_in_blocks(causal: bool, scale: float | None) -> None:
    """In training in half precision; what is compared is computed in float32."""
    torch.manual_seed(0)
    half = [torch.randn(2, 33, 3, 8, dtype=torch.bfloat16).transpose(1, 2).requires_grad_() for _ in range(3)]
    full = [x.detach().float().requires_grad_() for x in half]
    assert at_once(*half, causal) and not at_once(*full, causal)
    found, back = whole_attention(*half, causal, scale), torch.randn(2, 3, 33, 8)
    expected = torch.nn.functional.scaled_dot_product_attention(*full, is_causal=causal, scale=scale)
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)
    found.backward(back.to(torch.bfloat16))
    expected.backward(back)
    for one, other in zip(half, full, strict=True):
        torch.testing.assert_close(one.grad.float(), other.grad, atol=0.08, rtol=0.08)
    with torch.no_grad():
        assert not at_once(half[0].detach(), *half[1:], causal)  # 8 channels are no kernel's
