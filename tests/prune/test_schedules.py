"""Schedules against references in numpy that know only the papers' definitions."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sparse_nets import batch, mixed, perceptron, sgd, train
from torch import nn

from trimtab.graph import capture, cut
from trimtab.plan import Dynamic, Gradual, Iterative, Kernels, NofM, Rewind, RigL, Static, Tiles, Weights
from trimtab.prune.pruner import make_pruner

OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.2, momentum=0.9, weight_decay=0.01),
    "adam": lambda ps: torch.optim.Adam(ps, lr=0.1),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.1, foreach=False),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.03, momentum=0.5),
}


def by_thresholds(latent, kept, number, slack):
    """Guo et al. 2016, eq. 3: below a out, above b in, between as it was, with a, b around the τ that removes `number`.

    τ is tried between all values at which an entry changes its side.
    """
    size = np.abs(latent)
    edges = np.sort(np.concatenate([size[kept] / (1 - slack), size[~kept] / (1 + slack)]))
    for tau in [edges[0] / 2, *((edges[1:] + edges[:-1]) / 2), edges[-1] * 2]:
        a, b = tau * (1 - slack), tau * (1 + slack)
        mask = np.where(size < a, False, np.where(size >= b, True, kept))
        if (~mask).sum() == number:
            return mask
    raise AssertionError("no threshold")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("slack", [0.0, 0.1, 0.5])
def test_surgery_by_definition(optimizer, slack):
    """A plain layer whose weight is latent · mask; the optimizer is told of the product and moves it."""
    network, steps, every = perceptron(20, 5), 24, 3
    network.to(torch.float64)
    pruner = make_pruner(
        network, {"0": Weights(fraction=0.7)}, {}, Dynamic(every=every, slack=slack, curve="linear", stop=0.75), steps
    )
    weight = dict(network.named_parameters())["0.weight"]
    latent, kept, last, returned = weight.detach().numpy().copy(), np.ones(weight.shape, bool), 18, 0
    plain, bias = (nn.Parameter(p.detach().clone()) for p in network.parameters())
    ours, theirs = OPTIMIZERS[optimizer](network.parameters()), OPTIMIZERS[optimizer]([plain, bias])
    pruner.begin()
    for step in range(1, steps + 1):
        x, y = batch(network, step)
        for opt, loss in (
            (ours, F.cross_entropy(network(x.double()), y)),
            (theirs, F.cross_entropy(x.double() @ plain.T + bias, y)),
        ):
            opt.zero_grad()
            loss.backward()
            opt.step()
        pruner.step()
        latent += plain.detach().numpy() - latent * kept
        if step % every == 0 and step <= last:
            before = kept
            kept = by_thresholds(latent, kept, round(0.7 * 100 * step / last), slack)
            returned += int((kept & ~before).sum())
        plain.data = torch.from_numpy(latent * kept)
        np.testing.assert_array_equal(pruner.masks["0.weight"].numpy(), kept)
        np.testing.assert_allclose(weight.detach().numpy(), latent * kept, rtol=1e-9, atol=1e-12)
        if step < last:
            found = pruner.state()["latent/0.weight"].numpy()
            np.testing.assert_allclose(found, latent * ~kept, rtol=1e-9, atol=1e-12)
    assert slack > 0 or returned


def rigl(weight, gradient, kept, share):
    """Evci et al. 2020, algorithm 1, one layer: drop the smallest, grow at the largest gradients, at zero."""
    number = round(share * kept.sum())
    order = np.argsort(np.where(kept, np.abs(weight), np.inf), axis=None)
    active = kept.copy()
    active.flat[order[:number]] = False
    order = np.argsort(np.where(active, -np.inf, np.abs(gradient)), axis=None)[::-1]
    grown = active.copy()
    grown.flat[order[:number]] = True
    return np.where(grown & kept, weight, 0), grown


def test_rigl_by_definition():
    network, steps, every = perceptron(12, 9, 4), 30, 3
    wanted = {"0": Weights(fraction=0.6), "2": Weights(fraction=0.5)}
    pruner = make_pruner(network, wanted, {}, RigL(every=every, stop=0.8, swapped=0.4), steps)
    optimizer, parameters = sgd(network), dict(network.named_parameters())
    pruner.begin()
    kept = {}
    for name, fraction in (("0.weight", 0.6), ("2.weight", 0.5)):
        weight = parameters[name].detach().numpy()
        assert (weight == 0).sum() == round(fraction * weight.size)
        kept[name] = weight != 0
    swaps = 0
    for step in range(1, steps + 1):
        x, y = batch(network, step)
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        moved = {name: parameters[name].detach().numpy() * mask for name, mask in kept.items()}
        pruner.step()
        for name, mask in kept.items():
            if step % every == 0 and step < 24:
                share = 0.4 / 2 * (1 + math.cos(step * math.pi / 24))
                moved[name], kept[name] = rigl(moved[name], parameters[name].grad.numpy(), mask, share)
                swaps += int((kept[name] & ~mask).sum())
            np.testing.assert_array_equal(pruner.masks[name].numpy(), kept[name])
            np.testing.assert_array_equal(parameters[name].detach().numpy(), moved[name])
    assert swaps > 10


@pytest.mark.parametrize(
    ("sparsity", "pieces", "entries"),
    [(Tiles(shape=(2, 2), fraction=0.5), 16, 4), (Kernels(fraction=0.5), 64, 1), (NofM(kept=2, of=4), 32, 1)],
)
def test_rigl_moves_whole_pieces_of_the_largest_gradients(sparsity, pieces, entries):
    moved = 0
    for _ in range(5):  # a piece may get its place back at once, and sometimes all do
        network = perceptron(8, 8, 4)
        pruner = make_pruner(network, {"0": sparsity}, {}, RigL(every=1, stop=1, swapped=0.25), 1000)
        pruner.begin()
        before, weight = pruner.masks["0.weight"], dict(network.named_parameters())["0.weight"]
        train(network, pruner, sgd(network), 1)
        after, gradient = pruner.masks["0.weight"], weight.grad.square()
        grown = after & ~before
        assert int(grown.sum()) // entries <= round(0.25 * int(before.sum()) // entries)
        assert int(after.sum()) == int(before.sum())
        assert not bool(weight[grown].any())
        if isinstance(sparsity, Tiles) and bool(grown.any()):
            sums = gradient.view(4, 2, 4, 2).sum((1, 3))
            tiles, left = (mask.view(4, 2, 4, 2).any(3).any(1) for mask in (grown, after))
            assert float(sums[tiles].min()) >= float(sums[~left].max())
        if isinstance(sparsity, NofM):
            assert bool((after.view(8, 2, 4).sum(2) == 2).all())
        moved += int(grown.sum())
    assert moved


@pytest.mark.parametrize("to", [0.0, 0.1])
def test_what_is_left_rewinds_to_its_early_values(to):
    network, steps = mixed(), 30
    pruner = make_pruner(network, {"stem": Weights(fraction=0.6)}, {}, Rewind(rounds=2, stop=0.6, to=to), steps)
    pruner.begin()
    seen = [{name: tensor.clone() for name, tensor in network.state_dict().items()}]

    def watch():
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})

    train(network, pruner, sgd(network), steps, watch=watch)
    for step, level in ((9, 0.5), (18, 1.0)):
        mask = seen[step]["stem.weight"] != 0
        assert int((~mask).sum()) == round(0.6 * level * mask.numel())
        for name, tensor in seen[step].items():
            early = seen[round(to * steps)][name]
            assert torch.equal(tensor, early * mask if name == "stem.weight" else early)
    trained = seen[8]["stem.weight"].abs()
    nearly = seen[9]["stem.weight"] != 0
    assert float(trained[~nearly].median()) < float(trained[nearly].median())


@pytest.mark.parametrize("schedule", [Static(), Iterative(rounds=3), Gradual(every=3), Dynamic(every=3), RigL(every=3)])
def test_units_leave_in_rising_order_until_the_plans_are_left(schedule):
    network, kept = mixed(), {"stem": (1, 2, 5), "lstm.l0": (0, 2, 4, 6)}
    sparsity = {"body": Weights(fraction=0.5), "lstm.weight_hh_l0": NofM(kept=2, of=4)}
    parameters = dict(network.named_parameters())
    makes = ("stem.weight", "stem.bias", "body.weight", "body.bias")
    pruner = make_pruner(network, sparsity, kept, schedule, 30)
    pruner.begin()
    alive = [pruner.masks["bn.weight"]]
    others = torch.tensor([0, 3, 4, 6, 7])

    def watch():
        alive.append(pruner.masks["bn.weight"])
        left, went = alive[-1][others], (alive[-2] & ~alive[-1])[others]
        norms = torch.cat([before[-1][n][others].flatten(1) for n in makes], 1).norm(dim=1)
        assert not bool((alive[-1] & ~alive[-2]).any())
        assert not bool(went.any()) or not bool(left.any()) or float(norms[went].max()) < float(norms[left].min())

    before = []
    optimizer = sgd(network)
    optimizer.register_step_post_hook(
        lambda *_: before.append({n: parameters[n].detach().clone().view(8, -1) for n in makes})
    )
    train(network, pruner, optimizer, 30, watch=watch)
    assert alive[-1].nonzero().flatten().tolist() == [1, 2, 5]
    for name, left in (("stem.weight", 3 * 18), ("body.weight", 3 * 3 * 9 - round(0.5 * 81))):
        assert int(parameters[name].count_nonzero()) == left, name
    assert int(parameters["stem.bias"].count_nonzero()) == 3

    smaller = cut(network.eval(), kept)
    x, _ = batch(network, 0)
    assert torch.allclose(smaller.eval()(x), network(x), atol=1e-5)
    weights = dict(smaller.named_parameters())
    assert int((weights["body.weight"] == 0).sum()) == round(0.5 * 81)
    assert bool((weights["lstm.weight_hh_l0"].view(16, 1, 4).count_nonzero(2) == 2).all())


@pytest.mark.parametrize("criterion", ["taylor", "movement"])
def test_averages_of_gradients_by_hand(criterion):
    """Scores at an update from all steps that count, gathered in numpy."""
    network = perceptron(6, 4)
    pruner = make_pruner(network, {"0": Weights(fraction=0.5)}, {}, Gradual(every=4, stop=1), 8, criterion=criterion)
    weight, products = dict(network.named_parameters())["0.weight"], []
    pruner.begin()
    optimizer = sgd(network)
    for step in range(4):
        x, y = batch(network, step)
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        products.append(weight.detach().numpy().astype(np.float64) * weight.grad.numpy())
        pruner.step()
    mask = pruner.masks["0.weight"].numpy()
    total = -sum(products) if criterion == "movement" else sum(map(np.abs, products))
    assert (~mask).sum() == round(0.5 * 24 * (1 - 1 / 8)) > 0
    assert total[~mask].max() < total[mask].min()


def test_the_networks_of_two_seeds_differ_at_random_and_only_there():
    masks = []
    for seed, criterion in ((0, "random"), (1, "random"), (0, "random"), (0, "magnitude"), (1, "magnitude")):
        torch.manual_seed(0)
        network = capture(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 8))
        pruner = make_pruner(network, {"0": Weights(fraction=0.5)}, {}, Static(), 1, seed=seed, criterion=criterion)
        pruner.begin()
        masks.append(pruner.masks["0.weight"])
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    assert torch.equal(masks[3], masks[4])
