"""Moves of random networks on sequences [N, T, D]."""

import math

import torch
import torch.nn.functional as F
from random_images import act
from random_moves import Build, alike, divisor, sequence
from torch import Tensor, nn


@sequence
def linear(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    return net.layer(name, lambda: nn.Linear(x.shape[2], (8, 12, 6)[pick % 3], bias=pick % 2 == 0))(x)


@sequence
def seq_norm(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    d = x.shape[2]
    if pick % 3 == 2:
        return net.tensor(name, d) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
    return net.layer(name, lambda: (nn.LayerNorm, nn.RMSNorm)[pick % 3](d))(x)


@sequence
def seq_act(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    return act(net, name, x, pick)


@sequence
def seq_residual(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    other = alike(net, x, pick)
    y = net.layer(name, lambda: nn.Linear(x.shape[2], other.shape[2]))(x)
    return y + other if pick % 2 else other * net.tensor(name + "s", other.shape[2]) - y


@sequence
def seq_concat(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    other = alike(net, x, pick)
    return torch.cat([x, other], -1) if x.shape[2] + other.shape[2] < 60 else x


@sequence
def seq_split(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    d = x.shape[2]
    if d < 5:
        return x
    a, b, c = x.split([1 + pick % 3, d - 2 - pick % 3, 1], -1)
    return torch.cat([c, a * 2.0, b], -1) if pick % 2 else b + c


@sequence
def mlp(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """Up, activation or one of the gated forms, down; or one weight used in both directions."""
    d, width = x.shape[2], 10
    down = net.layer(name + "down", lambda: nn.Linear(width, d))
    match pick % 4:
        case 0:
            y = F.gelu(net.layer(name, lambda: nn.Linear(d, width))(x))
        case 1:
            y, g = net.layer(name, lambda: nn.Linear(d, 2 * width))(x).chunk(2, -1)
            y = y * F.silu(g)
        case 2:
            y = F.glu(net.layer(name, lambda: nn.Linear(d, 2 * width))(x), -1)
        case _:
            return x + F.linear(torch.tanh(F.linear(x, down.weight.t())), down.weight)
    return x + down(y)


@sequence
def attention(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    n, t, d = x.shape
    h, e = 1 + pick % 3, 2 + pick % 2
    q, k, v = (net.layer(name + p, lambda: nn.Linear(d, h * e))(x).view(n, t, h, e).transpose(1, 2) for p in "qkv")
    if pick % 2:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=pick % 4 == 1)
    elif pick % 4:
        y = torch.einsum("bhqk,bhke->bhqe", (torch.einsum("bhqe,bhke->bhqk", q, k) / 2).softmax(-1), v)
    else:
        y = F.softmax(q @ k.transpose(-1, -2) / math.sqrt(e), -1) @ v
    y = y.transpose(1, 2).reshape(n, t, h * e)
    return x + net.layer(name + "o", lambda: nn.Linear(h * e, d))(y)


@sequence
def fused_attention(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    n, t, d = x.shape
    h, e = 2, 3
    qkv = net.layer(name, lambda: nn.Linear(d, 3 * h * e, bias=pick % 2 == 0))(x)
    match pick % 3:
        case 0:
            q, k, v = qkv.view(n, t, 3, h, e).permute(2, 0, 3, 1, 4).unbind(0)
        case 1:
            q, k, v = (part.view(n, t, h, e).transpose(1, 2) for part in qkv.chunk(3, -1))
        case _:
            q, k, v = qkv.view(n, t, h, 3 * e).permute(0, 2, 1, 3).split(e, -1)
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return x + net.layer(name + "o", lambda: nn.Linear(h * e, d))(y)


@sequence
def grouped_queries(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    n, t, d = x.shape
    g, r, e = 2, 1 + pick % 3, 4
    q = net.layer(name + "q", lambda: nn.Linear(d, g * r * e))(x).view(n, t, g * r, e).transpose(1, 2)
    k, v = (net.layer(name + p, lambda: nn.Linear(d, g * e))(x).view(n, t, g, e).transpose(1, 2) for p in "kv")
    if pick % 4 == 0:
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    elif pick % 4 == 1:
        k, v = (part[:, :, None].expand(n, g, r, t, e).reshape(n, g * r, t, e) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v)
    else:
        y = F.scaled_dot_product_attention(q, k.repeat_interleave(r, 1), v.repeat_interleave(r, 1))
    return x + net.layer(name + "o", lambda: nn.Linear(g * r * e, d))(y.transpose(1, 2).reshape(n, t, -1))


@sequence
def table(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """Adds an embedding of the integer input, or a parameter for every place."""
    t, d = x.shape[1:]
    if pick % 2:
        return x + net.tensor(name, 1, t, d)
    embedded = net.layer(name, lambda: nn.Embedding(7, d))(net.tokens)
    return x + (embedded.mean(1, keepdim=True) if pick % 4 else embedded[:, :1])


@sequence
def mix_tokens(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    t, d = x.shape[1:]
    if pick % 2:
        return x + net.layer(name, lambda: nn.Linear(t, t))(x.transpose(1, 2)).transpose(1, 2)
    y = net.layer(name, lambda: nn.Conv1d(d, d, 3, padding=1, groups=divisor(d, pick % 3 + 1)))(x.mT)
    return x + F.relu(y).permute(0, 2, 1)


@sequence
def class_token(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """A token in front that is read by all."""
    token = net.tensor(name, 1, 1, x.shape[2])
    y = torch.cat([token.expand(x.shape[0], -1, -1), x], 1)
    return y[:, 1:] + torch.sigmoid(y[:, 0]).unsqueeze(1) if pick % 2 else x * token + y[:, :1]


@sequence
def regroup(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """Heads apart, one operator, heads together again."""
    n, t, d = x.shape
    h = divisor(d, 2 + pick % 3)
    y = x.unflatten(-1, (h, d // h)) if pick % 2 else x.reshape(n, t, d // h, h).swapdims(2, 3)
    match pick % 3:
        case 0:
            y = y * net.tensor(name, h, 1)
        case 1:
            y = net.layer(name, lambda: nn.Linear(d // h, d // h))(y)
        case _:
            y = torch.einsum("nthd,hde->nthe", y, net.tensor(name, h, d // h, 4))
    return y.flatten(2)


@sequence
def masked(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """Some positions are replaced by numbers; a mask is a buffer or comes from an input."""
    if pick % 2:
        return torch.where(net.tokens[:, :1, None] > 3, x, 0.5 * float(pick % 3))
    return x.masked_fill(net.tensor(name, 1, x.shape[1], 1, buffer=True) > 0.8, float(pick % 3))


@sequence
def products(net: Build, name: str, x: Tensor, pick: int) -> Tensor:
    """Matrix products of streams with themselves and with parameters."""
    d = x.shape[2]
    x = torch.tanh(x)
    match pick % 4:
        case 0:
            return x @ net.tensor(name, d, 9)
        case 1:
            return x @ (x.transpose(1, 2) @ x) * 0.1
        case 2:
            return x + torch.bmm(torch.bmm(x, x.mT), x) * 0.1
    return torch.matmul(net.tensor(name, 9, d), x.transpose(1, 2)).transpose(1, 2)
