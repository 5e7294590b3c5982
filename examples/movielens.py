"""Film ratings (MovieLens ml-latest-small) from embeddings of users and films: most of the file is embeddings.

    trimtab compress examples/movielens.py --drop 0.01 --size 12%

Needs `movielens_small/train.npz` and `movielens_small/test.npz` in TRIMTAB_DATA. The metric is the mean absolute error
in stars, where lower is better. The last tenth of each user's ratings is the test, the tenth before it validation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError

from common import Batches, arrays, baseline
from trimtab.tasks import Task


class Ratings(nn.Module):
    """Embeddings of user and film, their product and two layers on top, to one rating."""

    def __init__(self, users: int, films: int, width: int = 32) -> None:
        super().__init__()
        self.users = nn.Embedding(users, width)
        self.films = nn.Embedding(films, width)
        self.fc1 = nn.Linear(3 * width, 2 * width)
        self.fc2 = nn.Linear(2 * width, 1)
        self.dropout = nn.Dropout(0.3)

    def forward(self, user: Tensor, film: Tensor) -> Tensor:
        u, f = self.dropout(self.users(user)), self.dropout(self.films(film))
        return 3.5 + self.fc2(F.relu(self.fc1(torch.cat([u, f, u * f], 1))))


def read(split: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in arrays(f"movielens_small/{split}.npz").items()}


def task(width: int = 32, batch: int = 512, epochs: int = 8) -> Task:
    known, test = read("train"), read("test")
    films = torch.cat([known["movie"], test["movie"]]).unique()
    users = int(known["user"].max()) + 1

    def rows(of: dict[str, Tensor], chosen: Tensor) -> list[Tensor]:
        film = torch.searchsorted(films, of["movie"][chosen])
        return [of["user"][chosen].long(), film, of["rating"][chosen, None]]

    order = known["timestamp"].argsort()
    late = torch.zeros(len(order), dtype=torch.bool)
    for user in known["user"].unique():
        own = order[known["user"][order] == user]
        late[own[-max(1, len(own) // 10) :]] = True
    train = Batches(*rows(known, ~late), batch=batch, shuffle=True)
    model = baseline(
        f"movielens-{width}-{epochs}", lambda: Ratings(users, len(films), width), train, F.mse_loss, epochs=epochs
    )
    return Task(
        model=model,
        train=train,
        val=Batches(*rows(known, late), batch=2048),
        test=Batches(*rows(test, torch.ones(len(test["user"]), dtype=torch.bool)), batch=2048),
        loss=F.mse_loss,
        metric=MeanAbsoluteError(),
    )
