"""Aurora (Wu et al., ICLR 2026, arXiv:2509.22295): series, picture of the series and text -> sample paths.

Sections are those of the paper. Keys of the state dict are those of the authors' checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from zoo_core.attention import Causal, LowRank, RoPE, attend
from zoo_core.attention.biases import Bias
from zoo_core.attention.masks import Mask
from zoo_core.attention.stages import merge_heads, split_heads
from zoo_forecast.distil import TextEncoder, VisionEncoder
from zoo_forecast.flow import FlowNet
from zoo_forecast.post_norm import Decoder
from zoo_forecast.prototypes import Retriever
from zoo_forecast.resize import Resize, into, out_of

ROTARY = RoPE(10000.0, "interleaved")


class Guidance(NamedTuple):
    """What the other modalities say: K tokens each.

    Args:
        vision: (B, K, d) of the picture of the series.
        text: (B, K, d), or None without a text.
    """

    vision: Tensor
    text: Tensor | None


class Reading(NamedTuple):
    """What the model made of a series of n tokens, for F future tokens. Names as in the paper.

    Args:
        embed: (B, n, d) embedded tokens.
        scores_vision: (B, heads, n, K) of the guider, or None without a text.
        scores_text: the same with text.
        encoded: (B, n, d) after the encoder.
        from_vision: (B, n, d) what the connector took from the picture.
        from_text: (B, n, d) from the text, or None.
        fused: (B, n, d) encoded, with both fused in.
        conditions: (B, F, d), z of the flow.
        weights: (B, F, number) of the prototypes.
        prototypes: (B, F, p) where paths start, before noise.
    """

    embed: Tensor
    scores_vision: Tensor | None
    scores_text: Tensor | None
    encoded: Tensor
    from_vision: Tensor
    from_text: Tensor | None
    fused: Tensor
    conditions: Tensor
    weights: Tensor
    prototypes: Tensor


class Aurora(nn.Module):
    """The network.

    Args:
        token_length: p, points of a token of the layers' own size; other lengths are resampled.
        width: d.
        feed_forward: inner width of every FFN.
        heads: of every attention.
        encoder_layers: of the series.
        decoder_layers: of the future tokens.
        distilled_tokens: K, of each other modality.
        prototypes: in the bank.
        flow_blocks: of the flow net.
        sampling_steps: Euler steps, unless others are asked for.
        vision: sizes of the ViT.
        text: sizes of BERT.
        dropout: in training.
    """

    def __init__(
        self,
        token_length: int,
        width: int,
        feed_forward: int,
        heads: int,
        encoder_layers: int,
        decoder_layers: int,
        distilled_tokens: int,
        prototypes: int,
        flow_blocks: int,
        sampling_steps: int,
        vision: Mapping[str, int],
        text: Mapping[str, int],
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.token_length, self.sampling_steps = token_length, sampling_steps
        self.model = Backbone(
            token_length, width, feed_forward, heads, encoder_layers, decoder_layers, distilled_tokens, vision, text,
            dropout=dropout,
        )  # fmt: skip
        self.retriever = Retriever(prototypes, token_length, width, heads, feed_forward, dropout=dropout)
        self.flow_match = nn.ModuleDict({"net": FlowNet(token_length, width, flow_blocks)})
        self.linear_head = nn.ModuleDict({"output_proj": nn.Linear(width, token_length, bias=False)})

    @property
    def flow(self) -> FlowNet:
        """The flow net."""
        net = self.flow_match["net"]
        assert isinstance(net, FlowNet)  # noqa: S101 - for the type checker
        return net

    def forward(
        self, series: Tensor, guidance: Guidance, future: int, *, length: int | None = None, resize: Resize = "even"
    ) -> Reading:
        """Read normalised series.

        Args:
            series: (B, L); it is filled up with zeros on the left to whole tokens, which are read as data.
            guidance: of picture and text.
            future: F, tokens to come.
            length: q, points of a token, default the layers' own.
            resize: how the layers are made to fit it.

        Returns:
            what the flow needs, and what led to it.
        """
        length = length or self.token_length
        tokens = pad(series, (-series.shape[1] % length, 0))
        tokens = tokens.reshape(len(series), -1, length)
        read: Read = self.model(tokens @ into(resize, length, self.token_length, tokens), guidance, future)
        guide = read.from_vision if read.from_text is None else read.from_text + read.from_vision
        found = self.retriever(guide, future)
        return Reading(**read._asdict(), weights=found.weights, prototypes=found.prototypes)

    def points(self, tokens: Tensor, length: int | None = None, *, resize: Resize = "even") -> Tensor:
        """Return tokens of the flow (..., F, p) as points of the normalised series (..., F q)."""
        length = length or self.token_length
        return (tokens @ out_of(resize, length, self.token_length, tokens)).flatten(-2)

    def linear_forecast(self, conditions: Tensor, length: int | None = None, *, resize: Resize = "even") -> Tensor:
        """Return the forecast of the linear head (B, F q), normalised: in training a second loss, else unused."""
        return self.points(self.linear_head["output_proj"](conditions), length, resize=resize)


class Read(NamedTuple):
    """What the backbone gives; see `Reading`."""

    embed: Tensor
    scores_vision: Tensor | None
    scores_text: Tensor | None
    encoded: Tensor
    from_vision: Tensor
    from_text: Tensor | None
    fused: Tensor
    conditions: Tensor


class Backbone(nn.Module):
    """Tokens of a series, guided by the tokens of other modalities -> conditions of future tokens (section 3.2)."""

    def __init__(
        self, token_length: int, width: int, feed_forward: int, heads: int, encoder_layers: int, decoder_layers: int,
        distilled_tokens: int, vision: Mapping[str, int], text: Mapping[str, int], *, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = (width, heads, feed_forward)
        self.embed_layer = nn.ModuleDict({"proj_layer": nn.Linear(token_length, width, bias=False)})
        self.VisionEncoder = VisionEncoder(vision, distilled_tokens, *sizes, dropout=dropout)
        self.TextEncoder = TextEncoder(text, distilled_tokens, *sizes, dropout=dropout)
        self.VisionGuider = Attention(width, heads)  # of the guiders only the scores are used
        self.TextGuider = Attention(width, heads)
        self.W = nn.Parameter(torch.eye(distilled_tokens))
        self.ModalityConnector = nn.ModuleDict(
            {f"connect_{name}": Decoder(1, *sizes, dropout=dropout) for name in ("text", "vision")}
        )
        self.fuse = nn.Linear(width, width)
        self.enc_layers = nn.ModuleList(EncoderLayer(*sizes, dropout=dropout) for _ in range(encoder_layers))
        self.dec_layers = nn.ModuleList(DecoderLayer(*sizes, dropout=dropout) for _ in range(decoder_layers))

    def forward(self, tokens: Tensor, guidance: Guidance, future: int) -> Read:
        """(B, n, p) and guidance -> see `Read`."""
        embed = self.embed_layer["proj_layer"](tokens)
        # tokens i and j attend more to each other where a concept of the picture at i meets one of the text at j
        scores_vision = scores_text = bias = None
        if guidance.text is not None:
            scores_vision = self.VisionGuider.scores(embed, guidance.vision)
            scores_text = self.TextGuider.scores(embed, guidance.text)
            bias = LowRank(scores_vision, scores_text, self.W)
        encoded = embed
        for layer in self.enc_layers:
            encoded = layer(encoded, bias)
        from_vision = self.ModalityConnector["connect_vision"](encoded, guidance.vision)
        from_text = None
        if guidance.text is not None:
            from_text = self.ModalityConnector["connect_text"](encoded, guidance.text)
        fused = encoded + self.fuse(from_vision if from_text is None else from_vision + from_text)
        # the future begins as the last token, fading
        fading = 0.5 ** torch.arange(future, device=fused.device, dtype=fused.dtype)
        conditions = fused[:, -1:] * fading[:, None]
        for layer in self.dec_layers:
            conditions = layer(conditions, fused)
        return Read(embed, scores_vision, scores_text, encoded, from_vision, from_text, fused, conditions)


class Attention(nn.Module):
    """Attention as the checkpoint names it.

    Args:
        width: d.
        heads: how many; they divide d.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.o_proj = nn.Linear(width, width, bias=False)

    def scores(self, x: Tensor, memory: Tensor) -> Tensor:
        """Return scaled scores (B, heads, N, M) before any softmax."""
        q, k = split_heads(self.q_proj(x), self.heads), split_heads(self.k_proj(memory), self.heads)
        scores: Tensor = q @ k.mT / q.shape[-1] ** 0.5
        return scores

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        mask: Mask | None = None,
        bias: Bias | None = None,
        rotary: RoPE | None = None,
    ) -> Tensor:
        """Mix memory (B, M, d) into x (B, N, d); with rotary codes x comes right after memory in time."""
        q, k, v = (
            split_heads(project(tokens), self.heads)
            for project, tokens in ((self.q_proj, x), (self.k_proj, memory), (self.v_proj, memory))
        )
        if rotary is not None:
            past = memory.shape[1]
            q = rotary(q, torch.arange(past, past + x.shape[1], device=x.device))
            k = rotary(k, torch.arange(past, device=x.device))
        mixed: Tensor = self.o_proj(merge_heads(attend(q, k, v, mask=mask, bias=bias).out))
        return mixed


