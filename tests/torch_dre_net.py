"""DRE-Net in PyTorch, with the ResNet-18 of torchvision as its body and without dropout."""

import numpy as np
import torch
from torch import nn

from benchmarks.torch_resnet import ResNet18

SIDE, MARGIN = 448, 224


def resized(part, side):
    """One part [C, h, w] -> [1, C, side, side]."""
    size = (side, side)
    return nn.functional.interpolate(part[None], size, mode='bilinear', align_corners=True)


class DRENet(nn.Module):
    """The network; parts_of(scores) -> [(index of a score, box in pixels)] chooses the parts."""

    def __init__(self, classes, parts_of):
        super().__init__()
        self.parts_of = parts_of
        self.body = ResNet18()
        self.body.fc = nn.Identity()
        self.down1 = nn.Conv2d(512, 128, 3, 1, 1)
        self.down2 = nn.Conv2d(128, 128, 3, 2, 1)
        self.down3 = nn.Conv2d(128, 128, 3, 2, 1)
        self.score1, self.score2, self.score3 = (nn.Conv2d(128, 1, 1) for _ in range(3))
        self.whole_head = nn.Linear(512, classes)
        self.part_head = nn.Linear(512, classes)
        self.head = nn.Linear(8 * 512, classes)

    def map_of(self, x):
        body = self.body
        x = body.maxpool(torch.relu(body.bn1(body.conv1(x))))
        return body.layer4(body.layer3(body.layer2(body.layer1(x))))

    def scores(self, last):
        found = []
        for i in (1, 2, 3):
            last = torch.relu(getattr(self, f'down{i}')(last))
            found.append(getattr(self, f'score{i}')(last).flatten(1))
        return torch.cat(found, 1)

    def forward(self, x):
        """[B, 3, 448, 448] -> logits of all, of the whole, of the parts, and their scores."""
        last = self.map_of(x)
        scores = self.scores(last)
        padded = nn.functional.pad(x, (MARGIN,) * 4)
        parts, enlarged, taken = [], [], []
        for i, values in enumerate(scores.detach().numpy()):
            chosen = self.parts_of(values)
            taken.append([j for j, _ in chosen])
            for _, box in chosen:
                top, left, bottom, right = box + MARGIN
                parts.append(resized(padded[i, :, top:bottom, left:right], SIDE // 2))
            top, left, bottom, right = np.clip(chosen[3][1], 0, SIDE)
            enlarged.append(resized(x[i, :, top:bottom, left:right], SIDE))
        of_parts = self.body(torch.cat(parts)).reshape(len(x), 6, -1)
        of_whole, of_enlarged = last.mean((2, 3)), self.body(torch.cat(enlarged))
        together = torch.cat([of_whole, of_parts.flatten(1), of_enlarged], 1)
        whole, heads = self.whole_head(of_whole), self.part_head(of_parts)
        return self.head(together), whole, heads, scores.gather(1, torch.tensor(taken))
