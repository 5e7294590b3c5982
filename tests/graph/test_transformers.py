"""Whole transformers, written here: what may be cut in them, and that a cut equals the masked original."""

import math

import pytest
import torch
import torch.nn.functional as F
from graph_proofs import captured, prove, widths
from torch import Tensor, nn

D, H, T, WORDS = 16, 4, 6, 11


def tokens() -> Tensor:
    return torch.randint(0, WORDS, (3, T))


def heads(x: Tensor, n: int) -> Tensor:
    """[N, T, n·d] to [N, n, T, d]."""
    return x.view(x.shape[0], x.shape[1], n, -1).transpose(1, 2)


class BertLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(D, D) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.up, self.down, self.dropout = nn.Linear(D, 24), nn.Linear(24, D), nn.Dropout(0.1)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        q, k, v = heads(self.q(x), H), heads(self.k(x), H), heads(self.v(x), H)
        scores = (q @ k.transpose(-1, -2) / math.sqrt(D // H)).masked_fill(hidden, -1e9)
        y = (self.dropout(scores.softmax(-1)) @ v).permute(0, 2, 1, 3).contiguous().view(x.shape[0], -1, D)
        x = self.norm1(x + self.dropout(self.o(y)))
        return self.norm2(x + self.dropout(self.down(F.gelu(self.up(x)))))


class Bert(nn.Module):
    """Token, position and type embeddings, post-norm layers, a pooler over the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.position, self.kind = nn.Embedding(WORDS, D), nn.Embedding(9, D), nn.Embedding(2, D)
        self.norm, self.layers = nn.LayerNorm(D), nn.ModuleList(BertLayer() for _ in range(2))
        self.pool, self.head = nn.Linear(D, 10), nn.Linear(10, 3)
        self.register_buffer("places", torch.arange(9).unsqueeze(0), persistent=False)

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        x = self.norm(self.word(ids) + self.position(self.places[:, : ids.shape[1]]) + self.kind(kinds))
        hidden = (ids == 0)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, hidden)
        return self.head(torch.tanh(self.pool(x[:, 0])))


def test_bert() -> None:
    net = captured(Bert(), (tokens(), torch.randint(0, 2, (3, T))))
    layer = {"q/0": 4, "q/1": 4, "v/1": 4, "up": 24}
    expected = {f"layers.{i}.{name}": width for i in range(2) for name, width in layer.items()} | {"pool": 10}
    assert widths(net, exact=True) == expected
    assert widths(net, exact=False) == {"word": D}
    assert {f.name for f in net.frozen} == {"head"}
    prove(net)


@pytest.mark.parametrize("first", [False, True])
def test_the_encoder_of_torch(first: bool) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(D, H, 20, batch_first=True, norm_first=first, activation="gelu")
            self.inputs, self.head = nn.Linear(5, D), nn.Linear(D, 3)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.inputs(x)).mean(1))

    net = captured(Encoder(), torch.randn(3, T, 5))
    found = widths(net, exact=True)
    assert {name: n for name, n in found.items() if "linear1" in name} == {
        f"encoder.layers.{i}.linear1": 20 for i in range(2)
    }
    attention = [n for name, n in found.items() if "self_attn" in name]
    assert attention == [4, 4] * 2, (found, net.frozen)
    assert widths(net, exact=False) == {"inputs": D}
    prove(net)


class GPT(nn.Module):
    """Pre-norm blocks with a fused projection and a stored causal mask; the embedding is tied to the output."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
            self.qkv, self.o, self.up, self.down = (
                nn.Linear(a, b) for a, b in ((D, 3 * D), (D, D), (D, 4 * D), (4 * D, D))
            )
            self.register_buffer("mask", torch.tril(torch.ones(8, 8)).view(1, 1, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            n, t, c = x.size()
            q, k, v = (heads(part, H) for part in self.qkv(self.norm1(x)).split(c, dim=2))
            scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            scores = scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
            y = F.softmax(scores, dim=-1) @ v
            x = x + self.o(y.transpose(1, 2).contiguous().view(n, t, c))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    def __init__(self) -> None:
        super().__init__()
        self.word, self.position = nn.Embedding(WORDS, D), nn.Embedding(8, D)
        self.blocks, self.norm = nn.ModuleList(self.Block() for _ in range(2)), nn.LayerNorm(D)
        self.head = nn.Linear(D, WORDS, bias=False)
        self.head.weight = self.word.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.word(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def test_gpt() -> None:
    net = captured(GPT(), tokens())
    block = {"qkv[0:16]/0": 4, "qkv[0:16]/1": 4, "qkv[32:48]/1": 4, "up": 64}
    assert widths(net, exact=True) == {f"blocks.{i}.{name}": n for i in range(2) for name, n in block.items()}
    assert widths(net, exact=False) == {"word": D}
    prove(net)


class OwnRMS(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(torch.float32)
        return self.weight * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class Rotary(nn.Module):
    """Cosines and sines of positions, without gradients and without autocast."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 100 ** (-torch.arange(0, width, 2) / width), persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(x.shape[1])[None, None, :].float()
        with torch.autocast("cpu", enabled=False):
            angles = (self.frequencies[None, :, None].float() @ places).transpose(1, 2)
            angles = torch.cat((angles, angles), dim=-1)
            return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x * cos.unsqueeze(1) + torch.cat((-b, a), dim=-1) * sin.unsqueeze(1)


class LlamaBlock(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.RMSNorm(D, eps=1e-5) if fused else OwnRMS() for _ in range(2))
        self.q, self.o = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.k, self.v = nn.Linear(D, D // 2, bias=False), nn.Linear(D, D // 2, bias=False)
        self.gate, self.up, self.down = (nn.Linear(a, b, bias=False) for a, b in ((D, 20), (D, 20), (20, D)))
        self.fused = fused

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = heads(self.q(y), H), heads(self.k(y), H // 2), heads(self.v(y), H // 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            n, g, t, d = k.shape
            k, v = (s[:, :, None].expand(n, g, 2, t, d).reshape(n, H, t, d) for s in (k, v))
            mask = torch.full((t, t), -1e9).triu(1)
            y = (torch.matmul(q, k.transpose(2, 3)) * d**-0.5 + mask).softmax(-1, dtype=torch.float32) @ v
        x = x + self.o(y.transpose(1, 2).reshape(x.shape[0], -1, D))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.word, self.rotary = nn.Embedding(WORDS, D), Rotary(D // H)
        self.blocks = nn.ModuleList(LlamaBlock(fused) for _ in range(2))
        self.norm, self.head = nn.RMSNorm(D) if fused else OwnRMS(), nn.Linear(D, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.word(ids)
        cos, sin = self.rotary(x)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))


@pytest.mark.parametrize("fused", [True, False])
def test_llama_is_exact_in_everything(fused: bool) -> None:
    net = captured(Llama(fused), tokens())
    block = {"q/0": 2, "q/1": 2, "v/1": 4, "gate": 20}
    found = widths(net, exact=True)
    assert found == widths(net)
    rotary = {name: n for name, n in found.items() if name not in {f"blocks.{i}.{b}" for i in range(2) for b in block}}
    assert rotary.pop("word") == D
    assert list(rotary.values()) == [2], (found, net.frozen)  # pairs of one head, over all layers: one buffer ties them
    assert {f"blocks.{i}.{name}": n for i in range(2) for name, n in block.items()}.items() <= found.items()
    assert {frozen.name for frozen in net.frozen} == {"head"}
    assert not net.module.graph.find_nodes(op="call_function", target=torch.ops.higher_order.wrap_with_set_grad_enabled)
    prove(net)


def test_a_region_without_gradients_stays_without() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = torch.tanh(self.a(x))
                with torch.enable_grad():
                    z = y * 2
            return self.out(z * self.b(x))

    net = captured(Half(), torch.randn(3, 4))
    assert widths(net) == {"a": 6}
    net(torch.randn(5, 4)).sum().backward()
    grads = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert grads["a.weight"] is None
    assert grads["b.weight"] is not None
    assert not [name for name, _ in net.module.named_children() if name.startswith("submod")]
    prove(net)


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, D, 4, 4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, D)), nn.Parameter(torch.zeros(1, 5, D))
        self.norm1, self.norm2, self.norm = nn.LayerNorm(D), nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.o = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down, self.head = nn.Linear(D, 24), nn.Linear(24, D), nn.Linear(D, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        n, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, H, D // H).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, D))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


def test_vit() -> None:
    net = captured(ViT(), torch.randn(3, 3, 8, 8))
    assert widths(net, exact=True) == {"qkv/1": 4, "qkv/2": 4, "up": 24}
    assert widths(net, exact=False) == {"patch": D}
    assert {("token", 2), ("position", 2)} <= {(m.parameter, m.dim) for m in net.group("patch").members}
    prove(net)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm1, self.norm2 = nn.Conv2d(3, 10, 2, 2), nn.LayerNorm(10), nn.LayerNorm(10)
        self.token_up, self.token_down = nn.Linear(16, 12), nn.Linear(12, 16)
        self.up, self.down, self.head = nn.Linear(10, 20), nn.Linear(20, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        y = self.norm1(x).transpose(1, 2)
        x = x + self.token_down(F.gelu(self.token_up(y))).transpose(1, 2)
        return self.head((x + self.down(F.gelu(self.up(self.norm2(x))))).mean(1))


def test_mixer() -> None:
    net = captured(Mixer(), torch.randn(3, 3, 8, 8))
    assert widths(net, exact=True) == {"token_up": 12, "up": 20}
    assert widths(net, exact=False) == {"patch": 10}
    assert {frozen.name for frozen in net.frozen} == {"token_down", "head"}
    prove(net)


def test_the_decoder_of_torch() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.memory, self.head = nn.Linear(5, D), nn.Linear(7, D), nn.Linear(D, 3)
            self.layer = nn.TransformerDecoderLayer(D, H, 20, batch_first=True)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            return self.head(self.layer(self.inputs(x), self.memory(memory)))

    net = captured(Decoder(), (torch.randn(3, T, 5), torch.randn(3, 9, 7)))
    assert sorted(widths(net, exact=True).values()) == [4, 4, 4, 4, 20], (net.groups, net.frozen)
    assert widths(net, exact=False) == {"inputs": D}  # one packed weight reads both streams, and ties them
    prove(net)


def test_attention_of_torch_with_keys_added_and_weights_returned() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.head = nn.Linear(5, D), nn.Linear(D, 3)
            self.attention = nn.MultiheadAttention(D, H, batch_first=True, add_bias_kv=True, add_zero_attn=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.inputs(x)
            return self.head(self.attention(x, x, x)[0])

    net = captured(Added(), torch.randn(3, T, 5))
    found = widths(net, exact=True)
    assert found["inputs"] == found["attention.out_proj"] == D
    assert found["attention.in_proj_weight/2"] == 4
    [stopped] = [frozen for frozen in net.frozen if frozen.operator == "aten.zeros.default"]
    assert stopped.width == H  # zeros of batch times heads
    prove(net)


class Swin(nn.Module):
    """Shifted windows, a table of relative positions, and a merge of patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm1, self.norm2 = nn.Conv2d(3, 12, 2, 2), nn.LayerNorm(12), nn.LayerNorm(48)
        self.qkv, self.o, self.table = nn.Linear(12, 36), nn.Linear(12, 12), nn.Parameter(torch.zeros(9, 3))
        self.reduce, self.head = nn.Linear(48, 24, bias=False), nn.Linear(24, 3)
        self.register_buffer("relative", torch.randint(0, 9, (4, 4)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = torch.roll(self.norm1(x), shifts=(-1, -1), dims=(1, 2))
        y = y.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(y).reshape(-1, 4, 3, 3, c // 3).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.relative.view(-1)].view(4, 4, -1).permute(2, 0, 1).unsqueeze(0)
        y = ((q * 0.5) @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        y = self.o(y.transpose(1, 2).reshape(-1, 4, c)).view(n, h // 2, w // 2, 2, 2, c)
        x = x + torch.roll(y.permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c), (1, 1), (1, 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.reduce(self.norm2(x)).mean((1, 2)))


def test_swin() -> None:
    net = captured(Swin(), torch.randn(3, 3, 8, 8))
    assert widths(net, exact=True) == {"qkv/1": 3, "qkv/2": 4, "reduce": 24}
    assert widths(net, exact=False) == {"patch": 12}
    assert ("table", 1) in {(m.parameter, m.dim) for m in net.group("qkv/1").members}
    prove(net)
