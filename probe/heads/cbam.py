r"""CBAM (arXiv 1807.06521, section 3), as in timm's `CbamModule`, with a residual ReLU and the mean over tokens.

    g = sigmoid(F_2 ReLU(F_1 mean_n x_n) + F_2 ReLU(F_1 max_n x_n))                a gate for each channel
    s_n = sigmoid(BatchNorm(conv_7x7([mean_c; max_c] of g ⊙ x)))_n                 a gate for each place on the grid
    y = mean_n ReLU(s_n g ⊙ x_n + x_n)

1 + s_n g is positive, so ReLU((1 + s_n g) ⊙ x_n) = (1 + s_n g) ⊙ ReLU(x_n), and

    y = mean_n ReLU(x_n) + g ⊙ 1/N sum_n s_n ReLU(x_n),        mean_c (g ⊙ x_n) = g · x_n / D

are products with tokens that all cells share. Only the maximum over channels of g ⊙ x_n is computed per cell. The
convolution needs places on a grid, so this pooling reads no prefix tokens.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...errors import InputError
from . import blocked
from .attentive import AttentivePooling, module_names, statistics_names
from .initial import linear_initial, norm_initial, uniform_initial

KERNEL, REDUCTION, EPS, MOMENTUM = 7, 16, 1e-5, 0.1


class CBAM(AttentivePooling):
    """A gate for channels, then a gate for places.

    Parameters, for H cells: `fc1_weight` (H, D/16, D), `fc2_weight` (H, D, D/16), `conv_weight` (H, 2, 7, 7),
    `bn_weight` and `bn_bias` (H, 1). Buffers: `running_mean` and `running_var` (H, 1).

    The map is s, between 0 and 1 for each token: it does not sum to 1.
    """

    name = "cbam"
    title = "CBAM"
    summary = "A gate for each channel and each place on the grid, then the mean."
    source = "arXiv 1807.06521, section 3"
    reference_names: Mapping[str, str] = {
        **module_names({"channel.fc1": "fc1", "channel.fc2": "fc2", "spatial.conv.conv": "conv"}, ["weight"]),
        **module_names({"spatial.conv.bn": "bn"}),
    }
    reference_buffers: Mapping[str, str | None] = statistics_names("spatial.conv.bn")
    conv_weight: Tensor
    bn_weight: Tensor
    bn_bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def needs_one_layer(self) -> str:
        """See `Pooling.needs_one_layer`."""
        return "its convolution needs the places of one grid"

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        self.reduced = max(1, int(self.dim / REDUCTION + 0.5))

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        return {
            **linear_initial("fc1", self.reduced, self.dim, generator, bias=False),
            **linear_initial("fc2", self.dim, self.reduced, generator, bias=False),
            "conv_weight": uniform_initial(2, KERNEL, KERNEL, fan_in=2 * KERNEL**2, generator=generator),
            **norm_initial("bn", 1),
        }

    def make_buffers(self) -> None:
        """See `Pooling.make_buffers`."""
        self.keep_statistics(1)

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        gate_BHD = self._channel_gate(x_BND)
        places_BHN = self._places(x_BND, gate_BHD, track=self.training)
        positive_BND = x_BND.relu()
        weighed_BHD = places_BHN.to(x_BND.dtype) @ positive_BND / x_BND.shape[1]
        return positive_BND.mean(1)[:, None] + gate_BHD * weighed_BHD

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        return self._places(x_BND, self._channel_gate(x_BND), track=False)[:, :, None]

    def _channel_gate(self, x_BND: Tensor) -> Tensor:
        """Return g, (B, H, D), in at least float32."""
        n_cells = len(self.conv_weight)
        both_XD = torch.cat([x_BND.mean(1), x_BND.amax(1)])  # X = 2·B
        raw_HXD = self.linear("fc2", F.relu(self.linear("fc1", both_XD.expand(n_cells, -1, -1))))
        raw_HXD = raw_HXD.to(torch.promote_types(raw_HXD.dtype, torch.float32))
        of_both_HBD: Tensor = raw_HXD.unflatten(1, (2, -1)).sum(1)
        return of_both_HBD.sigmoid().transpose(0, 1)

    def _places(self, x_BND: Tensor, gate_BHD: Tensor, *, track: bool) -> Tensor:
        """Return s, (B, H, N), in at least float32.

        Raises:
            InputError: the tokens do not fill the grid.
        """
        if x_BND.shape[1] != self.grid[0] * self.grid[1]:
            raise InputError(
                f"cbam for a grid of {self.grid} got {x_BND.shape[1]} tokens; build it for the grid of these tokens, "
                "and leave prefix tokens out"
            )
        mean_BHN = gate_BHD.to(x_BND.dtype) @ x_BND.transpose(1, 2) / self.dim
        seen_BH2N = torch.stack([mean_BHN, channel_maximum(x_BND, gate_BHD).to(mean_BHN.dtype)], dim=2)
        planes = seen_BH2N.flatten(1, 2).unflatten(2, self.grid)
        raw = F.conv2d(planes, self.conv_weight, padding=KERNEL // 2, groups=len(self.conv_weight))
        tracked = (self.running_mean[:, 0], self.running_var[:, 0])  # views, which batch_norm updates
        mean, var = tracked if track or not self.training else (None, None)
        affine = (self.bn_weight[:, 0], self.bn_bias[:, 0])
        normed = F.batch_norm(raw.to(affine[0].dtype), mean, var, *affine, self.training, MOMENTUM, EPS)
        return normed.flatten(2).sigmoid()


def channel_maximum(x_BND: Tensor, gate_BHD: Tensor) -> Tensor:
    """Return max_c g_c x_nc, (B, H, N). It keeps only the places of the maxima, not the (B, H, N, D) products."""
    image_bytes = 4 * gate_BHD.shape[1] * x_BND.shape[1] * x_BND.shape[2]
    n_images = max(1, blocked.MAPS_BYTES // image_bytes)
    parts = [(gate_BHD, x_BND)]
    if not torch.compiler.is_exporting():  # an exported program takes any number of images: no split may depend on it
        parts = list(zip(gate_BHD.split(n_images), x_BND.split(n_images), strict=True))
    with torch.no_grad():
        channels_BHN = torch.cat([(gate[:, :, None] * x[:, None]).argmax(-1) for gate, x in parts])
    return gate_BHD.gather(2, channels_BHN) * x_BND.gather(2, channels_BHN.transpose(1, 2)).transpose(1, 2)
