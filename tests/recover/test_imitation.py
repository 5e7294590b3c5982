"""Features and attention maps: the distances against loops in float64, the taps, and what cannot be compared."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.graph import capture
from trimtab.recover import Imitation, Settings, recover
from trimtab.recover.imitation import Taps, attention_distance, feature_distance, imitators


class Residual(nn.Module):
    def __init__(self, width: int, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.one(x).relu()
        x = x + self.two(x).relu()
        return self.head(x.mean((2, 3)))


def images(rows=6):
    return torch.randn(rows, 1, 8, 8)


def reference_attention(student, teacher):
    total = 0.0
    for s, t in zip(student.double(), teacher.double(), strict=True):
        maps = [[sum(v * v for v in column) for column in x.flatten(1).T.tolist()] for x in (s, t)]
        lengths = [sum(v * v for v in m) ** 0.5 for m in maps]
        total += sum((a / lengths[0] - b / lengths[1]) ** 2 for a, b in zip(*maps, strict=True))
    return total / len(student)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.sampled_from([(3,), (2, 4)]))
def test_attention_maps_are_compared_by_shape(rows, ours, theirs, places):
    student, teacher = torch.randn(rows, ours, *places), torch.randn(rows, theirs, *places) * 7
    distance = attention_distance(student, teacher, 1)
    assert distance.item() == pytest.approx(reference_attention(student, teacher), rel=1e-4, abs=1e-6)
    assert attention_distance(student, student * 3, 1).item() == pytest.approx(0, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(4, 3), (2, 3, 5), (2, 3, 4, 4)]))
def test_features_are_compared_on_the_scale_of_the_teacher(shape):
    student, teacher = torch.randn(shape), torch.randn(shape) * 5 + 1
    s, t = student.double().flatten().tolist(), teacher.double().flatten().tolist()
    mean = sum(t) / len(t)
    variance = sum((x - mean) ** 2 for x in t) / len(t)
    expected = sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(t) / variance
    assert feature_distance(student, teacher).item() == pytest.approx(expected, rel=1e-4)
    assert feature_distance(student * 9, teacher * 9).item() == pytest.approx(expected, rel=1e-4)


def test_taps_read_what_flows_and_leave_no_trace():
    module, x = Residual(5).eval(), images()
    network = capture(module, x)
    code, names, expected = network.module.code, list(network.state_dict()), network(x)
    seen = {}
    handle = module.one.register_forward_hook(lambda _m, _i, output: seen.update(one=output))
    module(x)
    handle.remove()
    for source in (network, module):
        taps = Taps(source)
        tap = taps.at("one")
        assert taps.at("one") is tap
        assert torch.equal(source(x), expected)
        assert torch.equal(tap.read(), seen["one"])
        taps.remove()
        source(images())
        assert torch.equal(tap.read(), seen["one"])
    assert (network.module.code, list(network.state_dict())) == (code, names)
    assert torch.equal(network(x), expected)


def test_a_tapped_graph_is_analysed_as_before():
    network = capture(Residual(5).eval(), images())
    groups = [(group.name, group.width) for group in network.groups]
    taps = Taps(network)
    taps.at("one"), taps.at("relu")
    network.refresh()
    assert [(group.name, group.width) for group in network.groups] == groups


def both(student, teacher, *imitations, x):
    ours, theirs = Taps(student), Taps(teacher)
    return imitators(imitations, ours, theirs, lambda: (student(x), teacher(x)))


def test_auto_takes_the_residual_sums():
    x = images()
    teacher, student = capture(Residual(5).eval(), x), capture(Residual(5).eval(), x)
    sums = [branch.node for branch in teacher.branches]
    assert len(sums) == 2
    values = []
    for network in (student, teacher):
        found = []
        for name in sums:
            taps = Taps(network)
            tap = taps.at(name)
            network(x)
            found.append(tap.read())
            taps.remove()
        values.append(found)
    (imitator,) = both(student, teacher, Imitation(weight=3.0), x=x)
    assert list(imitator.projections()) == []
    student(x), teacher(x)
    expected = sum(feature_distance(s, t) for s, t in zip(*values, strict=True)) / 2
    assert imitator().item() == pytest.approx(3 * expected.item(), rel=1e-5)


def test_the_gradient_reaches_student_and_projection_alone():
    x = images()
    student, teacher = capture(Residual(4).eval(), x), Residual(7).eval()
    (imitator,) = both(student, teacher, Imitation(places=(("one", "one"),)), x=x)
    ((_, projection),) = imitator.projections()
    assert projection.shape == (4, 7)
    seen = []
    for source in (student, teacher):
        taps = Taps(source)
        tap = taps.at("one")
        source(x)
        seen.append(tap.read().detach())
        taps.remove()
    student(x), teacher(x)
    value = imitator()
    expected = feature_distance(torch.einsum("ncij,cd->ndij", seen[0], projection), seen[1])
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert projection.grad.abs().sum() > 0
    assert dict(student.named_parameters())["one.weight"].grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize(
    ("imitation", "message"),
    [
        (Imitation(), "needs a Network as teacher"),
        (Imitation(places=(("one", "nothing"),)), "the teacher has no submodule 'nothing'; it has stem, norm"),
        (Imitation(places=(("nothing", "one"),)), "no layer or graph node 'nothing'; layers are stem, one, two, head"),
        (Imitation(places=(("head", "one"),)), r"'head' \[6, 10\] and .*'one' \[6, 7, 8, 8\] cannot be compared"),
        (Imitation(kind="attention", places=(("head", "head"),)), "have no positions"),
    ],
)
def test_places_that_do_not_fit_are_named(imitation, message):
    x = images()
    with pytest.raises(ConfigError, match=message) as caught:
        both(capture(Residual(4).eval(), x), Residual(7).eval(), imitation, x=x)
    assert "\n" not in str(caught.value)


def test_another_resolution_is_refused():
    x = images()
    other = nn.Sequential(nn.Conv2d(1, 7, 3, stride=2), nn.Flatten(), nn.LazyLinear(10)).eval()
    other(x)
    with pytest.raises(ConfigError, match="differ in more than their width"):
        both(capture(Residual(4).eval(), x), other, Imitation(places=(("one", "0"),)), x=x)


def test_without_residual_sums_auto_is_refused():
    x = torch.randn(3, 4)
    networks = [capture(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), x) for _ in range(2)]
    with pytest.raises(ConfigError, match="finds no residual sum in both"):
        both(*networks, Imitation(), x=x)


@pytest.mark.parametrize("kind", ["features", "attention"])
def test_a_student_comes_nearer_to_a_larger_teacher(lab, kind):
    """The weights that only the inner activation reaches are pulled to the teacher's, and the teacher stays."""
    torch.manual_seed(0)
    teacher = Residual(12)
    teacher.train()
    x = next(iter(lab.task.val))[0]
    student = capture(Residual(6).eval(), x[:5])
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    imitation = Imitation(kind=kind, places=(("one", "one"),), weight=5.0)

    def distance(network):
        ours, theirs = Taps(network), Taps(teacher)
        tap, other = ours.at("one"), theirs.at("one")
        with torch.no_grad():
            network(x), teacher.eval()(x)
        teacher.train()
        ours.remove(), theirs.remove()
        return attention_distance(tap.read(), other.read(), 1).item()

    how = Settings(distillation=0.1, imitate=(imitation,), learning_rate=1e-2)
    result = recover(student, lab.task, teacher=teacher, epochs=4, settings=how)
    assert teacher.training
    assert not any(module._forward_hooks for module in teacher.modules())
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any("tap" in node.name for node in result.network.module.graph.nodes)
    assert result.network.fingerprint == student.fingerprint
    if kind == "attention":
        plain = recover(student, lab.task, teacher=teacher, epochs=4, settings=Settings(distillation=0.1))
        assert distance(result.network) < 0.7 * distance(plain.network)


def test_imitation_needs_a_teacher(lab):
    with pytest.raises(ConfigError, match="imitate needs a teacher"):
        recover(lab.network, lab.task, epochs=1, settings=Settings(imitate=(Imitation(),)))
