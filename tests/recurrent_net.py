"""An LSTM whose last state is classified."""

from torch import Tensor, nn


class Last(nn.Module):
    """[rows, steps, 4] to [rows, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])
