"""Aurora small: series, their picture as a fold, text -> quantiles, and a flow for sample paths.

The ideas are those of Aurora (arXiv:2509.22295): tokens of flexible length, other modalities as memory, future tokens
that are decoded together, a flow that starts from prototypes. What differs makes it small and steady: no towers are
trained (a text comes as states of a frozen MiniLM, the picture is the series folded by its own period), prototypes are
mixtures of naive forecasts, and quantiles come from one pass.

Shapes: B series, n context tokens, F future tokens, p points of a token inside of the network, d its width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from zoo_core.attention import Causal, RoPE, attend
from zoo_core.attention.masks import Mask
from zoo_core.attention.stages import merge_heads, split_heads
from zoo_forecast.flow import FlowNet
from zoo_forecast.small_inputs import CHANNELS, EXPERTS, FACTS, FOLD, Inputs, Past, read

LEVELS = (0.01, *(round(0.05 * n, 2) for n in range(1, 20)), 0.99)  # of the quantile head
MIDDLE = len(LEVELS) // 2
ROTARY = RoPE(10000.0)
EPSILON = 1e-6  # of the norms; named, since the default depends on the type of number


class Outlook(NamedTuple):
    """What is to be expected, in units of the normalised series.

    Args:
        quantiles: (B, F, p, levels), rising along the levels.
        conditions: (B, F, d), of the flow.
        weights: (B, F, p, experts), how the naive forecasts are mixed.
    """

    quantiles: Tensor
    conditions: Tensor
    weights: Tensor

    @property
    def start(self) -> Tensor:
        """The medians (B, F, p), from which the flow's paths depart."""
        return self.quantiles[..., MIDDLE]

    @property
    def spread(self) -> Tensor:
        """Half the width of the 70 % interval (B, F, p), above 0: about a standard deviation."""
        return ((self.quantiles[..., MIDDLE + 7] - self.quantiles[..., MIDDLE - 7]) / 2).clamp(min=1e-4)


class AuroraSmall(nn.Module):
    """The network.

    Args:
        token_length: p, points of a token inside; tokens of fewer points are stretched, see `small_inputs`.
        width: d.
        feed_forward: inner width of every FFN.
        heads: of every attention.
        encoder_layers: of the series.
        decoder_layers: of the future tokens.
        text_width: of the states of a text.
        text_layers: of MiniLM, behind which those states are taken.
        point_width: what a future token says about each of its points.
        flow_blocks: of the flow net.
        sampling_steps: Euler steps, unless others are asked for.
    """

    def __init__(
        self,
        token_length: int,
        width: int,
        feed_forward: int,
        heads: int,
        encoder_layers: int,
        decoder_layers: int,
        text_width: int,
        text_layers: int,
        point_width: int,
        flow_blocks: int,
        sampling_steps: int,
    ) -> None:
        super().__init__()
        self.token_length, self.text_layers, self.sampling_steps = token_length, text_layers, sampling_steps
        sizes = (width, heads, feed_forward)
        self.embed = Embed(CHANNELS * token_length, width)
        self.embed_future = Embed(2 * EXPERTS * token_length, width)
        self.facts = nn.Linear(FACTS, width)
        self.fold = Fold(width)
        self.text = nn.Linear(text_width, width)
        self.encoder = nn.ModuleList(Layer(*sizes, memory=False) for _ in range(encoder_layers))
        self.encoded = nn.RMSNorm(width, eps=EPSILON)
        self.decoder = nn.ModuleList(Layer(*sizes, memory=True) for _ in range(decoder_layers))
        self.decoded = nn.RMSNorm(width, eps=EPSILON)
        self.head = QuantileHead(width, token_length, point_width)
        self.flow = FlowNet(token_length, width, flow_blocks)

    def forward(self, inputs: Inputs) -> Outlook:
        """Read series and their guidance; see `Inputs` and `Outlook`."""
        dtype = self.facts.weight.dtype
        facts = self.facts(inputs.facts.to(dtype))[:, None]
        context = self.embed(inputs.tokens.to(dtype).flatten(2)) + facts
        place = torch.arange(context.shape[1], device=context.device)
        there = inputs.there
        for layer in self.encoder:
            context = layer(context, place, Dense(there))
        memory, seen = [self.encoded(context), self.fold(inputs.fold.to(dtype))], [there]
        seen.append(there.new_ones(len(there), memory[1].shape[1]))
        if inputs.text is not None:
            told = inputs.text.any(-1)  # rows of zeros fill short texts up
            memory.append(self.text(inputs.text.to(dtype)))
            seen.append(told)
        # picture and text speak at the end of the context, where the future begins
        origin = context.shape[1]
        whole = torch.cat(memory, 1)
        where = torch.cat([place, place.new_full((whole.shape[1] - origin,), origin)])
        future = self.embed_future(inputs.future.to(dtype).flatten(2)) + facts
        ahead = torch.arange(origin, origin + future.shape[1], device=future.device)
        told_mask = Dense(torch.cat(seen, 1))
        for layer in self.decoder:
            future = layer(future, ahead, Causal(), Memory(whole, where, told_mask))
        conditions = self.decoded(future)
        quantiles, weights = self.head(conditions, inputs)
        return Outlook(quantiles, conditions, weights)

    def on_series(self, series: Tensor, *, period: int = 7, tokens: int = 8, future: int = 2) -> Tensor:
        """Return quantiles (B, F, p, levels) of normalised series (B, L), without text and covariates.

        Args:
            series: without gaps.
            period: of all of them.
            tokens: n, of two periods each.
            future: F.
        """
        count = torch.ones(len(series), dtype=torch.int64, device=series.device)
        there = torch.ones_like(series, dtype=torch.bool)
        past = Past(series, there, period * count, 2 * period * count, torch.zeros_like(series[:, 0]))
        outlook: Outlook = self(read(past, tokens=tokens, future=future, points=self.token_length))
        return outlook.quantiles

    def heads(self) -> list[nn.Module]:
        """Return what is tuned to a few series: the last layer and what comes behind it."""
        return [self.decoder[-1], self.decoded, self.head, self.flow]

    def parts(self) -> list[nn.Module]:
        """Return what is worth compiling by itself."""
        return [*self.encoder, *self.decoder, self.head]


