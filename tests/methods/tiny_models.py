"""Small models of the kinds users bring, and data they can learn within a second. Copied into a suite by conftest."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

CLASSES, SIDE = 4, 8
SIZES = {"train": 512, "validation": 64, "calibration": 64, "test": 64}


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 32), nn.Linear(32, 24), nn.Linear(24, CLASSES)

    def forward(self, inputs):
        return self.head(self.second(self.first(inputs.flatten(1)).relu()).relu())


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 12, 3)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden, self.head = nn.Linear(48, 16), nn.Linear(16, CLASSES)

    def forward(self, inputs):
        features = self.pool(self.second(self.first(inputs).relu()).relu()).flatten(1)
        return self.head(self.hidden(features).relu())


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is a strided convolution where the sizes change."""

    def __init__(self, into, out, stride=1):
        super().__init__()
        self.first, self.norm = nn.Conv2d(into, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out)
        self.second, self.last = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, inputs):
        return (self.shortcut(inputs) + self.last(self.second(self.norm(self.first(inputs)).relu()))).relu()


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Residual(8, 8), Residual(8, 12, stride=2))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, inputs):
        return self.head(self.blocks(self.norm(self.stem(inputs)).relu()).mean((2, 3)))


class Inverted(nn.Module):
    """Narrow, wide, narrow; with the input added where the sizes stay."""

    def __init__(self, into, wide, out, stride=1):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(into, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out))
        self.adds = into == out and stride == 1

    def forward(self, inputs):
        features = self.project(self.depthwise(self.expand(inputs)))
        return inputs + features if self.adds else features


class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.blocks = nn.Sequential(Inverted(8, 24, 8), Inverted(8, 24, 12, stride=2))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, inputs):
        return self.head(self.blocks(self.stem(inputs)).mean((2, 3)))


class Tokens(nn.Module):
    """Takes a dict, returns an object with ``logits``."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(16, 12)
        self.hidden, self.head = nn.Linear(12, 20), nn.Linear(20, CLASSES)

    def forward(self, ids, mask):
        features = self.hidden(self.embedding(ids)).relu() * mask.unsqueeze(2)
        return SimpleNamespace(logits=self.head(features.sum(1) / mask.sum(1, keepdim=True)), ids=ids)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.place = nn.Parameter(torch.randn(1, 8, 16) * 0.1)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, inputs):
        return self.head(self.encoder(self.embed(inputs.squeeze(1)) + self.place).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.lstm = nn.LSTM(12, 16, num_layers=2, batch_first=True)
        self.hidden, self.head = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, inputs):
        return self.head(self.hidden(self.lstm(self.embed(inputs.squeeze(1)))[0][:, -1]).relu())


class Gru(nn.Module):
    """Reads the last state of its upper layer."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(8, 16, num_layers=2, batch_first=True)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, inputs):
        return self.head(self.gru(inputs.squeeze(1))[1][-1])


