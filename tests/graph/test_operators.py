"""The operator vocabulary: each in a tiny network, with the groups that must be found, and cut equals masked.

A body gets what one convolution gives, or two: [N, 6, 5, 5] each, in the groups `first` and `second`.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graph_proofs import captured, prove, widths
from torch import Tensor, nn

from trimtab.errors import CaptureError
from trimtab.graph import Network, capture

C = 6
A, B, AB = {"first": C}, {"second": C}, {"first": C, "second": C}

Body = Callable[..., Tensor]


class Between(nn.Module):
    """[N, 3, 5, 5] → one or two convolutions → `body` → a layer over dimension 1 (of vectors the last) → an output."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        self.first = nn.Conv2d(3, C, 3, padding=1)
        takes = body.forward if isinstance(body, nn.Module) else body
        self.second = nn.Conv2d(3, C, 3, padding=1) if len(inspect.signature(takes).parameters) > 1 else None
        shape = self.inner(torch.randn(3, 3, 5, 5)).shape
        of_rank = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)]
        self.last = nn.Linear(shape[1], 4) if of_rank is nn.Linear else of_rank(shape[1], 4, 1)

    def inner(self, x: Tensor) -> Tensor:
        return self.body(self.first(x)) if self.second is None else self.body(self.first(x), self.second(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(x))


def network(body: Body) -> Network:
    torch.manual_seed(0)
    return captured(Between(body), torch.randn(3, 3, 5, 5))


class With(nn.Module):
    """A function of what comes and of a parameter of the given shape."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.function, self.w = function, nn.Parameter(torch.zeros(shape))

    def forward(self, a: Tensor) -> Tensor:
        return self.function(a, self.w)


class Bilinear(nn.Bilinear):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return super().forward(a.mean((2, 3)), b.amax((2, 3)))


class Unbatched(nn.Conv2d):
    def forward(self, a: Tensor) -> Tensor:
        return super().forward(a.mean(0)).expand(a.shape[0], -1, -1, -1)


def written(write: Callable[..., Any]) -> Body:
    """A body that writes into a copy of what the first convolution gives."""

    def one(a: Tensor) -> Tensor:
        a = a.clone()
        write(a)
        return a

    def two(a: Tensor, b: Tensor) -> Tensor:
        a = a.clone()
        write(a, b)
        return a

    return one if len(inspect.signature(write).parameters) == 1 else two


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT


def unpooled(a: Tensor) -> Tensor:
    return F.max_unpool2d(*F.max_pool2d(a, 2, return_indices=True), 2, output_size=(5, 5))


def set_run(a: Tensor, b: Tensor) -> None:
    a[:, 2:4] = b[:, 2:4]


def set_channel(a: Tensor) -> None:
    a[:, 1] = 5.0


def set_where(a: Tensor) -> None:
    a[a < 0] = 0.5


def set_by_mask(a: Tensor) -> None:
    a[:, :, torch.eye(5).bool()] = 1.5


def set_row(a: Tensor, b: Tensor) -> None:
    a[:, :, 0] = b[:, :, 1]


def add_to_run(a: Tensor, b: Tensor) -> None:
    a[:, :2] += b[:, 4:]


def spectrum(a: Tensor, w: Tensor) -> Tensor:
    modes = torch.fft.rfft2(a)[:, :, :3, :3]
    return torch.fft.irfft2(torch.einsum("bixy,ioxy->boxy", modes, torch.view_as_complex(w)), s=(5, 5))


EXACT: dict[str, tuple[Body, dict[str, int]]] = {
    # windows written out
    "im2col": (lambda a: F.unfold(a, 3, padding=1), A),
    "im2col_col2im": (lambda a: F.fold(torch.relu(F.unfold(a, 3, padding=1)), 5, 3, padding=1), A),
    "unfold_twice": (lambda a: a.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).amax(-1), A),
    # products
    "einsum_ellipsis": (lambda a, b: torch.einsum("b...c,b...c->b...c", a, b), A),
    "einsum_summed_out": (lambda a, b: torch.einsum("bc...,bd...->bc", a, b), AB),
    "einsum_implicit": (lambda a, b: torch.einsum("bchw,bdhw", a, b), B),
    "einsum_diagonal": (lambda a: torch.einsum("bchh->bch", a), A),
    "tensordot": (With(lambda a, w: torch.tensordot(a, w, ([1], [0])).permute(0, 3, 1, 2), C, 7), A | {"body.w": 7}),
    "inner": (With(lambda a, w: torch.inner(a.mT.transpose(1, 3), w).permute(0, 3, 1, 2), 7, C), A | {"body.w": 7}),
    "bilinear": (Bilinear(C, C, 8), AB | {"body": 8}),
    "linear_to_one": (With(lambda a, w: F.linear(a.movedim(1, -1), w), C), A),
    "mv": (With(lambda a, w: torch.mv(w, a.sum((0, 2, 3))) + a.sum((2, 3)) @ w.T, 7, C), A | {"body.w": 7}),
    "addmv": (
        With(lambda a, w: torch.addmv(w.sum(1), w, a.sum((0, 2, 3))) + a.sum((2, 3)) @ w.T, 7, C),
        A | {"body.w": 7},
    ),
    "addr": (With(lambda a, w: a.mean((2, 3)) @ torch.addr(w, a.sum((0, 2, 3)), w.sum(0)), C, 4), A | {"body.w": 4}),
    "addbmm": (
        lambda a, b: (
            torch.bmm(tokens(a), torch.addbmm(torch.ones(1, 1), a.flatten(2), tokens(b)).expand(a.shape[0], -1, -1)).mT
        ),
        AB,
    ),
    "dot": (lambda a, b: a * torch.dot(b.sum((0, 2, 3)), b.sum((0, 2, 3))), AB),
    "vecdot": (lambda a, b: a * torch.linalg.vecdot(a, b, dim=1).unsqueeze(1), A),
    "cross": (lambda a, b: torch.linalg.cross(a[..., :3], b[..., :3]), A),
    "trace": (lambda a, b: a * torch.trace(b.mean((2, 3)).T @ b.mean((2, 3))), AB),
    "cdist": (lambda a, b: torch.cdist(tokens(a), tokens(b)), A),
    "cosine_similarity": (lambda a, b: F.cosine_similarity(a, b).flatten(1), A),
    "distance_without_eps": (lambda a, b: F.pairwise_distance(tokens(a), tokens(b), eps=0.0), A),
    # reductions
    "norm": (lambda a, b: a / (1 + b.norm(2, 1, keepdim=True)), AB),
    "norm_of_all": (lambda a, b: a * torch.linalg.vector_norm(b, 3), AB),
    "linalg_norm": (lambda a, b: a * torch.linalg.norm(b, dim=1, keepdim=True) * torch.linalg.norm(b), AB),
    "norm_inf": (lambda a, b: a * torch.linalg.vector_norm(b, torch.inf, (1, 2), keepdim=True), AB),
    "normalize": (lambda a: F.normalize(a), A),
    "normalize_space": (lambda a: F.normalize(a, p=1, dim=3), A),
    "count_nonzero": (lambda a, b: a * torch.count_nonzero(F.relu(b), 1).unsqueeze(1), AB),
    "any": (lambda a, b: a * F.relu(b).bool().any(1, keepdim=True), AB),
    "nansum": (lambda a, b: a * b.nansum((1, 2), keepdim=True), AB),
    "prod_space": (lambda a: a.prod(2), A),
    "median_space": (lambda a: a.median(2)[0] + a.quantile(0.25, 2) + a.kthvalue(2, 2)[0], A),
    "logsumexp_space": (lambda a: a.logsumexp((2, 3)), A),
    "var_mean_space": (lambda a: sum(torch.var_mean(a, (2, 3))), A),
    "cumulative_space": (lambda a: a.cumprod(2) + a.cummax(3)[0] + a.logcumsumexp(2), A),
    "diff_space": (lambda a: a.diff(dim=3), A),
    "all_min_max": (lambda a, b: a * b.amin((2, 3), keepdim=True) * torch.aminmax(b, dim=2, keepdim=True)[1], A),
    # pooling, resampling
    "max_unpool": (unpooled, A),
    "max_pool3d": (lambda a: F.max_pool3d(a.unsqueeze(2), (1, 2, 2), return_indices=True)[0], A),
    "adaptive_max_pool3d": (lambda a: F.adaptive_max_pool3d(a.unsqueeze(2), (1, 2, 2)), A),
    "pool_of_one_passes_channels": (lambda a: F.avg_pool2d(a.transpose(1, 2), (1, 2)).transpose(1, 2), A),
    "lp_pool": (lambda a: F.lp_pool2d(a.abs() + 0.1, 2, 2), A),
    "local_response_of_one": (nn.LocalResponseNorm(1), A),
    "grid": (
        lambda a: F.grid_sample(
            a, F.affine_grid(torch.eye(2, 3).expand(a.shape[0], 2, 3), a.shape, False), align_corners=False
        ),
        A,
    ),
    # writing
    "set_run": (written(set_run), {"first[0:2]": 2, "first[2:4]": 2, "first[4:6]": 2, "second[0:2]": 2}),
    "set_channel": (written(set_channel), {"first[2:6]": 4}),
    "set_where": (written(set_where), A),
    "set_by_mask": (written(set_by_mask), A),
    "set_row": (written(set_row), A),
    "add_to_run": (written(add_to_run), {"first[0:2]": 2, "first[2:6]": 4, "second[0:4]": 4}),
    "slice_scatter": (lambda a, b: a.slice_scatter(b[:, 4:], 1, 0, 2), {"first[0:2]": 2, "first[2:6]": 4}),
    "select_scatter": (lambda a, b: a.select_scatter(b[:, 0], 1, 1), {"first[2:6]": 4, "second[1:6]": 5}),
    "diagonal_scatter": (lambda a, b: a.diagonal_scatter(b[:, :, 0], 0, 2, 3), A),
    "index_fill": (lambda a: a.index_fill(2, torch.tensor([0, 3]), 1.0), A),
    # shapes
    "diagonal": (lambda a: a.diagonal(dim1=2, dim2=3), A),
    "diag": (With(lambda a, w: torch.diag(w) @ a.flatten(2), C), A),
    "diag_embed": (lambda a: torch.diag_embed(a.mean(3)), A),
    "flips": (lambda a: a.flip(2).rot90(1, (2, 3)).roll((1, 2), (2, 3)), A),
    "tile": (lambda a: a.tile(2, 1, 1), {"first": 6}),
    "repeat_interleave": (lambda a: a.repeat_interleave(2, 1), A),
    "moveaxis": (lambda a: a.moveaxis((1, 2), (2, 1)).moveaxis(2, 1).adjoint().mH, A),
    "broadcast_to": (lambda a, b: a.mean(1, keepdim=True).broadcast_to(b.shape) * b, AB),
    "broadcast_tensors": (lambda a, b: torch.stack(torch.broadcast_tensors(a[:, :, :1], b)).prod(0), A),
    "ravel": (lambda a: torch.relu(a).ravel().view(a.shape[0], C, 25), A),
    "atleast_3d": (lambda a: torch.atleast_3d(a.mean((2, 3))), A),
    "hstack_hsplit": (lambda a, b: torch.hstack([b, *torch.hsplit(a, [2, 3])]), {"first[0:2]": 2, "first[3:6]": 3} | B),
    "dstack": (lambda a, b: torch.dstack([a, b]), A),
    "tensor_split": (lambda a: torch.cat(a.tensor_split((1, 4), 1)[::-1], 1), {"first[1:4]": 3, "first[4:6]": 2}),
    "narrow_copy": (lambda a: torch.narrow_copy(a, 1, 1, 2), {"first[1:3]": 2, "first[3:6]": 3}),
    "crop": (lambda a: F.pad(a, (-1, -1, 0, 2)), A),
    "pad_circular": (lambda a: F.pad(a, (1, 1, 1, 1), mode="circular"), A),
    "pad_replicate_3d": (lambda a: F.pad(a.unsqueeze(2), (1, 1, 1, 1, 0, 0), mode="replicate"), A),
    "grid_of_numbers": (
        lambda a: a + torch.stack(torch.meshgrid(torch.arange(5.0), torch.ones(5), indexing="ij")).sum(0),
        A,
    ),
    # position by position
    "clamp_tensors": (lambda a, b: torch.clamp(a, b, b + 1).clamp_min(torch.tensor(0.1)), A),
    "lerp": (lambda a, b: torch.lerp(a, b, 0.3) + torch.lerp(b, a, torch.sigmoid(a)), A),
    "addcmul_addcdiv": (lambda a, b: torch.addcmul(a, a, b, value=0.5).addcdiv(b, b.abs() + 1), A),
    "steps": (lambda a, b: a * torch.bucketize(b, torch.tensor([0.0, 0.5])) * torch.searchsorted(torch.ones(2), a), A),
    "bounded": (lambda a: torch.atanh(torch.tanh(a) / 2) + torch.erfinv(torch.tanh(a) / 2) + torch.deg2rad(a), A),
    "at_zero": (lambda a: torch.sinc(a) + torch.logit(a.sigmoid()) + torch.acosh(a.abs() + 1), A),
    "two_at_zero": (lambda a, b: torch.logaddexp(a, b) + torch.xlogy(a, b.abs() + 1) + torch.copysign(a, b), A),
    "aliases": (lambda a, b: torch.subtract(torch.multiply(a, b), torch.divide(a, 2)).absolute() * a.less(b), A),
    "isin": (lambda a: a * torch.isin(torch.round(a), torch.tensor([0.0, 1.0])), A),
    "in_place": (lambda a: F.silu(a.clone(), True).mul_(2).sub_(0.5).div_(3).neg_().add_(a).clamp_(-1, 1), A),
    # complex numbers
    "fourier_convolution": (With(spectrum, C, 7, 3, 3, 2), A | {"body.w": 7}),
    "complex": (lambda a, b: torch.complex(a, b).abs() + torch.polar(a.abs(), b).real, A),
    "angle": (lambda a, b: torch.complex(a, b).mul(2).conj().angle(), A),
    "view_as_real": (lambda a, b: torch.view_as_real(torch.view_as_complex(torch.stack([a, b], -1)) * 2).sum(-1), A),
    # layers
    "conv_transpose1d": (
        nn.Sequential(nn.Flatten(2), nn.ConvTranspose1d(C, 9, 3, groups=3)),
        {"first/0": 3, "body.1": 3},
    ),
    "conv_transpose_depthwise": (nn.Sequential(nn.ConvTranspose2d(C, C, 3, stride=2, groups=C)), A),
    "conv_same_dilated": (nn.Conv2d(C, 8, 4, padding="same", dilation=2), A | {"body": 8}),
    "conv_without_batch": (Unbatched(C, 8, 3), A | {"body": 8}),
    "conv_circular": (nn.Conv2d(C, 8, 3, padding=1, padding_mode="circular"), A | {"body": 8}),
    "conv_transpose3d": (
        nn.Sequential(nn.Unflatten(1, (C, 1)), nn.ConvTranspose3d(C, 9, (1, 2, 2), groups=3)),
        {"body.1": 3},
    ),
    "batchnorm_of_vectors": (nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.BatchNorm1d(C)), A),
    "batchnorm_of_sequences": (nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(C)), A),
    "instance_norm": (nn.InstanceNorm2d(C, affine=True, track_running_stats=True), A),
    "feature_dropout": (nn.Sequential(nn.Dropout2d(), nn.FeatureAlphaDropout(), nn.AlphaDropout()), A),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact(name: str) -> None:
    body, expected = EXACT[name]
    net = network(body)
    assert widths(net, exact=False) == {}, net.groups
    assert widths(net).items() >= expected.items(), (widths(net), net.frozen)
    if expected in (A, B, AB):
        assert widths(net).keys() - {"body"} == expected.keys()
    if net.groups:
        prove(net)


def own_layer_norm(a: Tensor) -> Tensor:
    return (a - a.mean(1, keepdim=True)) / (a.std(1, keepdim=True, correction=0) + 1e-6)


INEXACT: dict[str, tuple[Body, dict[str, int], str]] = {
    "var": (lambda a, b: a * b.var(1, keepdim=True), B, "a variance is taken over its units"),
    "std_mean": (lambda a, b: a * sum(torch.std_mean(b, 1, keepdim=True)), B, "a variance is taken over its units"),
    "own_layer_norm": (own_layer_norm, A, "a variance is taken over its units"),
    "batch_statistics": (
        lambda a: F.batch_norm(a.transpose(1, 2), None, None, training=True).transpose(1, 2),
        A,
        "mean and variance",
    ),
    "layer_norm_of_all": (nn.LayerNorm((C, 5, 5)), A, "mean and variance"),
    "one_group": (nn.GroupNorm(1, C), A, "mean and variance"),
    "distance": (lambda a, b: F.pairwise_distance(tokens(a), tokens(b)), A, "eps is added"),
}


@pytest.mark.parametrize("name", INEXACT)
def test_inexact_and_nothing_else_differs(name: str) -> None:
    body, expected, reason = INEXACT[name]
    net = network(body)
    assert widths(net, exact=False) == expected, net.frozen
    assert all(
        reason in group.reason and "test_operators.py:" in group.reason for group in net.groups if not group.exact
    )
    prove(net)


def set_by_number(a: Tensor, b: Tensor) -> None:
    a[:, [0, 2]] = b[:, [1, 3]]


FROZEN: dict[str, tuple[Body, str]] = {
    "as_strided": (lambda a: torch.as_strided(a.contiguous()[:, :3], (3, 3, 5), (150, 25, 5)), "written-out strides"),
    "prod": (lambda a: a * a.prod(1, keepdim=True), "depends on every position"),
    "norm_of_smallest": (lambda a: a * torch.linalg.vector_norm(a, -1, 1, keepdim=True), "depends on every position"),
    "linalg_norm": (lambda a: a * torch.linalg.norm(a, ord=-1, dim=1, keepdim=True), "depends on every position"),
    "matrix_norm": (lambda a: torch.linalg.matrix_norm(a.flatten(2))[:, None] * a.mean((2, 3)), "depends on every"),
    "cummax": (lambda a: a.cummax(1)[0], "depend on one another"),
    "diff": (lambda a: a.diff(dim=1), "neighbours"),
    "fft": (lambda a: torch.fft.fft(a, dim=1).real, "Fourier"),
    "eye": (lambda a: torch.eye(C) @ a.flatten(2), "count positions"),
    "diagonal": (lambda a: a.diagonal(dim1=1, dim2=2).unsqueeze(1), "diagonal"),
    "masked_scatter": (lambda a: a.masked_scatter(a > 0, torch.ones(450)), "how many numbers"),
    "set_by_number": (written(set_by_number), "by number"),
    "index_fill": (lambda a: a.index_fill(1, torch.tensor([0, 3]), 1.0), "by number"),
    "crop_channels": (lambda a: F.pad(a, (0, 0, 0, 0, -1, 0)), "negative"),
    "pad_circular": (lambda a: F.pad(a.movedim(1, 3), (1, 1, 0, 0), mode="circular").movedim(3, 1), "padding copies"),
    "cross": (lambda a: torch.cross(a.view(-1, 2, 3, 25), a.view(-1, 2, 3, 25).flip(3), dim=2).flatten(1, 2), "mixes"),
    "local_response": (nn.LocalResponseNorm(3), "slides"),
    "fractional_pool": (lambda a: F.fractional_max_pool2d(a, 2, output_size=2), "random"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_cannot_be_cut_says_why(name: str) -> None:
    body, reason = FROZEN[name]
    torch.manual_seed(0)
    net = capture(Between(body).eval(), torch.randn(3, 3, 5, 5))
    assert not [group for group in net.groups if group.name in ("first", "second")], net.groups
    frozen = [item for item in net.frozen if item.name.startswith("first")]
    assert any(reason in item.reason for item in frozen), frozen
    assert all(item.source.startswith("test_operators.py:") or "nn" in item.source for item in frozen), frozen


class Masked(nn.Module):
    """Positions in space picked by a mask: a buffer, one that is computed, and one over two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([True, False, True, True, False]))

    def forward(self, a: Tensor) -> Tensor:
        rows, corner = a[:, :, self.mask], torch.ones(5, 5).tril().bool()
        return a[:, :, corner] + rows.flatten(2)


