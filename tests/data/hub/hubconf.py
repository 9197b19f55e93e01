"""A torch.hub repository of small models, built as those of DINO, DINOv2, DINOv3, CAPI and RADIO are.

Each has `reference`: what its blocks give, (B, prefix + patches, dim), computed one by one.
"""

import math

import torch
from torch import nn

DIM = 12


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(DIM), nn.MultiheadAttention(DIM, 2, batch_first=True)

    def forward(self, x):
        y = self.norm(x)
        return x + self.attn(y, y, y, need_weights=False)[0]


class ListBlock(Block):
    def forward(self, x_list, rope):
        return [super(ListBlock, self).forward(x) + rope for x in x_list]


class Chunk(nn.ModuleList):
    def forward(self, x):
        for block in self:
            x = block(x)
        return x


class PatchEmbed(nn.Module):
    def __init__(self, patch_size):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, DIM, patch_size, patch_size)

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)


class DinoV2(nn.Module):
    def __init__(self, depth=3, n_registers=0, chunks=0, patch_size=4):
        super().__init__()
        self.patch_size = patch_size
        self.patch_embed = PatchEmbed((patch_size, patch_size))
        self.cls_token = nn.Parameter(torch.randn(1, 1, DIM))
        self.register_tokens = nn.Parameter(torch.randn(1, n_registers, DIM)) if n_registers else None
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.plain = list(self.blocks)
        if chunks:
            size = depth // chunks
            lists = [[nn.Identity()] * i + self.plain[i : i + size] for i in range(0, depth, size)]
            self.blocks = nn.ModuleList(Chunk(blocks) for blocks in lists)
        self.norm = nn.LayerNorm(DIM, eps=1e-6)

    def embed(self, images):
        x = self.patch_embed(images)
        tokens = [self.cls_token] if self.register_tokens is None else [self.cls_token, self.register_tokens]
        return torch.cat([*(token.expand(x.shape[0], -1, -1) for token in tokens), x], 1)

    def reference(self, images):
        x, outputs = self.embed(images), []
        for block in self.plain:
            x = block(x)
            outputs.append(x)
        return outputs

    def forward(self, images):
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class DinoV3(DinoV2):
    def __init__(self):
        super().__init__(n_registers=2)
        self.blocks = nn.ModuleList(ListBlock() for _ in range(3))

    def reference(self, images):
        x, outputs = self.embed(images), []
        for block in self.blocks:
            (x,) = block([x], 0.5)
            outputs.append(x)
        return outputs

    def forward(self, images):
        x = [self.embed(images)]
        for block in self.blocks:
            x = block(x, 0.5)
        return self.norm(x[0])[:, 0]


class Dino(DinoV2):
    def __init__(self):
        super().__init__()
        self.patch_embed = PatchEmbed(4)
        del self.patch_size


class Capi(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_size = 4
        self.patch_embed = nn.Conv2d(3, DIM, 4, 4)
        self.registers = nn.Parameter(torch.randn(1, 4, DIM))
        self.encoder = nn.Module()
        self.encoder.blocks = nn.ModuleList(Block() for _ in range(3))
        self.enc_norm = nn.RMSNorm(DIM, eps=1e-5, elementwise_affine=False)

    def reference(self, images):
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        x, outputs = torch.cat([self.registers.expand(x.shape[0], -1, -1), x], 1), []
        for block in self.encoder.blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def forward(self, images):
        x = self.enc_norm(self.reference(images)[-1])
        side = math.isqrt(x.shape[1] - 4)
        return x.mean(1), x[:, :4], x[:, 4:].unflatten(1, (side, side))


class Conditioner(nn.Module):
    def forward(self, images):
        return (images - 0.4) / 0.2


class PatchGenerator(PatchEmbed):
    def __init__(self, n_cls, n_registers):
        super().__init__(4)
        self.num_cls_tokens = n_cls
        self.tokens = nn.Parameter(torch.randn(1, n_cls + n_registers, DIM))

    def forward(self, images):
        x = super().forward(images)
        return torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], 1)


class Radio(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_size = 4
        self.input_conditioner = Conditioner()
        self.model = nn.Module()
        self.model.patch_generator = PatchGenerator(3, 2)
        self.model.blocks = nn.Sequential(Block(), Block(), Block())
        self.model.norm = nn.LayerNorm(DIM)

    def reference(self, images):
        x, outputs = self.model.patch_generator(self.input_conditioner(images)), []
        for block in self.model.blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def forward(self, images):
        x = self.model.norm(self.model.blocks(self.model.patch_generator(self.input_conditioner(images))))
        return x[:, :3].flatten(1), x[:, 5:]


def dinov2_tiny(*, pretrained=True, patch_size=4, weights=None):
    return _seeded(DinoV2(patch_size=patch_size), pretrained)


def dinov2_tiny_reg(*, pretrained=True):
    return _seeded(DinoV2(n_registers=4), pretrained)


def franca_tiny_chunked(*, pretrained=True):
    return _seeded(DinoV2(depth=4, chunks=2), pretrained)


def dinov3_tiny(*, pretrained=True):
    return _seeded(DinoV3(), pretrained)


def dino_tiny(*, pretrained=True):
    return _seeded(Dino(), pretrained)


def capi_tiny():
    return _seeded(Capi(), True)


def radio_tiny(*, pretrained=True):
    return _seeded(Radio(), pretrained)


def wrong_patch_size():
    model = DinoV2()
    model.patch_size = 2
    return model


def classifier():
    return nn.Linear(3, 2)


def broken():
    raise ConnectionError("no route to the weights\nand more lines of it")


def _seeded(model, pretrained):
    """Give weights that no seed of a caller's gives, if they are the published ones."""
    if pretrained:
        generator = torch.Generator().manual_seed(11)
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model
