"""A step of T5's decoder, whose prompt and earlier tokens are cached: what its modules compute, without their calls.

For one token of a small model the calls into modules take longer than what they compute.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache
from transformers.models.t5 import modeling_t5 as t5

from .linear import Linear, linear_for

# Whatever stands in the place of one of these (LoRA, eight bits, shards, somebody's own) computes something else.
_PLAIN = {
    *(t5.T5Stack, t5.T5Block, t5.T5LayerSelfAttention, t5.T5LayerCrossAttention, t5.T5LayerFF, t5.T5Attention),
    *(t5.T5LayerNorm, t5.T5DenseActDense, t5.T5DenseGatedActDense),
    *(nn.ModuleList, nn.Linear, Linear, nn.Embedding, nn.Dropout),
}
_FIRST_LENGTH = 128  # of the table of position biases
_FIRST_ROOM = 32  # tokens, for keys and values


class T5Steps:
    """The steps of one decoding, made by `of`; they belong to its cache, and end with it."""

    def __init__(self, decoder: Any):
        self.first = decoder.block[0].layer[0].SelfAttention
        self.heads, self.epsilon = self.first.n_heads, self.first.config.layer_norm_epsilon
        self.norm = decoder.final_layer_norm.weight
        self.layers = []
        for block in decoder.block:
            own, cross, dense = block.layer
            mlp, a, c = dense.DenseReluDense, own.SelfAttention, cross.EncDecAttention
            entries = [mlp.wi_0.weight, mlp.wi_1.weight] if hasattr(mlp, "wi_0") else [mlp.wi.weight, None]
            norms = own.layer_norm.weight, cross.layer_norm.weight, dense.layer_norm.weight
            attention = a.q.weight, a.k.weight, a.v.weight, a.o.weight, c.q.weight, c.o.weight
            self.layers.append((norms, attention, (*entries, mlp.wo.weight, mlp.act)))
        self._biases = self.first.compute_bias(1, _FIRST_LENGTH, past_seen_tokens=_FIRST_LENGTH - 1)

    def __deepcopy__(self, memo: Any) -> T5Steps:
        return self  # weights are the model's, whoever copies a cache

    @classmethod
    def of(cls, decoder: nn.Module, cache: Cache | None) -> T5Steps | None:
        """Those of a cache that holds the prompt and a token; None where only the modules themselves can do it."""
        if not isinstance(cache, EncoderDecoderCache) or not cache.is_updated.get(0):
            return None
        if not hasattr(cache, "_t5_steps"):
            parts = (cache.self_attention_cache, cache.cross_attention_cache)
            usable = _is_plain(decoder) and not any(getattr(part, "offloading", False) for part in parts)
            usable = usable and all(type(layer) is DynamicLayer for part in parts for layer in part.layers)
            cache._t5_steps = cls(decoder) if usable else None
        return cache._t5_steps

    def __call__(self, x: Tensor, encoder_mask: Tensor | None, cache: EncoderDecoderCache) -> Tensor:
        """x (R,1,C) of the next token, encoder_mask (R,S) -> its state (R,1,C); the cache is one token longer then."""
        own_layers, cross_layers = cache.self_attention_cache.layers, cache.cross_attention_cache.layers
        bias = self._bias(own_layers[0].keys.shape[2] + 1)
        hidden = None if encoder_mask is None else _hidden(encoder_mask, x.dtype)
        width, linear = x.shape[-1:], linear_for(x, self.norm)
        split = (len(x), self.heads, 1, -1)
        for (norms, attention, mlp), own, cross in zip(self.layers, own_layers, cross_layers, strict=True):
            q, k, v, o, cross_q, cross_o = attention
            h = F.rms_norm(x, width, norms[0], self.epsilon)
            keys, values = _appended(own, linear(h, k).view(split), linear(h, v).view(split))
            seen = _attention(linear(h, q).view(split), keys, values, bias)
            x = x + linear(seen.flatten(1)[:, None], o)
            h = F.rms_norm(x, width, norms[1], self.epsilon)
            seen = _attention(linear(h, cross_q).view(split), cross.keys, cross.values, hidden)
            x = x + linear(seen.flatten(1)[:, None], cross_o)
            h = F.rms_norm(x, width, norms[2], self.epsilon)
            into, gate, out, act = mlp
            inner = act(linear(h, into))
            x = x + linear(inner if gate is None else inner * linear(h, gate), out)
        return F.rms_norm(x, width, self.norm, self.epsilon)

    def _bias(self, length: int) -> Tensor:
        """What positions add to the scores of the last of so many tokens: (1,heads,1,length)."""
        known = self._biases.shape[-1]
        if length > known:
            known = 2 * length
            self._biases = self.first.compute_bias(1, known, past_seen_tokens=known - 1)
        return self._biases[..., known - length :]


def _appended(layer: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's keys and values with those of one more token, (R,heads,n+1,size) each.

    They are the beginning of tensors that have room for more, so that a token does not copy all earlier ones. That
    room belongs to the keys that were put into the layer at last: after a reordering, a crop or a copy another is made.
    """
    if torch.is_grad_enabled():
        return layer.update(key, value)
    length = layer.keys.shape[2]
    last, *rooms = getattr(layer, "_room", (None,))
    if last is not layer.keys or rooms[0].shape[2] == length or rooms[0].is_inference() != key.is_inference():
        rooms = [_with_room(layer.keys), _with_room(layer.values)]
    for room, added in zip(rooms, (key, value), strict=True):
        room[:, :, length] = added[:, :, 0]
    layer.keys, layer.values = (room[:, :, : length + 1] for room in rooms)
    layer._room = (layer.keys, *rooms)
    return layer.keys, layer.values


def _with_room(states: Tensor) -> Tensor:
    """A copy of states (R,heads,n,size) in the beginning of a tensor that is at least twice as long."""
    rows, heads, length, size = states.shape
    room = states.new_empty(rows, heads, max(2 * length, _FIRST_ROOM), size)
    room[:, :, :length] = states
    return room


def _hidden(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What a mask (R,S), True or 1 where a place is read, adds to scores: (R,1,1,S)."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask == 0, -torch.inf)[:, None, None]


def _attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """query (R,heads,1,size) of keys and values (R,heads,S,size); bias is added to the scores, which have no scale."""
    if len(query) == 1 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)
    # Torch's own goes through rows and heads one by one on a CPU, which takes longer than what it saves in memory.
    scores = query @ keys.transpose(2, 3)
    return (scores if bias is None else scores.add_(bias)).softmax(-1) @ values


def _is_plain(decoder: Any) -> bool:
    """Whether the decoder is T5's own, in evaluation and float32, and nobody listens to its modules."""
    if decoder.training or decoder.config._attn_implementation not in ("eager", "sdpa"):
        return False
    for name, module in decoder.named_modules():
        if type(module) not in _PLAIN and not name.endswith("DenseReluDense.act"):
            return False
        heard = module._forward_hooks or module._forward_pre_hooks
        if heard or "forward" in vars(module) or hasattr(module, "_hf_hook"):
            return False
    return all(type(p) is nn.Parameter and p.dtype == torch.float32 for p in decoder.parameters())


__all__ = ["T5Steps"]
