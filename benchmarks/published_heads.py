"""Three heads in the published order of operations: every token is projected, then weighted."""

from torch import Tensor, nn, randn


class PublishedHead(nn.Module):
    """EP, AIM or a linear head on the mean token, with batch norm and classifier."""

    def __init__(self, kind: str, dim: int, n_classes: int, n_maps: int) -> None:
        """Draw weights.

        Args:
            kind: "ep", "aim" or "linear".
            dim: width of a token.
            n_classes: number of classes.
            n_maps: queries of EP, or heads of AIM.
        """
        super().__init__()
        self.kind, self.n_maps = kind, n_maps
        if kind != "linear":
            self.value = nn.Linear(dim, dim, bias=False)
            self.queries = nn.Parameter(0.02 * randn(n_maps if kind == "ep" else 1, dim))
        if kind == "aim":
            self.key, self.token_norm = nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim, affine=False, eps=1e-6)
        self.norm, self.classifier = nn.BatchNorm1d(dim, affine=False, eps=1e-6), nn.Linear(dim, n_classes)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return logits (B, C)."""
        return self.classifier(self.norm(x_BND.mean(1) if self.kind == "linear" else self._attend(x_BND)))

    def _attend(self, x_BND: Tensor) -> Tensor:
        if self.kind == "ep":
            scores_BHN = self.queries * x_BND.shape[2] ** -0.5 @ x_BND.transpose(1, 2)
        else:
            x_BND = self.token_norm(x_BND.transpose(1, 2)).transpose(1, 2)
            keys_BHNK = self._split(self.key(x_BND))
            query_HK1 = self.queries[0].unflatten(0, (self.n_maps, -1))[..., None] * keys_BHNK.shape[3] ** -0.5
            scores_BHN = (keys_BHNK @ query_HK1)[..., 0]
        return (scores_BHN.softmax(2)[:, :, None] @ self._split(self.value(x_BND)))[:, :, 0].flatten(1)

    def _split(self, t_BND: Tensor) -> Tensor:
        return t_BND.unflatten(2, (self.n_maps, -1)).transpose(1, 2)
