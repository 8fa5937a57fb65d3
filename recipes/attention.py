"""Attention backends of our own, for `attn_implementation` in a YAML. Importing this module registers them.

torch_varlen    packed documents through torch's variable-length kernel (CUDA, 16 bit); elsewhere document by
                document
"""

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask


def torch_varlen(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    dropout=0.0,
    cu_seq_lens_q=None,
    max_length_q=None,
    **kwargs,
):
    """query, key, value [batch, heads, length, head_dim] -> [batch, length, heads, head_dim]. Each document
    attends to itself, causally. Without cu_seq_lens_q (generation, padded rows) it is sdpa."""
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if dropout or kwargs.get("sliding_window") or kwargs.get("softcap"):
        raise ValueError("torch_varlen has no attention dropout, sliding window or soft cap")
    shape, grouped, dtype = (query.shape[0], query.shape[2]), query.shape[1] != key.shape[1], value.dtype
    # [batch * length, heads, head_dim]
    query, key, value = (x.transpose(1, 2).flatten(0, 1).to(dtype) for x in (query, key, value))
    attend = varlen_attn if query.is_cuda else attend_by_document
    bounds = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    output = attend(query, key, value, *bounds, scale=scaling, window_size=(-1, 0), enable_gqa=grouped)
    return output.unflatten(0, shape), None


def attend_by_document(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa
):
    """What torch.nn.attention.varlen.varlen_attn computes of these arguments (causal), where it has no
    kernel."""
    lengths = cu_seq_q.diff().tolist()
    documents = zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in (query, key, value)), strict=True)
    outputs = [
        scaled_dot_product_attention(*document, is_causal=True, scale=scale, enable_gqa=enable_gqa)
        for document in documents
    ]
    return torch.cat(outputs, dim=1).transpose(0, 1)


def torch_varlen_mask(*args, attention_mask=None, **kwargs):
    """No mask for packed documents, sdpa's for padded rows."""
    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


AttentionInterface.register("torch_varlen", torch_varlen)
AttentionMaskInterface.register("torch_varlen", torch_varlen_mask)
