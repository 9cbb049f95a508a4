"""Section 11 of docs/method.md: the closed forms of the backward pass against autograd in float64."""

import pytest
import torch

from expert_condenser.functional.routing import RoutingConfig, route
from expert_condenser.functional.scoring import Scoring, expert_scores

T, E, K, D, H, SCALE = 9, 7, 3, 5, 4, 1.5
CONDENSERS = [2, 5]
SCORINGS = {
    (name, normalize): Scoring(function=name, normalize=normalize, scale=SCALE, float32=False)
    for name in ("softmax", "sigmoid")
    for normalize in (False, True)
}
OVER_CHOSEN = Scoring(function="topk_softmax", scale=SCALE, float32=False)


class Layer:
    """A layer of experts `E_i(x) = V_i tanh(U_i x)` on random tokens, its loss `Σ ⟨δ, y⟩`, and autograd's gradients."""

    def __init__(self, scoring, condensers=(), bias=True, config=None):
        generator = torch.Generator().manual_seed(3)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.x, self.delta, self.z = draw(T, D), draw(T, D), draw(T, E).requires_grad_()
        self.up, self.down = draw(E, H, D), draw(E, D, H).requires_grad_()
        beta = draw(E).float() if bias else torch.zeros(E)
        ids = torch.tensor(condensers, dtype=torch.int64)
        config = config or RoutingConfig()
        self.weights, self.indices = route(self.z, beta, ids, top_k=K, scoring=scoring, config=config)
        self.hidden = torch.tanh(torch.einsum("ehd,td->teh", self.up, self.x))
        self.outputs = torch.einsum("edh,teh->ted", self.down, self.hidden)
        chosen = self.outputs.gather(1, self.indices[..., None].expand(-1, -1, D))
        self.y = (self.weights[..., None] * chosen).sum(1)
        self.of_z, self.of_down = torch.autograd.grad(
            (self.y * self.delta).sum(), [self.z, self.down], retain_graph=True
        )
        self.a = (self.outputs * self.delta[:, None]).sum(-1).detach()
        self.chosen = torch.zeros(T, E, dtype=torch.float64).scatter(1, self.indices, 1.0)
        self.g = torch.zeros(T, E, dtype=torch.float64).scatter(1, self.indices, self.weights.detach())


def closed_form(layer, scoring):
    """∂L/∂z by the table of section 11."""
    s, a, g = expert_scores(layer.z.detach(), scoring), layer.a, layer.g
    mean = (g * a).sum(1, keepdim=True) / SCALE
    renormalised = scoring.normalize or scoring.function == "topk_softmax"
    if scoring.function == "sigmoid":
        return (1 - s) * g * (a - mean) if renormalised else SCALE * s * (1 - s) * a * layer.chosen
    return g * (a - mean) if renormalised else SCALE * s * (layer.chosen * a - mean)


@pytest.mark.parametrize("scoring", [*SCORINGS.values(), OVER_CHOSEN], ids=lambda s: f"{s.function}-{s.normalize}")
@pytest.mark.parametrize("condensers", [[], CONDENSERS], ids=["phase 1", "phase 2"])
def test_the_gradient_of_the_logits(scoring, condensers):
    layer = Layer(scoring, condensers)
    found = closed_form(layer, scoring)
    torch.testing.assert_close(layer.of_z, found, atol=1e-12, rtol=1e-10)
    told = (found.abs() > 0) & (layer.chosen == 0)
    renormalised = scoring.normalize or scoring.function == "topk_softmax"
    assert told.any() == (scoring.function == "softmax" and not renormalised), "who is told of experts not chosen"


@pytest.mark.parametrize("scoring", SCORINGS.values(), ids=lambda s: f"{s.function}-{s.normalize}")
def test_control_another_scoring_s_form_is_wrong(scoring):
    layer = Layer(scoring, CONDENSERS)
    for other in SCORINGS.values():
        same = torch.allclose(layer.of_z, closed_form(layer, other), atol=1e-6)
        assert same == (other == scoring)