def Dense(there: Tensor) -> Tensor:
    """Return the mask (B, 1, 1, M) of keys that are there (B, M)."""
    return there[:, None, None]


class Memory(NamedTuple):
    """What future tokens look at.

    Args:
        tokens: (B, M, d).
        places: (M,) in time, in tokens.
        mask: (B, 1, 1, M), whether each is there.
    """

    tokens: Tensor
    places: Tensor
    mask: Tensor


class Embed(nn.Module):
    """Linear, SiLU, Linear with a straight way beside them, for tokens of numbers.

    Args:
        inputs: numbers of a token.
        width: d.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.straight = nn.Linear(inputs, width)
        self.bent = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., d)."""
        x = self.straight(x)
        embedded: Tensor = x + self.bent(silu(x))
        return embedded


class Fold(nn.Module):
    """The series as a picture, one row a period, one column a phase -> a token for each 4 x 4 of it.

    Args:
        width: d.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 16, 3, stride=2, padding=1)
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.out = nn.Linear(32, width)
        rows, columns = FOLD
        self.place = nn.Parameter(torch.randn(rows // 4 * columns // 4, width) * 0.02)

    def forward(self, fold: Tensor) -> Tensor:
        """(B, 2, rows, columns), values and whether they are there -> (B, rows columns / 16, d)."""
        patches = silu(self.second(silu(self.first(fold)))).flatten(2).mT
        tokens: Tensor = self.out(patches) + self.place
        return tokens


class Layer(nn.Module):
    """x <- x + MSA(N(x)); x <- x + MCA(N(x), memory); x <- x + FFN(N(x)), N = RMSNorm.

    Args:
        width: d.
        heads: of the attentions.
        feed_forward: inner width.
        memory: whether there is an MCA.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, *, memory: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=EPSILON) for _ in range(3 if memory else 2))
        self.own = Attention(width, heads)
        self.cross = Attention(width, heads) if memory else None
        self.ffn = nn.Sequential(nn.Linear(width, feed_forward), nn.SiLU(), nn.Linear(feed_forward, width))

    def forward(self, x: Tensor, places: Tensor, mask: Mask | Tensor, memory: Memory | None = None) -> Tensor:
        """(B, N, d) -> (B, N, d); places (N,) in time, in tokens; mask of x among itself."""
        normed = self.norms[0](x)
        x = x + self.own(normed, normed, places, places, mask)
        if self.cross is not None and memory is not None:
            x = x + self.cross(self.norms[1](x), memory.tokens, places, memory.places, memory.mask)
        refined: Tensor = x + self.ffn(self.norms[-1](x))
        return refined


class Attention(nn.Module):
    """Attention with rotary places.

    Args:
        width: d.
        heads: how many; they divide d.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, places: Tensor, theirs: Tensor, mask: Mask | Tensor) -> Tensor:
        """Mix memory (B, M, d) at places `theirs` (M,) into x (B, N, d) at `places` (N,)."""
        q = ROTARY(split_heads(self.query(x), self.heads), places)
        k = ROTARY(split_heads(self.key(memory), self.heads), theirs)
        v = split_heads(self.value(memory), self.heads)
        mixed: Tensor = self.out(merge_heads(attend(q, k, v, mask=mask).out))
        return mixed


class QuantileHead(nn.Module):
    """Future tokens and naive forecasts -> quantiles of every point.

    The median is a mixture of the naive forecasts plus something learnt; other quantiles depart from it by steps above
    0, so that they cannot cross. Steps are measured by how far the series is from repeating itself.

    Args:
        width: d.
        token_length: p.
        point_width: what a token says of a point, before that becomes quantiles.
    """

    def __init__(self, width: int, token_length: int, point_width: int) -> None:
        super().__init__()
        self.token_length = token_length
        self.points = nn.Linear(width, token_length * point_width)
        self.inner = nn.Linear(point_width, 4 * point_width)
        self.out = nn.Linear(4 * point_width, EXPERTS + len(LEVELS))
        # at first: all experts alike, and the quantiles of a normal distribution
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        normal = torch.special.ndtri(torch.tensor(LEVELS)).diff()
        with torch.no_grad():
            self.out.bias[EXPERTS + 1 :] = normal.expm1().log()

    def forward(self, conditions: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """(B, F, d) -> quantiles (B, F, p, levels) and weights (B, F, p, experts), both fp32."""
        points = self.points(conditions).view(*conditions.shape[:2], self.token_length, -1)
        said = self.out(silu(self.inner(silu(points)))).float()
        logits, shift, steps = said.split([EXPERTS, 1, len(LEVELS) - 1], -1)
        # naive forecasts, and whether they are there: (B, F, p, E) each
        experts, known = inputs.future.float().mT.chunk(2, -1)
        weights = logits.masked_fill(known == 0, -1e4).softmax(-1)
        unit = inputs.unit[:, None, None, None]
        median = (weights * experts).sum(-1, keepdim=True) + unit * shift
        steps = unit * softplus(steps)
        below, above = steps[..., :MIDDLE].flip(-1).cumsum(-1).flip(-1), steps[..., MIDDLE:].cumsum(-1)
        return torch.cat([median - below, median, median + above], -1), weights