def test_a_constant_mask_picks_positions() -> None:
    net = network(Masked())
    assert widths(net) == widths(net, exact=True) == A
    prove(net)


@pytest.mark.parametrize("pick", [lambda a: a[a > 0][None, None], lambda a: torch.nonzero(a).float()])
def test_a_number_of_positions_that_depends_on_the_input_is_refused(pick: Body) -> None:
    class Picked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return pick(x)

    with pytest.raises(CaptureError, match=r"test_operators.py:.* depends on the values"):
        capture(Picked(), torch.randn(3, 4))


def test_train_and_eval_follow_the_module() -> None:
    class Switching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
            self.drops = nn.Sequential(nn.Dropout2d(), nn.AlphaDropout(), nn.FeatureAlphaDropout(), nn.RReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.drops(self.norm(self.first(x)))

    model = Switching()
    net = capture(model, torch.randn(3, 3, 5, 5))
    for mode in (True, False, True):
        x = torch.randn(5, 3, 5, 5)
        outputs = []
        for network_or_model in (net.train(mode), model.train(mode)):
            torch.manual_seed(0)
            outputs.append(network_or_model(x))
        assert torch.equal(*outputs)
        assert torch.equal(net.module.get_buffer("norm.running_var"), model.norm.running_var)
    assert not torch.equal(net.eval()(x), net.train()(x))