class Bidirectional(nn.Module):
    """Reads the mean over time of both directions, through a norm."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 12, num_layers=2, bidirectional=True)
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, CLASSES)

    def forward(self, inputs):
        return self.head(self.norm(self.lstm(inputs.squeeze(1).transpose(0, 1))[0].mean(0)))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.again = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.again.weight = self.middle.weight
        self.wide, self.head = nn.Linear(16, 24), nn.Linear(24, CLASSES)

    def forward(self, inputs):
        features = self.first(inputs.flatten(1)).relu()
        return self.head(self.wide(self.again(self.middle(features).relu()).relu()).relu())


class TiedEmbedding(nn.Module):
    """An embedding whose weight scores the tokens too."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden, self.back = nn.Embedding(16, 12), nn.Linear(12, 20), nn.Linear(20, 12)
        self.scores, self.head = nn.Linear(12, 16), nn.Linear(16, CLASSES)
        self.scores.weight = self.embedding.weight

    def forward(self, ids, mask):
        features = (self.embedding(ids) * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
        return self.head(self.scores(self.back(self.hidden(features).relu())).relu())


class Scaled(nn.Module):
    """A layer of the user's own, with a matrix that no layer of torch.nn holds."""

    def __init__(self):
        super().__init__()
        self.factors = nn.Parameter(torch.randn(8, 8))

    def forward(self, inputs):
        return inputs * self.factors


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.hidden, self.head = Scaled(), nn.Linear(64, 16), nn.Linear(16, CLASSES)

    def forward(self, inputs):
        return self.head(self.hidden(self.own(inputs).flatten(1)).relu())


class Listed(nn.Module):
    """Keeps its numbers in lists of parameters."""

    def __init__(self):
        super().__init__()
        self.places = nn.ParameterList([torch.randn(4, 8), torch.randn(4, 8), torch.tensor(1.0)])
        self.scales = nn.ParameterDict({"first": torch.randn(8), "second": torch.randn(1, 8)})
        self.head = nn.Linear(64, CLASSES)

    def forward(self, inputs):
        halves = inputs.squeeze(1).chunk(2, 1)
        parts = [half * place for half, place in zip(halves, self.places[:2], strict=True)]
        scaled = torch.cat(parts, 1) * self.scales["first"] + self.scales["second"]
        return self.head(scaled.flatten(1)) * self.places[2]


IMAGES = (Mlp, LeNet, ResNet, MobileNet)
SEQUENCES = (Tokens, Transformer, Recurrent, Gru, Bidirectional)
MODELS = {kind.__name__.lower(): kind for kind in (*IMAGES, *SEQUENCES, Tied, TiedEmbedding, Own, Listed)}


def build(kind):
    return MODELS[kind]()


class Data:
    """A pattern per class with noise on it; images ``(1, 8, 8)``, or tokens that are more often the class's own."""

    def __init__(self, split, kind):
        count = SIZES[split]
        random = torch.Generator().manual_seed(sorted(SIZES).index(split))
        patterns = torch.randn(CLASSES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
        self.targets = torch.arange(count) % CLASSES
        if kind in ("tokens", "tiedembedding"):
            noise = torch.randint(0, 16, (count, 6), generator=random)
            own = torch.rand(count, 6, generator=random) < 0.6
            ids = torch.where(own, self.targets[:, None] * 4 + noise % 4, noise)
            mask = torch.ones(count, 6)
            mask[:, 5] = (torch.rand(count, generator=random) < 0.5).float()
            self.inputs = [{"ids": ids[index], "mask": mask[index]} for index in range(count)]
        else:
            self.inputs = patterns[self.targets] + torch.randn(count, 1, SIDE, SIDE, generator=random)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.inputs[index], int(self.targets[index])


class Restless:
    """The same examples with noise that is drawn anew at each reading."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image, target = self.data[index]
        return image + torch.randn(image.shape), target


def restless(split, kind):
    return Restless(Data(split, kind))


def regression(split, kind):
    return [(image, torch.tensor([float(image.mean())])) for image, _ in (Data(split, kind)[i] for i in range(64))]


def load(split, kind):
    return Data(split, kind)


def padded(examples):
    """Tokens cut where the mask ends, and padded to the longest of the batch."""
    ids = [inputs["ids"][: int(inputs["mask"].sum())] for inputs, _ in examples]
    ids = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return {"ids": ids, "mask": (ids > 0).float()}, torch.tensor([target for _, target in examples])


def zero_headed():
    """An MLP whose last layer begins with zeros."""
    model = Mlp()
    nn.init.zeros_(model.head.weight)
    return model


def one_output(kind):
    model = MODELS[kind]()
    model.head = nn.Linear(model.head.in_features, 1)
    return model


class OneNumber(Mlp):
    """Answers ``(N,)``."""

    def forward(self, inputs):
        return super().forward(inputs)[:, 0]


def one_number(kind):
    return OneNumber()
