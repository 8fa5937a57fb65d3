"""Attention backends of our own, for `attn_implementation` in a YAML. Importing this module registers them.

torch_varlen    packed documents through torch's variable-length kernel (CUDA, 16 bit); elsewhere document by
                document
shifted_sparse  training attends within groups of a quarter of the length, and half of the heads within groups
                shifted by half a group; evaluation and generation attend to everything. LongLoRA's S2-Attn
                (arXiv:2309.12307, section 3.2) without its wrap-around, which shows the first tokens the last
"""

from itertools import pairwise

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
    refuse_unknown(dropout=dropout, **kwargs)
    shape, grouped, dtype = (query.shape[0], query.shape[2]), query.shape[1] != key.shape[1], value.dtype
    # [batch * length, heads, head_dim]
    query, key, value = (x.transpose(1, 2).flatten(0, 1).to(dtype) for x in (query, key, value))
    attend = varlen_attn if query.is_cuda else attend_by_document
    bounds = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    output = attend(query, key, value, *bounds, scale=scaling, window_size=(-1, 0), enable_gqa=grouped)
    return output.unflatten(0, shape), None


def refuse_unknown(dropout=0.0, sliding_window=None, softcap=None, **kwargs):
    if dropout or sliding_window or softcap:
        raise ValueError("this backend has no attention dropout, sliding window or soft cap")


def attend_by_document(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa
):
    """What torch.nn.attention.varlen.varlen_attn computes of these arguments (causal), where it has no
    kernel."""
    lengths = cu_seq_q.diff().tolist()
    rows = (x.transpose(0, 1)[None] for x in (query, key, value))  # 4 dimensions: the fused kernel
    documents = zip(*(x.split(lengths, dim=2) for x in rows), strict=True)
    outputs = [
        scaled_dot_product_attention(*document, is_causal=True, scale=scale, enable_gqa=enable_gqa)
        for document in documents
    ]
    return torch.cat(outputs, dim=2)[0].transpose(0, 1)


def torch_varlen_mask(*args, attention_mask=None, **kwargs):
    """No mask for packed documents, sdpa's for padded rows."""
    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


def shifted_sparse(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, **kwargs):
    """query, key, value [batch, heads, length, head_dim] -> [batch, length, heads, head_dim]. Groups are
    causal and end where a document does."""
    if not module.training:
        bounds = {"cu_seq_lens_q": cu_seq_lens_q, **kwargs}
        return torch_varlen(module, query, key, value, attention_mask, scaling, **bounds)
    refuse_unknown(**kwargs)
    rows, heads, length = query.shape[:3]
    group = -(-length // 4)  # rounded up
    if key.shape[1] % 2:  # an odd number of shared keys has no halves: one for each query
        key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
    halves = zip(*(x.tensor_split(2, dim=1) for x in (query, key, value)), strict=True)
    outputs = []
    for half, second in zip(halves, (group, group // 2), strict=True):
        starts = [0, *range(second or group, length, group)]
        if attention_mask is None:
            bounds = torch.tensor([row * length + start for row in range(rows) for start in starts])
            bounds = [bounds.to(query.device), torch.tensor([rows * length], device=query.device)]
            bounds = torch.cat([*bounds, *([] if cu_seq_lens_q is None else [cu_seq_lens_q])]).unique().int()
            kwargs |= {"cu_seq_lens_q": bounds, "max_length_q": group}
            outputs.append(torch_varlen(module, *half, None, scaling, **kwargs)[0])
        else:  # padded rows
            spans = [slice(*span) for span in pairwise([*starts, length])]
            outputs.append(torch.cat([attend_padded(half, s, attention_mask, scaling) for s in spans], dim=1))
    return torch.cat(outputs, dim=2), None


def attend_padded(half, span, mask, scale):
    """One group, a slice of the length, under a mask [batch, 1, length, length]. Padding sees itself: no
    row is empty."""
    query, key, value = (x[:, :, span] for x in half)
    mask = mask[..., span, span] | torch.eye(query.shape[2], dtype=torch.bool, device=query.device)
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=grouped).transpose(
        1, 2
    )


for backend in (torch_varlen, shifted_sparse):
    AttentionInterface.register(backend.__name__, backend)
    AttentionMaskInterface.register(backend.__name__, torch_varlen_mask)