class EncoderLayer(nn.Module):
    """x <- N(x + MSA(x) with the bias of the guiders); x <- N(x + FFN(x)), N = BatchNorm over d.

    Args:
        width: d.
        heads: of the attention.
        feed_forward: inner width.
        dropout: in training.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, *, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.ffn_layer = FeedForward(width, feed_forward, dropout=dropout)
        self.norm1, self.norm2 = ChannelNorm(width), ChannelNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Bias | None) -> Tensor:
        """(B, N, d) -> (B, N, d)."""
        x = self.norm1(x + self.dropout(self.self_attn(x, x, bias=bias)))
        refined: Tensor = self.norm2(x + self.dropout(self.ffn_layer(x)))
        return refined


class DecoderLayer(nn.Module):
    """x <- x + N(causal MSA(x)); x <- x + N(MCA(x, memory)); x <- x + N(FFN(x)). Arguments as of `EncoderLayer`."""

    def __init__(self, width: int, heads: int, feed_forward: int, *, dropout: float) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = Attention(width, heads), Attention(width, heads)
        self.ffn_layer = FeedForward(width, feed_forward, dropout=dropout)
        self.norm1, self.norm2, self.norm3 = ChannelNorm(width), ChannelNorm(width), ChannelNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """(B, F, d) and memory (B, n, d) -> (B, F, d)."""
        x = x + self.dropout(self.norm1(self.self_attn(x, x, mask=Causal())))
        x = x + self.dropout(self.norm2(self.cross_attn(x, memory, rotary=ROTARY)))
        refined: Tensor = x + self.dropout(self.norm3(self.ffn_layer(x)))
        return refined


class FeedForward(nn.Module):
    """Linear, SiLU, Linear.

    Args:
        width: d.
        inner: inner width.
        dropout: after the SiLU, in training.
    """

    def __init__(self, width: int, inner: int, *, dropout: float) -> None:
        super().__init__()
        self.ffn = nn.ModuleDict({"0": nn.Linear(width, inner), "2": nn.Linear(inner, width)})
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        refined: Tensor = self.ffn["2"](self.dropout(silu(self.ffn["0"](x))))
        return refined


class ChannelNorm(nn.ModuleDict):
    """BatchNorm over the channels of tokens (B, N, d). The key "1" is the checkpoint's.

    Args:
        width: d.
    """

    def __init__(self, width: int) -> None:
        super().__init__({"1": nn.BatchNorm1d(width)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B, N, d)."""
        normed: Tensor = self["1"](x.mT).mT
        return normed