@pytest.mark.parametrize("scoring", SCORINGS.values(), ids=lambda s: f"{s.function}-{s.normalize}")
def test_the_gradient_of_the_experts(scoring):
    """`g_i δ h_iᵀ` for the last projection, summed over the tokens that chose the expert; over all for a condenser."""
    layer = Layer(scoring, CONDENSERS)
    expected = torch.einsum("te,td,teh->edh", layer.g, layer.delta, layer.hidden)
    torch.testing.assert_close(layer.of_down, expected, atol=1e-12, rtol=1e-10)
    assert (layer.g[:, CONDENSERS] > 0).all()
    unweighed = torch.einsum("te,td,teh->edh", layer.chosen, layer.delta, layer.hidden)
    assert not torch.allclose(layer.of_down, unweighed), "control"


def test_an_expert_that_no_token_chose_has_no_gradient():
    layer = Layer(SCORINGS["softmax", False])
    with torch.no_grad():
        layer.z[:, 4] = -50
    weights, indices = route(layer.z, torch.zeros(E), torch.zeros(0, dtype=torch.int64), top_k=K)
    assert not (indices == 4).any()
    y = (weights[..., None] * layer.outputs.gather(1, indices[..., None].expand(-1, -1, D))).sum(1)
    (gradient,) = torch.autograd.grad((y * layer.delta).sum(), [layer.down])
    assert (gradient[4] == 0).all()
    assert (gradient[0] != 0).any(), "control"


def test_the_bias_and_the_kept_mass_are_constants():
    plain, biased = (Layer(SCORINGS["softmax", False], CONDENSERS, bias=b) for b in (False, True))
    assert not torch.equal(plain.indices, biased.indices), "the bias chooses"
    kept = Layer(SCORINGS["softmax", False], CONDENSERS, config=RoutingConfig(condenser_mass="keep"))
    s = expert_scores(kept.z.detach(), SCORINGS["softmax", False])
    ratio = kept.g.sum(1, keepdim=True) / (SCALE * (s * kept.chosen).sum(1, keepdim=True))
    sums = (s * kept.chosen * kept.a).sum(1, keepdim=True)
    expected = ratio * SCALE * s * (kept.chosen * kept.a - sums)
    torch.testing.assert_close(kept.of_z, expected, atol=1e-6, rtol=1e-5)  # the weights are kept in float32
    assert not torch.allclose(kept.of_z, expected / ratio, atol=1e-3), "control"


@pytest.mark.parametrize(("name", "normalize"), SCORINGS)
def test_the_lower_bound_of_a_condenser_s_gradient(name, normalize):
    layer = Layer(SCORINGS[name, normalize], CONDENSERS)
    z = layer.z.detach()
    among = z.masked_fill(layer.chosen == 0, -torch.inf) if normalize else z
    for c in CONDENSERS:
        spread = among.amax(1) - z[:, c]
        least = SCALE * (torch.sigmoid(z[:, c]) if name == "sigmoid" else torch.exp(-spread))
        least = least / (K if normalize else E if name == "softmax" else 1)
        assert (layer.g[:, c] >= least * (1 - 1e-12)).all()
        assert (layer.g[:, c] < least * E).all(), "control: it is not far from what it bounds"
        for token in range(T):
            (gradient,) = torch.autograd.grad(
                (layer.y[token] * layer.delta[token]).sum(), [layer.down], retain_graph=True
            )
            bound = least[token] * layer.delta[token].norm() * layer.hidden[token, c].norm()
            assert gradient[c].norm() >= bound * (1 - 1e-12)
            assert bound > 0


def test_steps_with_a_gradient():
    """Of T tokens that choose an expert with probability p, a share `1 - (1 - p)^T` of steps has one that did."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(20_000, 6, generator=generator) < 0.1
    assert chosen.any(1).double().mean() == pytest.approx(1 - 0.9**6, abs=0.01)
    assert chosen[:, 0].double().mean() == pytest.approx(0.1, abs=0.01)
